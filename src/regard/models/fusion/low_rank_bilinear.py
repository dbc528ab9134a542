"""Low-rank bilinear fusion."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from regard.attention.contract import Paper
from regard.models.fusion.bilinear import BilinearFusion, around_one


class LowRankBilinear(BilinearFusion):
    """MLB: `logits = P (tanh(U_1 v_1) ∘ ... ∘ tanh(U_M v_M))`.

    Paper: Kim, On, Lim, Kim, Ha, Zhang, "Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017; for more than two
    modalities the product goes on.

    Args:
        widths, classes, width, dropout: as every `Fusion`.
        joint_width: the rank, width of the product.
    """

    name: ClassVar[str] = "low_rank_bilinear"
    paper: ClassVar[Paper | None] = Paper("Hadamard Product for Low-rank Bilinear Pooling", "Kim et al.", "ICLR", 2017)

    def __init__(
        self,
        widths: Mapping[str, int],
        classes: int,
        width: int = 64,
        dropout: float = 0.0,
        joint_width: int = 128,
    ) -> None:
        super().__init__(widths, classes, width, dropout, joint_width, rank=1)

    def factor(self) -> nn.Module:
        return nn.Sequential(around_one(nn.Linear(self.width, self.joint_width)), nn.Tanh())
