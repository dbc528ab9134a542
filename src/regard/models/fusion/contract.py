"""What every fusion takes and gives: tokens of several modalities, any of which may be missing, to an outcome.

Letters: B batch   N tokens of a modality   D their width   W the fusion's own width   M modalities   K outputs.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper
from regard.models.fusion.outcome import Classes, Outcome

Level = Literal["feature", "decision", "model"]


@dataclass(frozen=True)
class Example:
    """A batch for `Fusion.loss`, as its arguments are named."""

    target: Num[Tensor, " B"]
    tokens: dict[str, Tensor]
    masks: dict[str, Tensor]
    present: dict[str, Tensor]


Examples = Callable[[], Iterable[Example]]
"""Batches that can be gone through as often as one likes."""


@dataclass(frozen=True)
class Modality:
    """One modality of a batch, cleaned: what takes no part is zero.

    Attributes:
        tokens: `(B, N, D)`.
        mask: `(B, N)`, True = takes part.
    """

    tokens: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"]

    @property
    def present(self) -> Bool[Tensor, " B"]:
        """Whether anything of it takes part."""
        return self.mask.any(1)


class Fusion(nn.Module):
    """Several modalities → logits of classes, or a number.

    A modality that is missing, or of which no token takes part, has no influence on the answer, whatever its tensors
    hold, NaN included. If all are missing the answer is what the fusion has learned to say without any, and finite.

    Class attributes:
        name: the key in `regard.models.fusion.fusions`.
        level: where the modalities meet: in features, in decisions, or in the layers of one model.
        paper: where it was published, if anywhere.
        apart: whether nothing that is trained is shared between modalities, so that each can keep its own best epoch.
        settles: whether `settle` or `after_epoch` wants examples that nothing was trained on.
        late: whether it has learned to answer only when it has settled.

    Args:
        widths: for each modality the width `D` of its tokens.
        outcome: what is predicted; a number is so many classes.
        width: width `W` at which the fusion works.
        dropout: probability of dropping a value of the fused representation in training.

    Shapes:
        tokens: for each modality `(B, N, D)`, or `(B, D)` for a single token; masks `(B, N)` and present `(B,)`, both
            True = takes part, and all of it where not given. A modality that is not in `tokens` is missing everywhere.
            Gives `(B, K)`: logits, or one
            standardised number.

    Raises:
        ValueError: there is no modality or less than one output, or what is given does not fit.
    """

    name: ClassVar[str]
    level: ClassVar[Level]
    paper: ClassVar[Paper | None] = None
    apart: ClassVar[bool] = False
    settles: ClassVar[bool] = False
    late: ClassVar[bool] = False

    def __init__(
        self, widths: Mapping[str, int], outcome: int | Outcome, width: int = 64, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.outcome = Classes(range(outcome)) if isinstance(outcome, int) else outcome
        if not widths or self.outcome.size < 1 or width < 1:
            raise ValueError(
                f"{type(self).__name__} got {len(widths)} modalities, {self.outcome.size} classes and width={width}: "
                "give at least one of each."
            )
        self.widths = dict(widths)
        self.width = width
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Mapping[str, Float[Tensor, "..."]],
        masks: Mapping[str, Bool[Tensor, "B _"]] | None = None,
        present: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> Float[Tensor, "B K"]:
        return self.fuse(self.clean(tokens, masks, present))

    @abstractmethod
    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        """The answer from the cleaned modalities, in the order of `widths`."""

    def losses(
        self,
        target: Num[Tensor, " B"],
        tokens: Mapping[str, Float[Tensor, "..."]],
        masks: Mapping[str, Bool[Tensor, "B _"]] | None = None,
        present: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> Float[Tensor, " H"]:
        """The loss of every predictor that the method has."""
        return self.each_loss(target, self.clean(tokens, masks, present))

    def loss(
        self,
        target: Num[Tensor, " B"],
        tokens: Mapping[str, Float[Tensor, "..."]],
        masks: Mapping[str, Bool[Tensor, "B _"]] | None = None,
        present: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> Float[Tensor, ""]:
        """What training makes small."""
        return self.combined(self.losses(target, tokens, masks, present))

    def criterion(
        self,
        target: Num[Tensor, " B"],
        tokens: Mapping[str, Float[Tensor, "..."]],
        masks: Mapping[str, Bool[Tensor, "B _"]] | None = None,
        present: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> Float[Tensor, " G"]:
        """What early stopping watches on held-out examples: one loss, or one for each modality if these are `apart`."""
        return self.watched(self.losses(target, tokens, masks, present))

    def each_loss(self, target: Num[Tensor, " B"], modalities: list[Modality]) -> Float[Tensor, " H"]:
        """The loss of every predictor: that of the answer, unless the method has others."""
        return self.outcome.loss(self.fuse(modalities), target).mean()[None]

    def combined(self, losses: Float[Tensor, " H"]) -> Float[Tensor, ""]:
        """One loss of all, for training: their mean, unless the method has its own."""
        return losses.mean()

    def watched(self, losses: Float[Tensor, " H"]) -> Float[Tensor, " G"]:
        """Those that early stopping watches: all, unless the method says which."""
        return losses

    def parts(self) -> list[tuple[str, ...]]:
        """Of a fusion that is `apart`, where the state of each modality's own part is: how its names begin."""
        return []

    def after_epoch(self, epoch: int, training: Examples, held: Examples) -> None:
        """Called without gradients before the first epoch, as number 0, and after every one.

        Args:
            training: what is trained on.
            held: what is neither trained on nor used for early stopping; none, unless the fusion `settles`.
        """

    def settle(self, held: Examples) -> None:
        """Called once after training, of a fusion that `settles`: fit what needs examples nothing was trained on."""

    def clean(
        self,
        tokens: Mapping[str, Float[Tensor, "..."]],
        masks: Mapping[str, Bool[Tensor, "B _"]] | None = None,
        present: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> list[Modality]:
        """Every modality as tokens and mask, with zeros in place of what takes no part."""
        masks, present = masks or {}, present or {}
        for kind, given in (("tokens", tokens), ("masks", masks), ("present", present)):
            if strange := [name for name in given if name not in self.widths]:
                raise ValueError(f"{kind} names {strange}, expected some of {list(self.widths)}: rename them.")
        if not tokens:
            raise ValueError(f"no tokens are given: give those of at least one of {list(self.widths)}.")
        batch = next(iter(tokens.values())).shape[0]
        return [self._clean(name, batch, tokens, masks.get(name), present.get(name)) for name in self.widths]

    def _clean(
        self, name: str, batch: int, tokens: Mapping[str, Tensor], mask: Tensor | None, present: Tensor | None
    ) -> Modality:
        if name not in tokens:
            like = next(iter(tokens.values()))
            return Modality(
                like.new_zeros(batch, 1, self.widths[name]), torch.zeros(batch, 1, dtype=torch.bool, device=like.device)
            )
        x = tokens[name]
        x = x[:, None] if x.ndim == 2 else x  # (B, N, D)
        if x.ndim != 3 or x.shape[0] != batch or x.shape[2] != self.widths[name]:
            raise ValueError(
                f"the tokens of {name!r} have shape {tuple(tokens[name].shape)}, expected "
                f"({batch}, tokens, {self.widths[name]}) or ({batch}, {self.widths[name]})."
            )
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for kind, given, shape in (("mask", mask, tuple(x.shape[:2])), ("present", present, (batch,))):
            if given is not None and (given.dtype != torch.bool or tuple(given.shape) != shape):
                raise ValueError(
                    f"{kind} of {name!r} is of {given.dtype} and shape {tuple(given.shape)}, expected booleans "
                    f"{shape}, True = takes part."
                )
        if present is not None:
            mask = mask & present[:, None]
        return Modality(x.masked_fill(~mask[..., None], 0.0), mask)


class Pool(nn.Module):
    """A modality as one vector: mean plus maximum over n of `gelu(P norm(x_n))`; zero where it is missing.

    The mean holds what all tokens say together, the columns of a table; the maximum what one of many says, a word or a
    part of a picture, which a mean over all would drown. Woo et al. pool both ways in CBAM, ECCV 2018.

    Args:
        width: width `D` of a token.
        pooled: width `W` of the vector.
    """

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pooled), nn.GELU())

    def forward(self, modality: Modality) -> Float[Tensor, "B W"]:
        x = self.project(modality.tokens)
        largest = x.masked_fill(~modality.mask[..., None], -torch.inf).amax(1)
        mean = functional.masked_mean(x, modality.mask[:, None])[:, 0]
        return mean + torch.where(modality.present[:, None], largest, 0.0)


