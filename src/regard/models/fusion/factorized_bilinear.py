"""Factorized bilinear fusion."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper
from regard.models.fusion.bilinear import BilinearFusion, unit
from regard.models.fusion.outcome import Outcome


class FactorizedBilinear(BilinearFusion):
    """MFB: products summed over `R` factors, then a signed square root and division by the l2 norm.

        z = Σ_r (U_1,r v_1) ∘ ... ∘ (U_M,r v_M);  P (s / |s|₂) with s = sign(z) √|z|

    Paper: Yu, Yu, Fan, Tao, "Multi-modal Factorized Bilinear Pooling with Co-attention Learning for Visual Question
    Answering", ICCV 2017; for more than two modalities the product goes on.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        joint_width: width of the product.
        rank: how many factors `R` are summed; default 5, the paper's choice.
    """

    name: ClassVar[str] = "factorized_bilinear"
    paper: ClassVar[Paper | None] = Paper(
        "Multi-modal Factorized Bilinear Pooling with Co-attention Learning for Visual Question Answering",
        "Yu et al.",
        "ICCV",
        2017,
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        joint_width: int = 128,
        rank: int = 5,
    ) -> None:
        super().__init__(widths, outcome, width, dropout, joint_width, rank)

    def factor(self) -> nn.Module:
        return nn.Linear(self.width, self.rank * self.joint_width)

    def finish(self, product: Float[Tensor, "B J"]) -> Float[Tensor, "B J"]:
        return unit(functional.signed_root(product))
