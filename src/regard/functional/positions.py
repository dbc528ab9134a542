"""Positions of a map: one number for each of them, their weighted sum, and how pairs of them fit."""

import torch
from jaxtyping import Float
from torch import Tensor


def position_scores(
    x: Float[Tensor, "B C *spatial"], weight: Float[Tensor, "1 C"], bias: Float[Tensor, " 1"]
) -> Float[Tensor, "B *spatial"]:
    """`w·x_p + b` at every position: a convolution of size one to one channel, as a product that copies no map."""
    scores = torch.bmm(weight.expand(x.shape[0], 1, -1), x.flatten(2))[:, 0] + bias  # (B, N)
    return scores.unflatten(1, x.shape[2:])


def position_sum(x: Float[Tensor, "B C *spatial"], weights: Float[Tensor, "B *spatial"]) -> Float[Tensor, "B C"]:
    """`Σ_p weights_p x_p`: the whole map read once."""
    return torch.bmm(x.flatten(2), weights.flatten(1)[:, :, None])[:, :, 0]


def mean_dot_weights(query: Float[Tensor, "B T d"], key: Float[Tensor, "B N d"]) -> Float[Tensor, "B T N"]:
    """`q_t·k_n / N`: pairwise dot products without a softmax (Wang et al. 2018, equation 4)."""
    return torch.bmm(query, key.transpose(1, 2)) / key.shape[1]


def mean_dot_read(
    query: Float[Tensor, "B T d"], key: Float[Tensor, "B N d"], value: Float[Tensor, "B N e"]
) -> Float[Tensor, "B T e"]:
    """What `mean_dot_weights` reads from `value`, in the order that never forms the pairs: `q (kᵀ v) / N`."""
    return torch.bmm(query, torch.bmm(key.transpose(1, 2), value) / key.shape[1])


def mean_sum_weights(query: Float[Tensor, "B T"], key: Float[Tensor, "B N"]) -> Float[Tensor, "B T N"]:
    """`relu(q_t + k_n) / N`: the concatenation form, of parts already projected (Wang et al. 2018, equation 5)."""
    return (query[:, :, None] + key[:, None]).relu() / key.shape[1]
