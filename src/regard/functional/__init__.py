"""Pure functions: the mathematics of attention, without state. Every boolean mask says True = takes part."""

from regard.functional.scores import additive_scores
from regard.functional.weights import masked_softmax, read, scaled_dot_product_attention, scaled_dot_product_weights

__all__ = [
    "additive_scores",
    "masked_softmax",
    "read",
    "scaled_dot_product_attention",
    "scaled_dot_product_weights",
]
