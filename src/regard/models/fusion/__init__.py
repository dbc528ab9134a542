"""Fusion of any of text, pictures, sound, video, numbers and categories: a table in, a predictor out.

    from regard.models.fusion import fit

    predictor = fit("posts.csv", target="label", fusion="bottleneck")    # columns: text, paths, numbers, categories
    predictor.evaluate("more_posts.csv")
    print(predictor.robustness("more_posts.csv"))
    predictor.save("predictor")

A target of numbers is regressed on. `train_fusions`, and `regard train fusion`, train several on the same rows;
`predictor.explain` says what one prediction rests on.

`fusions` is the table of what can be chosen, at feature, decision and model level. Each is a module of its own as well:
tokens, masks and what is present in, logits out, whatever encoders the tokens come from.
"""

from regard.models.fusion.block_bilinear import BlockBilinear
from regard.models.fusion.bottleneck import Bottleneck
from regard.models.fusion.concatenation import Concatenation
from regard.models.fusion.contract import Fusion, drop_modalities
from regard.models.fusion.cross_attention import CrossAttention
from regard.models.fusion.directed_pairs import DirectedPairs
from regard.models.fusion.factorized_bilinear import FactorizedBilinear
from regard.models.fusion.fitting import fit
from regard.models.fusion.gated import Gated
from regard.models.fusion.gradient_blending import GradientBlending, blending_weights
from regard.models.fusion.low_rank_bilinear import LowRankBilinear
from regard.models.fusion.low_rank_tensor import LowRankTensorFusion
from regard.models.fusion.outcome import Classes, Number, Outcome
from regard.models.fusion.perceiver import Perceiver
from regard.models.fusion.predictor import Predictor
from regard.models.fusion.robustness import Robustness
from regard.models.fusion.runs import evaluate_fusion, is_fusion, train_fusions
from regard.models.fusion.stacking import Stacking
from regard.models.fusion.table import fusions
from regard.models.fusion.tensor import TensorFusion
from regard.models.fusion.tucker import Tucker
from regard.models.fusion.vote import Vote

__all__ = [
    "BlockBilinear",
    "Bottleneck",
    "Classes",
    "Concatenation",
    "CrossAttention",
    "DirectedPairs",
    "FactorizedBilinear",
    "Fusion",
    "Gated",
    "GradientBlending",
    "LowRankBilinear",
    "LowRankTensorFusion",
    "Number",
    "Outcome",
    "Perceiver",
    "Predictor",
    "Robustness",
    "Stacking",
    "TensorFusion",
    "Tucker",
    "Vote",
    "blending_weights",
    "drop_modalities",
    "evaluate_fusion",
    "fit",
    "fusions",
    "is_fusion",
    "train_fusions",
]
