"""Channels of a map that read each other."""

import torch
from jaxtyping import Float
from torch import Tensor


def channel_attention(x: Float[Tensor, "B C *spatial"], dissimilar: bool = False) -> Float[Tensor, "B C C"]:
    """Softmax over `i` of `x_j · x_i`, the products over all positions (Fu et al. 2019, equation 3).

    Args:
        dissimilar: softmax of `max_i (x_j · x_i) - x_j · x_i` instead, of which the maximum cancels.
    """
    vectors = x.flatten(2)  # (B, C, N)
    energy = torch.bmm(vectors, vectors.transpose(1, 2))  # (B, C, C)
    return (-energy if dissimilar else energy).softmax(2)
