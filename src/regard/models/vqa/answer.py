"""An answer, and where a model looked to find it."""

import re
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.formatting import probability
from regard.watching import AttentionMap, NoMapError, drawing

_times = ("layer", "crossing", "hop", "glimpse")
"""The axes of a map along which a model looks several times; along all others (heads, queries) one look is spread."""

_space = {"height", "width", "length"}

_drawn = 512
"""Pixels of a drawing's shorter side at most."""


@dataclass(frozen=True)
class Look:
    """One of the times that a model looked at the picture.

    Attributes:
        name: which one, such as "hop 2"; empty where it looked once.
        weights: on the picture's grid, `(height, width)`, or one a region.
    """

    name: str
    weights: Float[Tensor, "h w"] | Float[Tensor, " N"]


@dataclass(frozen=True)
class Answer:
    """What a model says to one question.

    Attributes:
        text: the likeliest answer.
        probabilities: of the likeliest answers, the first one first. Where the model was trained to score each answer
            alone, they need not sum to one.
        maps: what it attended to on the way, if it attends.
        boxes: of the regions that it read, left, top, right and bottom in shares of the picture's width and height.
        unknown: the words of the question that it never saw.
    """

    text: str
    probabilities: dict[str, float]
    maps: list[AttentionMap] = field(default_factory=list, repr=False, compare=False)
    boxes: Float[Tensor, "N 4"] | None = field(default=None, repr=False, compare=False)
    unknown: tuple[str, ...] = ()

    def looks(self) -> list[Look]:
        """Each time that it looked at the picture with the mechanism that read from it last, in order.

        Steps, blocks, layers, hops and glimpses are apart; each is the mean over heads and queries. Of a hard reading,
        it is what was chosen. Empty for a model that does not attend to places.
        """
        # What weighs channels may do so at every place alike.
        maps = [one for one in self.maps if "channel" not in one.axes]
        placed = [one for one in maps if one.grid is not None or {"height", "width"} <= set(one.axes)]
        last = [one for one in placed if _mechanism(one) == _mechanism(placed[-1])]
        blocks = list(dict.fromkeys(one.module for one in last))
        steps = 1 + max((one.call for one in last), default=0)
        found: list[Look] = []
        for one in last:
            one_block = [("block", blocks.index(one.module))] * (len(blocks) > 1)
            one_step = [("step", one.call)] * (steps > 1)
            there = one.on_grid().select(batch=0)
            sizes = {axis: there.values.shape[there.axes.index(axis)] for axis in _times if axis in there.axes}
            for numbers in product(*map(range, sizes.values())):
                part = there.select(**dict(zip(sizes, numbers, strict=True)))
                for axis in set(part.axes) - _space:
                    part = part.mean(axis)
                along = [(axis, at) for axis, at in zip(sizes, numbers, strict=True) if sizes[axis] > 1]
                turn = [*one_block, *one_step, *along]
                found.append(Look(", ".join(f"{what} {at + 1}" for what, at in turn), part.values))
        return found

    def look(self) -> Float[Tensor, "h w"] | Float[Tensor, " N"] | None:
        """Where on the picture's grid, or at which regions, it looked: the mean of `looks`; None if it has none."""
        looks = self.looks()
        return torch.stack([one.weights for one in looks]).mean(0) if looks else None

    # `Any`: pictures are Pillow's, which is not imported before something is drawn.
    def draw(self, picture: Any, each: bool = True) -> Any:
        """The picture with what was looked at over it: the mean of all looks, and, if there are several, each.

        Args:
            picture: a file or a picture of Pillow.
            each: whether several looks are drawn beside their mean; default True.

        Returns:
            A picture of Pillow: cells as colours over the picture, regions as boxes with their weights.

        Raises:
            NoMapError: the model has no attention, none to places, or does not say where its regions lie.
        """
        from regard.models.decoding import decode

        panels = self.panels(decode(picture, _drawn), each=each)
        return panels[0].picture if len(panels) == 1 else drawing.sheet([(one.title, one.picture) for one in panels])

    def panels(self, picture: Any, name: str = "", each: bool = True) -> list[drawing.Panel]:
        """The panels of a figure: the mean of all looks with the answer, and, if there are several, each.

        Args:
            picture: a picture of Pillow.
            name: the model's, which stands above the first; default none.
            each: whether several looks are drawn beside their mean; default True.

        Raises:
            NoMapError: as `draw`.
        """
        looks, mean = self.looks(), self.look()
        if mean is None:
            attends = "attends, but to no places of the picture" if self.maps else "has no attention"
            raise NoMapError(
                f"there is nothing to draw: the model {attends}; ask one that looks at places, such as mcan"
            )

        def panel(title: str, text: str, weights: Tensor) -> drawing.Panel:
            top = weights.max().item()
            if weights.ndim == 2:
                return drawing.Panel(title, text, drawing.over(picture, weights), top)
            if self.boxes is None:
                raise NoMapError("where the regions lie is not known: give them with boxes to have them drawn")
            return drawing.Panel(title, text, drawing.boxes(picture, self.boxes, weights), top)

        of_many = f"mean of {len(looks)}" if len(looks) > 1 else ""
        first = panel(", ".join(filter(None, [name, of_many])), self.said, mean)
        return [first, *(panel(one.name, "", one.weights) for one in looks if len(looks) > 1 and each)]

    @property
    def said(self) -> str:
        """The answer with its probability."""
        return f"{self.text} ({probability(self.probabilities.get(self.text))})"


def _mechanism(one: AttentionMap) -> tuple[str, str]:
    """The same for the blocks of a stack, which differ in their numbers."""
    return re.sub(r"\d+", "*", one.module), one.label
