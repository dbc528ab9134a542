"""Half precision: which sums and squares are computed in a wider type."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_single(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the tensor in single precision, or as it is if it is no half.

    For squares, products and sums over positions: float16 ends at 65504, which the squares of 256 exceed, and the sum
    of a map of 64 by 64 positions whose values are 16.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
