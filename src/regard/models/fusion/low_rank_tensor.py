"""Low-rank tensor fusion."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper
from regard.models.fusion.contract import Fusion, Level, Modality, head, pool_all, pools
from regard.models.fusion.outcome import Outcome


class LowRankTensorFusion(Fusion):
    """Low-rank tensor fusion, LMF: a linear layer of rank `R` behind the outer product, which is never formed.

        h = Σ_r Π_m W_m^(r)ᵀ [v_m; 1];  logits = mlp(h)

    Paper: Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency, "Efficient Low-rank Multimodal Fusion with
    Modality-Specific Factors", ACL 2018.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        rank: the rank `R`; default 4, the paper's choice.
    """

    name: ClassVar[str] = "low_rank_tensor"
    level: ClassVar[Level] = "feature"
    paper: ClassVar[Paper | None] = Paper(
        "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors", "Liu et al.", "ACL", 2018
    )

    def __init__(
        self, widths: Mapping[str, int], outcome: int | Outcome, width: int = 64, dropout: float = 0.0, rank: int = 4
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        if rank < 1:
            raise ValueError(f"rank={rank} is less than one: give a positive number.")
        self.rank = rank
        self.pools = pools(self.widths, width)
        # Around a factor of one through its last row, so that a product of many neither vanishes nor explodes.
        factors = torch.randn(len(self.widths), rank, width + 1, width) * width**-0.5
        factors[:, :, -1] = 1.0
        self.factors = nn.Parameter(factors)
        self.head = head(width, 2 * width, self.outcome.size, self.dropout)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        return self.head(functional.low_rank_tensor_fusion(pool_all(self.pools, modalities), list(self.factors)))
