"""Pure functions: the mathematics of attention, without state. Every boolean mask says True = takes part."""

from regard.functional.choice import draw, masked_log_softmax, score_function_loss, standard_exponential
from regard.functional.gates import coordinate_means, energy_gate, spread
from regard.functional.grid import affine_grid, footprint
from regard.functional.positions import mean_dot_read, mean_dot_weights, mean_sum_weights, position_scores, position_sum
from regard.functional.scores import additive_scores, dot_scores
from regard.functional.weights import masked_softmax, read, scaled_dot_product_attention, scaled_dot_product_weights

__all__ = [
    "additive_scores",
    "affine_grid",
    "coordinate_means",
    "dot_scores",
    "draw",
    "energy_gate",
    "footprint",
    "masked_log_softmax",
    "masked_softmax",
    "mean_dot_read",
    "mean_dot_weights",
    "mean_sum_weights",
    "position_scores",
    "position_sum",
    "read",
    "scaled_dot_product_attention",
    "scaled_dot_product_weights",
    "score_function_loss",
    "spread",
    "standard_exponential",
]
