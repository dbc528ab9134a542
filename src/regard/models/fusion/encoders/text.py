"""Text."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from regard.models.fusion.encoders.encoder import UNKNOWN_SHARE, Encoder

Units = Literal["words", "characters"]

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""What fills up, what is not in the vocabulary, and the first word of it."""


class TextEncoder(Encoder):
    """Words or characters, embedded, and a bidirectional GRU over them: a token for each.

    Args:
        vocabulary: the units that have a vector of their own.
        width: width `W` of a token.
        units: `"words"`, lower-case, with each mark of punctuation a word; or `"characters"`, as they are.
        length: most units that are read; the rest of a text is cut off.
    """

    kind: ClassVar[str] = "text"

    def __init__(self, vocabulary: Sequence[str], width: int, units: Units = "words", length: int = 128) -> None:
        super().__init__()
        if units not in get_args(Units) or length < 1:
            raise ValueError(f"units={units!r}, length={length}: give 'words' or 'characters', and a positive length.")
        self.vocabulary = list(vocabulary)
        self.width = width
        self.units: Units = units
        self.length = length
        self.numbers = {unit: number for number, unit in enumerate(self.vocabulary, FIRST)}
        self.embed = nn.Embedding(FIRST + len(self.vocabulary), width, padding_idx=PADDING)
        self.forth = nn.GRU(width, width, batch_first=True)
        self.back = nn.GRU(width, width, batch_first=True)
        self.project = nn.Linear(2 * width, width)

    @classmethod
    def learn(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        values: Sequence[Any],
        width: int,
        units: Units = "words",
        length: int = 128,
        most: int = 20_000,
        rarest: int = 1,
    ) -> "TextEncoder":
        """With the vocabulary of these texts.

        Args:
            most: how many units the vocabulary may hold; the most frequent ones.
            rarest: how often a unit must occur.
        """
        counts = Counter(unit for value in values for unit in split(str(value), units))
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
        return cls([unit for unit, count in ordered if count >= rarest], width, units, length)

    @property
    def settings(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "width": self.width, "units": self.units, "length": self.length}

    def read(self, value: Any) -> Int[Tensor, " L"]:
        found = [self.numbers.get(unit, UNKNOWN) for unit in split(str(value), self.units)[: self.length]]
        return torch.tensor(found or [UNKNOWN])

    def batch(self, cells: Sequence[Tensor]) -> tuple[Int[Tensor, "B L"]]:
        return (nn.utils.rnn.pad_sequence(list(cells), batch_first=True, padding_value=PADDING),)

    def parts(self, cell: Tensor, count: int) -> list[str]:
        """The words or characters; a question mark is one that training has not seen."""
        return [self.vocabulary[unit - FIRST] if unit >= FIRST else "?" for unit in cell.tolist()]

    def filled(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.pad(inputs[0], (0, self.length - inputs[0].shape[1]), value=PADDING),)

    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """Every unit replaced by any of the vocabulary with this probability."""
        any_unit = torch.randint(UNKNOWN, FIRST + len(self.vocabulary), cell.shape, generator=generator)
        return torch.where(torch.rand(cell.shape, generator=generator) < level, any_unit, cell)

    def forward(self, *inputs: Tensor) -> tuple[Float[Tensor, "B L W"], Bool[Tensor, "B L"]]:
        (units,) = inputs
        mask = units != PADDING
        if self.training:
            units = units.masked_fill(mask & (torch.rand_like(units, dtype=torch.float) < UNKNOWN_SHARE), UNKNOWN)
        x = self.embed(units)
        # Each text back to front, with what fills it up behind it still, so that neither direction reads that first.
        length = units.shape[1]
        mirrored = (mask.sum(1, keepdim=True) - 1 - torch.arange(length, device=units.device)) % length
        mirrored = mirrored[..., None].expand_as(x)
        read = self.back(x.gather(1, mirrored))[0].gather(1, mirrored)
        return self.project(torch.cat((self.forth(x)[0], read), 2)), mask


def split(text: str, units: Units) -> list[str]:
    """The words or the characters of a text."""
    return re.findall(r"\w+|[^\w\s]", text.lower()) if units == "words" else list(text.strip())
