"""The weighted vote."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from regard.models.fusion.contract import Examples, Modality
from regard.models.fusion.decision import DecisionFusion
from regard.models.fusion.outcome import Outcome


class Vote(DecisionFusion):
    """Soft vote: the mean of the probabilities that the modalities' classifiers give, weighted or not.

        p = Σ_m w_m p_m / Σ_m w_m over the modalities that are there; the logits are log p

    The weights make the answers to examples that the classifiers were not trained on most likely. Without any modality
    all classes are alike.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        weighted: whether there are weights; otherwise all votes count alike.
    """

    name: ClassVar[str] = "vote"
    settles: ClassVar[bool] = True
    votes: Float[Tensor, " M"]

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        weighted: bool = True,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        self.weighted = weighted
        self.register_buffer("votes", torch.zeros(len(self.widths)))

    @property
    def weights(self) -> Float[Tensor, " M"]:
        """What each modality's vote counts; they sum to one."""
        return self.votes.softmax(0)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        return self.vote(*self.decide(modalities), self.votes)

    def vote(self, logits: Tensor, there: Tensor, votes: Tensor) -> Float[Tensor, "B K"]:
        """`log p` for the logarithms `votes` of the weights; without any modality the logits, zeros all, remain."""
        anyone = there.any(1, keepdim=True)
        counts = votes.masked_fill(~there & anyone, -torch.inf).log_softmax(1)  # (B, M)
        return self.outcome.vote(logits, counts)

    def settle(self, held: Examples) -> None:
        if not self.weighted or (found := self.decisions(held)) is None:
            return
        logits, there, target = found
        votes = torch.zeros_like(self.votes, requires_grad=True)
        optimizer = torch.optim.LBFGS([votes], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            # The small pull to equal weights gives an answer also where a classifier that is never right would get
            # minus infinity.
            loss = self.outcome.loss(self.vote(logits, there, votes), target).mean() + 1e-3 * votes.square().mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        self.votes.copy_(votes.detach())
