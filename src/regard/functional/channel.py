"""Channels of a map that read each other."""

import torch
from jaxtyping import Float
from torch import Tensor

from regard.functional.precision import at_least_single


def channel_attention(x: Float[Tensor, "B C *spatial"], dissimilar: bool = False) -> Float[Tensor, "B C C"]:
    """Softmax over `i` of `x_j · x_i`, the products over all positions (Fu et al. 2019, equation 3).

    The products are computed in at least single precision: half does not hold the sums of squares of a map.

    Args:
        dissimilar: softmax of `max_i (x_j · x_i) - x_j · x_i` instead, of which the maximum cancels.
    """
    vectors = at_least_single(x.flatten(2))  # (B, C, N)
    energy = torch.bmm(vectors, vectors.transpose(1, 2))  # (B, C, C)
    return (-energy if dissimilar else energy).softmax(2).to(x.dtype)
