"""What the models of the zoo are run on: noise and numbers, the same each time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# `Any`: a model takes what it takes.
Built = tuple[nn.Module, tuple[Any, ...] | dict[str, Any]]
"""A model and what it is run on: positional or named inputs."""

Build = Callable[[], Built]


def image(*shape: int) -> Tensor:
    """Noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def pair(size: int) -> Tensor:
    """Two square images."""
    return image(2, 3, size, size)


def words(length: int = 7) -> Tensor:
    """Two sentences of numbers of words, from 3 on: those below often mark the beginning and the end."""
    return torch.arange(3, 3 + 2 * length).view(2, length)
