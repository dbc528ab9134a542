"""Gradient blending."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.fusion.concatenation import Concatenation
from regard.models.fusion.contract import Examples, Fusion, Level, Modality, head, pool_all
from regard.models.fusion.decision import losses_of_each
from regard.models.fusion.outcome import Outcome


def blending_weights(
    training_before: Float[Tensor, " H"],
    training_after: Float[Tensor, " H"],
    held_before: Float[Tensor, " H"],
    held_after: Float[Tensor, " H"],
    smallest: float = 0.0,
) -> Float[Tensor, " H"]:
    """`w_h = G_h / O_h² / Σ_j G_j / O_j²`: of each head what it gained on held-out data, by what it overfitted squared.

        G = held_before - held_after
        O = (held_after - training_after) - (held_before - training_before)

    A head that gained nothing has no weight; if none has gained anything, all weigh alike.

    Paper: Wang, Tran, Feiszli, "What Makes Training Multi-modal Classification Networks Hard?", CVPR 2020, equation 3
    and algorithm 1.

    Args:
        training_before, training_after: each head's loss on what is trained on, before and after some training.
        held_before, held_after: on what is held out.
        smallest: overfitting, of either sign, that is less counts as this much.
    """
    gain = (held_before - held_after).clamp_min(0.0)
    overfitting = (held_after - training_after) - (held_before - training_before)
    least = max(smallest, torch.finfo(gain.dtype).eps)  # a quotient that is finite
    ratio = gain / overfitting.abs().clamp_min(least).square()
    if not bool(ratio.sum() > 0):
        return torch.full_like(ratio, 1 / len(ratio))
    return ratio / ratio.sum()


class GradientBlending(Fusion):
    """Gradient blending: a joint head and one for each modality, whose losses are blended by how they generalise.

        loss = Σ_h w_h loss_h, h the modalities and the joint head;  the joint head answers

    The weights are `blending_weights` of each head's losses over the last `period` epochs, on what is trained on and on
    what is held out; before, they are alike. Paper: Wang, Tran, Feiszli, "What Makes Training Multi-modal
    Classification Networks Hard?", CVPR 2020, in its online form. There every head's network is trained apart for the
    measurement; here the heads of the one network are measured while it trains, which costs next to nothing, but a head
    without weight would never gain anything again. So the joint head, which answers, never weighs less than when all
    weigh alike.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        period: after how many epochs the weights are estimated anew, the paper's super-epoch.
        smallest: overfitting that is less counts as this much; default 0.05, the error of a loss measured on some
            hundred rows. With 0, the paper's formula, the head whose overfitting is nearest to zero by chance gets
            nearly all the weight where rows are few.
    """

    name: ClassVar[str] = "gradient_blending"
    level: ClassVar[Level] = "decision"
    paper: ClassVar[Paper | None] = Paper(
        "What Makes Training Multi-modal Classification Networks Hard?", "Wang et al.", "CVPR", 2020
    )
    settles: ClassVar[bool] = True
    weights: Float[Tensor, " H"]
    measured: Float[Tensor, "2 H"]

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        period: int = 5,
        smallest: float = 0.05,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        if period < 1 or smallest < 0:
            raise ValueError(f"period={period}, smallest={smallest}: give a number of epochs, and no negative loss.")
        self.smallest = smallest
        self.period = period
        self.joint = Concatenation(self.widths, self.outcome, width, dropout)
        self.heads = nn.ModuleList(head(width, width, self.outcome.size, self.dropout) for _ in self.widths)
        count = len(self.widths) + 1
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("measured", torch.zeros(2, count))

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        return self.joint.fuse(modalities)

    def each_loss(self, target: Num[Tensor, " B"], modalities: list[Modality]) -> Float[Tensor, " H"]:
        """Of the modalities' heads and, last, of the joint one."""
        vectors = pool_all(self.joint.pools, modalities)
        logits = [head(vector) for head, vector in zip(self.heads, vectors, strict=True)]
        logits.append(self.joint.join(vectors, modalities))
        there = [modality.present for modality in modalities]
        there.append(torch.ones_like(there[0]))
        return losses_of_each(self.outcome, torch.stack(logits, 1), torch.stack(there, 1), target)

    def combined(self, losses: Float[Tensor, " H"]) -> Float[Tensor, ""]:
        return (self.weights * losses).sum()

    def watched(self, losses: Float[Tensor, " H"]) -> Float[Tensor, " G"]:
        return losses[-1:]  # the joint head's: the blended loss is another function after every period

    def after_epoch(self, epoch: int, training: Examples, held: Examples) -> None:
        if epoch % self.period:
            return
        measured = torch.stack([self._measure(training), self._measure(held)])
        if epoch:
            before, after = self.measured, measured
            weights = blending_weights(before[0], after[0], before[1], after[1], self.smallest)
            joint = weights[-1].clamp_min(1 / len(weights))
            others = weights[:-1] * ((1 - joint) / weights[:-1].sum().clamp_min(torch.finfo(weights.dtype).tiny))
            self.weights.copy_(torch.cat((others, joint[None])))
        self.measured.copy_(measured)

    def _measure(self, examples: Examples) -> Float[Tensor, " H"]:
        total, count = torch.zeros_like(self.weights), 0
        for each in examples():
            rows = len(each.target)
            total += rows * self.losses(each.target, each.tokens, each.masks, each.present)
            count += rows
        return total / max(1, count)
