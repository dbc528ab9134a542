"""Stacking."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.fusion.contract import Examples, Modality, drop_modalities
from regard.models.fusion.decision import DecisionFusion
from regard.models.fusion.outcome import Outcome

STEPS = 400
"""Of the second classifier's training, on all held-out decisions at once."""


class Stacking(DecisionFusion):
    """Stacked generalization: a second classifier learns from the decisions of the modalities' classifiers.

        logits = mlp([log p_1; there_1; ...; log p_M; there_M]) with zeros for a modality that is missing

    It learns on examples that the first classifiers were not trained on, from their decisions and from a copy of these
    in which modalities are dropped, so that it knows what to make of one that is missing.

    Paper: Wolpert, "Stacked generalization", Neural Networks 1992; one held-out part in place of his many folds.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        hidden_width: width of the second classifier's hidden layer.
    """

    name: ClassVar[str] = "stacking"
    paper: ClassVar[Paper | None] = Paper("Stacked generalization", "Wolpert", "Neural Networks", 1992)
    settles: ClassVar[bool] = True
    late: ClassVar[bool] = True

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        hidden_width: int = 32,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        self.second = nn.Sequential(
            nn.Linear(len(self.widths) * (self.outcome.size + 1), hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, self.outcome.size),
        )

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        return self.stack(*self.decide(modalities))

    def stack(self, logits: Float[Tensor, "B M K"], there: Bool[Tensor, "B M"]) -> Float[Tensor, "B K"]:
        """The second classifier's logits from those of the first ones."""
        decisions = self.outcome.evidence(logits).masked_fill(~there[..., None], 0.0)
        return self.second(torch.cat((decisions, there[..., None].to(decisions.dtype)), 2).flatten(1))

    def settle(self, held: Examples) -> None:
        if (found := self.decisions(held)) is None:
            return
        logits, there, target = found
        optimizer = torch.optim.AdamW(self.second.parameters(), lr=1e-2, weight_decay=1e-2)
        with torch.enable_grad():
            for _ in range(STEPS):
                dropped = drop_modalities({str(m): column for m, column in enumerate(there.T)}, 0.25)
                fewer = torch.stack(list(dropped.values()), 1)
                optimizer.zero_grad()
                losses = [self.outcome.loss(self.stack(logits, known), target).mean() for known in (there, fewer)]
                torch.stack(losses).sum().backward()
                optimizer.step()
