"""What fusions at model level are made of."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.context import MultiHeadSelfAttention
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


class Block(nn.Module):
    """A pre-norm transformer block: `x <- x + self_attention(norm(x)); x <- x + mlp(norm(x))`.

    Args:
        width: width `W` of a token.
        heads: number of heads; default the largest divisor of the width up to 8.
        expansion: how many times as wide the hidden layer is.
    """

    def __init__(self, width: int, heads: int | None = None, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadSelfAttention(width, choose_heads(width, heads, 8))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )

    def forward(self, x: Float[Tensor, "B N W"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B N W"]:
        x = x + self.attention(self.norm(x), mask)
        return x + self.mlp(x)


def places(length: int, width: int, like: Float[Tensor, "..."]) -> Float[Tensor, "{length} {width}"]:
    """Sinusoids of the places 0 to `length - 1`."""
    return functional.sinusoids(length, -(-width // 2), like)[length - 1 :, :width]
