"""Concatenation."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.models.fusion.contract import Fusion, Level, Modality, head, pool_all, pools
from regard.models.fusion.outcome import Outcome


class Concatenation(Fusion):
    """The pooled modalities side by side, then a network of one hidden layer.

        h = mlp([v_1; ...; v_M]) with v_m = pool(x_m), or a learned vector where modality m is missing

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
    """

    name: ClassVar[str] = "concatenation"
    level: ClassVar[Level] = "feature"

    def __init__(
        self, widths: Mapping[str, int], outcome: int | Outcome, width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        self.pools = pools(self.widths, width)
        self.absent = nn.Parameter(torch.zeros(len(self.widths), width))
        self.head = head(width * len(self.widths), 2 * width, self.outcome.size, self.dropout)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        return self.join(pool_all(self.pools, modalities), modalities)

    def join(self, vectors: list[Float[Tensor, "B W"]], modalities: list[Modality]) -> Float[Tensor, "B K"]:
        """The logits from what the pools made of the modalities."""
        there = torch.stack([modality.present for modality in modalities], 1)[..., None]  # (B, M, 1)
        return self.head(torch.where(there, torch.stack(vectors, 1), self.absent).flatten(1))
