"""What the bilinear family shares: a product over the modalities, in which a missing one is a factor of one."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.models.fusion.contract import Fusion, Level, Modality, pool_all, pools
from regard.models.fusion.outcome import Outcome


class BilinearFusion(Fusion):
    """`logits = P f(Σ_r ∘_m F_m,r(v_m))`: the product, entry by entry, of what each modality's factors make of it.

    The papers fuse two vectors; here any number of them are multiplied, and a modality that is missing is left out of
    the product. Without any modality it is a product of nothing: ones.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        joint_width: width `J` of the product.
        rank: how many products `R` are summed.
    """

    level: ClassVar[Level] = "feature"

    def __init__(
        self, widths: Mapping[str, int], outcome: int | Outcome, width: int, dropout: float, joint_width: int, rank: int
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        if joint_width < 1 or rank < 1:
            raise ValueError(f"joint_width={joint_width} and rank={rank}: give positive numbers.")
        self.joint_width = joint_width
        self.rank = rank
        self.pools = pools(self.widths, width)
        self.factors = nn.ModuleList(self.factor() for _ in self.widths)
        self.classify = nn.Linear(joint_width, self.outcome.size)

    @abstractmethod
    def factor(self) -> nn.Module:
        """One modality's part: from its vector `(B, W)` to its factors `(B, R · J)` or `(B, R, J)`."""

    def finish(self, product: Float[Tensor, "B J"]) -> Float[Tensor, "B J"]:
        """What is done to the sum of products before the answer."""
        return product

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        factors = []
        for vector, factor, modality in zip(pool_all(self.pools, modalities), self.factors, modalities, strict=True):
            parts = factor(vector).reshape(-1, self.rank, self.joint_width)  # (B, R, J)
            factors.append(torch.where(modality.present[:, None, None], parts, 1.0))
        return self.classify(self.dropout(self.finish(functional.low_rank_fusion(*factors))))


def around_one(layer: nn.Linear) -> nn.Linear:
    """The layer with biases that begin at one: a product of many small factors, not normalised, would vanish."""
    nn.init.ones_(layer.bias)
    return layer


def unit(x: Float[Tensor, "*lead J"]) -> Float[Tensor, "*lead J"]:
    """`√J x / |x|₂`: the papers' division by the l2 norm, with weights behind it that are smaller by the root of J.

    In the papers' unit entries begin at 1/√J, and behind them a layer of the usual initial size hardly says anything.
    """
    return x.shape[-1] ** 0.5 * F.normalize(x, dim=-1, eps=1e-6)
