"""Gates over channels, positions and single values."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from regard.functional.precision import at_least_single


def spread(vector: Float[Tensor, "B C"], x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *ones"]:
    """One number a channel, with an axis of size one for each spatial axis of `x`, to multiply or add to it."""
    return vector.reshape(*vector.shape, *[1] * (x.ndim - 2))


def coordinate_means(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H+W"]:
    """The mean of every row, then the mean of every column (Hou et al. 2021, equations 4 and 5)."""
    return torch.cat((x.mean(3), x.mean(2)), dim=2)


def energy_gate(x: Float[Tensor, "B C *spatial"], regularization: float) -> Float[Tensor, "B C *spatial"]:
    """`sigmoid(1/e)`, where `1/e = (x - μ)² / (4 (σ² + λ)) + 1/2` is high for values that stand out in their channel.

    The variance is over `N - 1` positions (Yang et al. 2021, the paper's listing); of a single position it is zero.

    Args:
        regularization: λ.
    """
    positions = tuple(range(2, x.ndim))
    square = at_least_single(x - x.mean(dim=positions, keepdim=True)).square()  # (B, C, *spatial)
    freedom = math.prod(x.shape[2:]) - 1 or 1  # Size.numel would fix the size in an exported graph
    variance = square.sum(dim=positions, keepdim=True) / freedom  # (B, C, *ones)
    return (square / (4 * (variance + regularization)) + 0.5).sigmoid().to(x.dtype)


def peak_and_mean(x: Float[Tensor, "B ..."], dim: int) -> Float[Tensor, "B 2 ..."]:
    """The maximum and the mean over one axis, as two channels: what is left of a map to gate its other axes with.

    Channels last in memory, where a convolution of two channels is fastest.
    """
    return torch.stack((x.amax(dim), x.mean(dim)), dim=-1).movedim(-1, 1)
