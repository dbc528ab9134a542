"""Block-superdiagonal bilinear fusion."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper
from regard.attention.multimodal.block_bilinear import BlockLinear
from regard.models.fusion.bilinear import BilinearFusion, unit
from regard.models.fusion.outcome import Outcome


class BlockBilinear(BilinearFusion):
    """BLOCK: a tensor that is zero but for blocks on its superdiagonal, each with slices of rank `R`.

        z^p = Σ_r (C^p_1,r u^p_1) ∘ ... ∘ (C^p_M,r u^p_M) with u_m = U_m v_m cut into the parts p = 1..P
        logits = L [n(z^1); ...; n(z^P)] with n(z) = s / |s|₂, s = sign(z) √|z|

    Paper: Ben-younes, Cadene, Thome, Cord, "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and
    Visual Relationship Detection", AAAI 2019, with the normalisation `n` of the authors' code; for more than two
    modalities the product goes on.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        joint_width: width of the product; `blocks` divides it.
        blocks: how many parts `P`.
        rank: the rank `R` of a slice of a block; default 15, as in the authors' code.
    """

    name: ClassVar[str] = "block_bilinear"
    paper: ClassVar[Paper | None] = Paper(
        "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and Visual Relationship Detection",
        "Ben-younes et al.",
        "AAAI",
        2019,
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        joint_width: int = 128,
        blocks: int = 8,
        rank: int = 15,
    ) -> None:
        if blocks < 1 or joint_width % blocks:
            raise ValueError(f"{blocks} blocks do not divide joint_width={joint_width}: choose blocks that do.")
        self.blocks = blocks
        super().__init__(widths, outcome, width, dropout, joint_width, rank)

    def factor(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.width, self.joint_width),
            nn.Unflatten(1, (1, self.joint_width)),  # the one token that BlockLinear wants
            BlockLinear(self.blocks, self.joint_width // self.blocks, self.rank, bias=True),
        )

    def finish(self, product: Float[Tensor, "B J"]) -> Float[Tensor, "B J"]:
        parts = functional.signed_root(product).unflatten(1, (self.blocks, -1))  # (B, P, J / P)
        return unit(parts).flatten(1)
