"""Low-rank bilinear fusion."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.fusion.bilinear import BilinearFusion
from regard.models.fusion.outcome import Outcome


class LowRankBilinear(BilinearFusion):
    """MLB: `P ((1 + tanh(U_1 v_1)) ∘ ... ∘ (1 + tanh(U_M v_M)))`.

    Paper: Kim, On, Lim, Kim, Ha, Zhang, "Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017; for more than two
    modalities the product goes on. The ones are not the paper's, which has two modalities: with them the product holds
    those of every subset, as the tensor fusion network's does, and a missing modality, whose tanh is zero, drops out.
    Without them a product of many small factors vanishes, and what each modality says alone with it.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        joint_width: the rank, width of the product.
    """

    name: ClassVar[str] = "low_rank_bilinear"
    paper: ClassVar[Paper | None] = Paper("Hadamard Product for Low-rank Bilinear Pooling", "Kim et al.", "ICLR", 2017)

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        joint_width: int = 128,
    ) -> None:
        super().__init__(widths, outcome, width, dropout, joint_width, rank=1)

    def factor(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.width, self.joint_width), OnePlusTanh())


class OnePlusTanh(nn.Module):
    """`1 + tanh(x)`."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1 + x.tanh()
