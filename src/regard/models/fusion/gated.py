"""Gated fusion."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.fusion.contract import Fusion, Level, Modality, head, pool_all, pools
from regard.models.fusion.outcome import Outcome


class Gated(Fusion):
    """Gated multimodal unit: every entry of the fused vector takes from each modality what a gate lets through.

        h = Σ_m z_m ∘ tanh(W_m v_m) with z_m = σ(Y_m [v_1; ...; v_M])

    A missing modality is left out of the sum, and is zero in the gates.

    Paper: Arevalo, Solorio, Montes-y-Gómez, González, "Gated Multimodal Units for Information Fusion", ICLR 2017
    workshop, in its form for more than two modalities (figure 2a).

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
    """

    name: ClassVar[str] = "gated"
    level: ClassVar[Level] = "feature"
    paper: ClassVar[Paper | None] = Paper(
        "Gated Multimodal Units for Information Fusion", "Arevalo et al.", "ICLR workshop", 2017
    )

    def __init__(
        self, widths: Mapping[str, int], outcome: int | Outcome, width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        self.pools = pools(self.widths, width)
        self.values = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in self.widths)
        self.gates = nn.Linear(width * len(self.widths), width * len(self.widths), bias=False)
        self.head = head(width, 2 * width, self.outcome.size, self.dropout)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        vectors = pool_all(self.pools, modalities)
        # tanh(W 0) = 0: a missing modality adds nothing to the sum
        values = torch.stack([value(v).tanh() for value, v in zip(self.values, vectors, strict=True)], 1)  # (B, M, W)
        gates = self.gates(torch.cat(vectors, 1)).sigmoid().unflatten(1, (-1, self.width))  # (B, M, W)
        return self.head((gates * values).sum(1))
