"""Tensor fusion."""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from regard import functional
from regard.attention.contract import Paper
from regard.models.fusion.contract import Fusion, Level, Modality, head, pool_all, pools
from regard.models.fusion.outcome import Outcome

LARGEST = 20_000
"""Most entries of the outer product."""


class TensorFusion(Fusion):
    """Tensor fusion network: the outer product of all modalities, each with a one behind it, then a network.

        logits = mlp([v_1; 1] ⊗ ... ⊗ [v_M; 1])

    It holds the products of every subset of the modalities; of a missing one the 1 alone is left. The network begins
    with a layer norm, as every fusion's here: next to the last entry, 1, the products are small.

    Paper: Zadeh, Chen, Poria, Cambria, Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        factor_width: width of a vector in the product, which has `(factor_width + 1)^M` entries; default the largest
            up to 16 with which these are at most 4,096.
    """

    name: ClassVar[str] = "tensor"
    level: ClassVar[Level] = "feature"
    paper: ClassVar[Paper | None] = Paper(
        "Tensor Fusion Network for Multimodal Sentiment Analysis", "Zadeh et al.", "EMNLP", 2017
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        factor_width: int | None = None,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        count = len(self.widths)
        if factor_width is None:
            factor_width = max((wide for wide in range(1, 17) if (wide + 1) ** count <= 4096), default=1)
        if factor_width < 1 or (factor_width + 1) ** count > LARGEST:
            raise ValueError(
                f"the outer product of {count} vectors of factor_width={factor_width} and a one has "
                f"{(factor_width + 1) ** count:,} entries, expected at most {LARGEST:,}: choose a smaller "
                "factor_width, or fusion='low_rank_tensor', which never forms it."
            )
        self.factor_width = factor_width
        self.pools = pools(self.widths, factor_width)
        self.head = head((factor_width + 1) ** count, 2 * width, self.outcome.size, self.dropout)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        return self.head(functional.tensor_fusion(*pool_all(self.pools, modalities)))
