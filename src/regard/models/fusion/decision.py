"""What fusions at decision level share: a classifier for each modality, trained as if there were no other."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from regard.models.fusion.contract import Examples, Fusion, Level, Modality, head, pool_all, pools
from regard.models.fusion.outcome import Outcome


def losses_of_each(
    outcome: Outcome, logits: Float[Tensor, "B M K"], there: Bool[Tensor, "B M"], target: Num[Tensor, " B"]
) -> Float[Tensor, " M"]:
    """Each predictor's mean loss over the examples that have its modality; of none it is zero."""
    each = outcome.loss(logits, target[:, None].expand(there.shape)).where(there, 0.0)
    return each.sum(0) / there.sum(0).clamp_min(1)


class DecisionFusion(Fusion):
    """One classifier for each modality, and a rule that makes one decision of theirs.

    The loss is the mean of the classifiers' own losses, each over the examples that have its modality; training keeps
    each classifier, with its encoder, as it was after the epoch that was its best.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
    """

    level: ClassVar[Level] = "decision"
    apart: ClassVar[bool] = True

    def __init__(
        self, widths: Mapping[str, int], outcome: int | Outcome, width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        self.pools = pools(self.widths, width)
        self.heads = nn.ModuleList(head(width, width, self.outcome.size, self.dropout) for _ in self.widths)

    def decide(self, modalities: list[Modality]) -> tuple[Float[Tensor, "B M K"], Bool[Tensor, "B M"]]:
        """Every classifier's logits, zero where its modality is missing, and whether it is there."""
        vectors = pool_all(self.pools, modalities)
        there = torch.stack([modality.present for modality in modalities], 1)
        logits = torch.stack([head(vector) for head, vector in zip(self.heads, vectors, strict=True)], 1)
        return logits.masked_fill(~there[..., None], 0.0), there

    def each_loss(self, target: Num[Tensor, " B"], modalities: list[Modality]) -> Float[Tensor, " M"]:
        return losses_of_each(self.outcome, *self.decide(modalities), target)

    def parts(self) -> list[tuple[str, ...]]:
        return [(f"pools.{m}.", f"heads.{m}.") for m in range(len(self.widths))]

    def decisions(self, held: Examples) -> tuple[Float[Tensor, "S M K"], Bool[Tensor, "S M"], Num[Tensor, " S"]] | None:
        """What the classifiers say of all these examples, without gradients; None where there is not a single one."""
        with torch.no_grad():
            found = [(*self.decide(self.clean(each.tokens, each.masks, each.present)), each.target) for each in held()]
        if not found:
            return None
        logits, there, target = (torch.cat(parts) for parts in zip(*found, strict=True))
        return logits, there, target
