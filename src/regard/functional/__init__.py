"""Pure functions: the mathematics of attention, without state. Every boolean mask says True = takes part."""

from regard.functional.channel import channel_attention
from regard.functional.choice import (
    draw,
    gumbel_softmax,
    masked_log_softmax,
    score_function_loss,
    standard_exponential,
)
from regard.functional.factorize import nonnegative_factors
from regard.functional.features import causal_mask, causal_product, elu_features, feature_read, feature_weights
from regard.functional.fusion import (
    compact_bilinear,
    count_sketch,
    low_rank_fusion,
    low_rank_pairs,
    low_rank_scores,
    low_rank_tensor_fusion,
    signed_root,
    tensor_fusion,
)
from regard.functional.gates import coordinate_means, energy_gate, peak_and_mean, spread
from regard.functional.grid import affine_grid, box_transform, footprint, linear_shares
from regard.functional.grouping import largest_divisor
from regard.functional.lines import line_map, line_read, line_weights
from regard.functional.own_token import masked_mean, own_token_weights
from regard.functional.positions import mean_dot_read, mean_dot_weights, mean_sum_weights, position_scores, position_sum
from regard.functional.precision import at_least_single
from regard.functional.relative import relative_scores, sinusoids
from regard.functional.samplewise import convolve_each, mix
from regard.functional.scores import additive_scores, dot_scores
from regard.functional.simplex import entmax
from regard.functional.weights import (
    doubly_stochastic_penalty,
    exclude_nonfinite,
    exclude_nonfinite_causal,
    mark_undefined,
    mask_nonfinite,
    mask_tokens,
    masked_softmax,
    read,
    reads_some,
    scaled_dot_product_attention,
    scaled_dot_product_weights,
)
from regard.functional.windows import (
    cut_windows,
    join_windows,
    relative_positions,
    shifted_window_mask,
    window_positions,
)

__all__ = [
    "additive_scores",
    "affine_grid",
    "at_least_single",
    "box_transform",
    "causal_mask",
    "causal_product",
    "channel_attention",
    "compact_bilinear",
    "convolve_each",
    "coordinate_means",
    "count_sketch",
    "cut_windows",
    "dot_scores",
    "doubly_stochastic_penalty",
    "draw",
    "elu_features",
    "energy_gate",
    "entmax",
    "exclude_nonfinite",
    "exclude_nonfinite_causal",
    "feature_read",
    "feature_weights",
    "footprint",
    "gumbel_softmax",
    "join_windows",
    "largest_divisor",
    "line_map",
    "line_read",
    "line_weights",
    "linear_shares",
    "low_rank_fusion",
    "low_rank_pairs",
    "low_rank_scores",
    "low_rank_tensor_fusion",
    "mark_undefined",
    "mask_nonfinite",
    "mask_tokens",
    "masked_log_softmax",
    "masked_mean",
    "masked_softmax",
    "mean_dot_read",
    "mean_dot_weights",
    "mean_sum_weights",
    "mix",
    "nonnegative_factors",
    "own_token_weights",
    "peak_and_mean",
    "position_scores",
    "position_sum",
    "read",
    "reads_some",
    "relative_positions",
    "relative_scores",
    "scaled_dot_product_attention",
    "scaled_dot_product_weights",
    "score_function_loss",
    "shifted_window_mask",
    "signed_root",
    "sinusoids",
    "spread",
    "standard_exponential",
    "tensor_fusion",
    "window_positions",
]