def pools(widths: Mapping[str, int], pooled: int) -> nn.ModuleList:
    """A `Pool` for each modality."""
    return nn.ModuleList(Pool(width, pooled) for width in widths.values())


def pool_all(pooling: Iterable[nn.Module], modalities: Iterable[Modality]) -> list[Float[Tensor, "B W"]]:
    """Every modality through its own `Pool`."""
    return [pool(modality) for pool, modality in zip(pooling, modalities, strict=True)]


def head(width: int, hidden: int, outputs: int, dropout: nn.Module) -> nn.Sequential:
    """From a fused vector to the outputs, through one hidden layer."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), dropout, nn.Linear(hidden, outputs))


def drop_modalities(
    present: Mapping[str, Bool[Tensor, " B"]], probability: float, generator: torch.Generator | None = None
) -> dict[str, Bool[Tensor, " B"]]:
    """Modality dropout: every modality of every example missing with this probability, but never the last that it has.

    Where all that an example has would be dropped, one of them, drawn evenly, stays. Paper: Neverova, Wolf, Taylor,
    Nebout, "ModDrop: Adaptive Multi-Modal Gesture Recognition", TPAMI 2016, which lets all be dropped.
    """
    there = torch.stack(list(present.values()))  # (M, B)
    chance = torch.rand(there.shape, generator=generator).to(there.device)
    order = torch.where(there, chance, -1.0)
    kept = there & ((chance >= probability) | (order == order.max(0).values))
    return dict(zip(present, kept, strict=True))
