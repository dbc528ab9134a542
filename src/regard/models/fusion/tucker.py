"""Multimodal Tucker fusion."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from regard.attention.contract import Paper
from regard.models.fusion.bilinear import BilinearFusion, around_one
from regard.models.fusion.outcome import Outcome


class Tucker(BilinearFusion):
    """MUTAN: a Tucker decomposition whose core has slices of rank `R`.

        logits = P Σ_r (C_1,r tanh(U_1 v_1)) ∘ ... ∘ (C_M,r tanh(U_M v_M))

    Paper: Ben-younes, Cadene, Cord, Thome, "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", ICCV 2017;
    for more than two modalities the product goes on.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        joint_width: width of the product.
        rank: the rank `R` of a slice of the core; default 10, the paper's choice.
    """

    name: ClassVar[str] = "tucker"
    paper: ClassVar[Paper | None] = Paper(
        "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", "Ben-younes et al.", "ICCV", 2017
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        joint_width: int = 64,
        rank: int = 10,
    ) -> None:
        super().__init__(widths, outcome, width, dropout, joint_width, rank)

    def factor(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.width, self.joint_width),
            nn.Tanh(),
            around_one(nn.Linear(self.joint_width, self.rank * self.joint_width)),
        )
