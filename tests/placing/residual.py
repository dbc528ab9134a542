"""A small residual network that tests put attention into."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A block of one convolution with an addition.

    Args:
        channels: of what it takes and gives.
        norm: the normalization behind the convolution; default a `BatchNorm2d`.
    """

    def __init__(self, channels: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels) if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def residual_network(channels: int, classes: int, stride: int = 1) -> nn.Sequential:
    """Return a network of a convolution, two residual blocks and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride),
        Residual(channels),
        Residual(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )
