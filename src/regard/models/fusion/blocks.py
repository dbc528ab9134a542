"""What fusions at model level are made of."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.models.fusion.contract import Modality


class Entry(nn.Module):
    """Tokens of one modality at the fusion's width, with a learned vector that says which modality they are of.

    Args:
        width: width `D` of a token.
        inner: width `W` of the fusion.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.kind = nn.Parameter(torch.randn(inner) * 0.02)

    def forward(self, modality: Modality) -> Float[Tensor, "B N W"]:
        return self.project(modality.tokens) + self.kind


def entries(widths: Mapping[str, int], inner: int) -> nn.ModuleList:
    """An `Entry` for each modality."""
    return nn.ModuleList(Entry(width, inner) for width in widths.values())


def places(length: int, width: int, like: Float[Tensor, "..."]) -> Float[Tensor, "{length} {width}"]:
    """Sinusoids of the places 0 to `length - 1`."""
    return functional.sinusoids(length, -(-width // 2), like)[length - 1 :, :width]
