"""Numbers and categories."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.models.fusion.encoders.encoder import UNKNOWN_SHARE, Encoder

MISSING, UNKNOWN, FIRST = 0, 1, 2
"""The numbers of a category that is missing, of one that training has not seen, and of the first that it has."""


class TabularEncoder(Encoder):
    """All numbers and categories of a row: a token for each, as in an FT-Transformer.

        x_j = v_j w_j + b_j for a number, standardised
        x_j = the vector of its category, or of an unknown one

    What is missing is the mean of its column, 0 of the numbers and of the categories the mean vector, plus a learned
    deviation. That begins at zero, so that a column without gaps in training can be left out afterwards.

    Paper: Gorishniy, Rubachev, Khrulkov, Babenko, "Revisiting Deep Learning Models for Tabular Data", NeurIPS 2021.

    Args:
        numbers: for each column of numbers its mean and deviation over the training part.
        categories: for each column of categories those of the training part.
        width: width `W` of a token.
    """

    kind: ClassVar[str] = "tabular"

    def __init__(
        self, numbers: Mapping[str, Sequence[float]], categories: Mapping[str, Sequence[str]], width: int
    ) -> None:
        super().__init__()
        self.numbers = {name: (float(mean), float(deviation)) for name, (mean, deviation) in numbers.items()}
        self.categories = {name: list(values) for name, values in categories.items()}
        self.width = width
        self.indices = {
            name: {value: index for index, value in enumerate(values, FIRST)}
            for name, values in self.categories.items()
        }
        count = len(self.numbers)
        self.slope = nn.Parameter(torch.randn(count, width) * width**-0.5)
        self.offset = nn.Parameter(torch.randn(count, width) * width**-0.5)
        self.absent = nn.Parameter(torch.zeros(count, width))
        self.embed = nn.ModuleList(nn.Embedding(FIRST + len(values), width) for values in self.categories.values())
        for embed in self.embed:
            nn.init.zeros_(embed.weight.data[MISSING])  # pyright: ignore[reportIndexIssue]

    @classmethod
    def learn(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, values: Sequence[Mapping[str, Any]], width: int, kinds: Mapping[str, str]
    ) -> "TabularEncoder":
        """With the statistics of these rows.

        Args:
            kinds: for each column `"number"` or `"category"`.
        """
        numbers, categories = {}, {}
        for name, kind in kinds.items():
            column = [row[name] for row in values if row[name] is not None]
            if kind == "number":
                known = torch.tensor([number(name, value) for value in column], dtype=torch.float64)
                mean = float(known.mean()) if len(known) else 0.0
                # A column that never varied keeps its unit, so that a new value is not blown up.
                numbers[name] = (mean, float(known.std(correction=0)) if len(known) else 0.0)
                if numbers[name][1] <= 1e-12 * max(1.0, abs(mean)):
                    numbers[name] = (mean, 1.0)
            else:
                categories[name] = sorted({category(value) for value in column})
        return cls(numbers, categories, width)

    @property
    def settings(self) -> dict[str, Any]:
        numbers = {name: list(pair) for name, pair in self.numbers.items()}
        return {"numbers": numbers, "categories": self.categories, "width": self.width}

    def read(self, value: Mapping[str, Any]) -> Float[Tensor, " J"]:
        """Standardised numbers, NaN where missing, then the numbers of the categories."""
        cell: list[float] = []
        for name, (mean, deviation) in self.numbers.items():
            found = value.get(name)
            cell.append(math.nan if found is None else (number(name, found) - mean) / deviation)
        for name, known in self.indices.items():
            found = value.get(name)
            cell.append(MISSING if found is None else known.get(category(found), UNKNOWN))
        return torch.tensor(cell, dtype=torch.float64).float()

    def batch(self, cells: Sequence[Tensor]) -> tuple[Float[Tensor, "B J"]]:
        return (torch.stack(list(cells)),)

    def parts(self, cell: Tensor, count: int) -> list[str]:
        """The columns."""
        return [*self.numbers, *self.categories]

    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """`(1 - level)` of a number and `level` of a normal one; any category with this probability."""
        count = len(self.numbers)
        numbers = (1 - level) * cell[:count] + level * torch.randn(count, generator=generator)
        chance = torch.rand(len(self.categories), generator=generator)
        others = [
            int(torch.randint(UNKNOWN, FIRST + len(values), (), generator=generator))
            for values in self.categories.values()
        ]
        return torch.cat((numbers, torch.where(chance < level, torch.tensor(others, dtype=cell.dtype), cell[count:])))

    def forward(self, *inputs: Tensor) -> tuple[Float[Tensor, "B J W"], Bool[Tensor, "B J"]]:
        (x,) = inputs
        count = len(self.numbers)
        numbers = x[:, :count, None]  # (B, n, 1)
        parts = [torch.where(numbers.isnan(), self.absent, numbers.nan_to_num() * self.slope) + self.offset]
        for column, embed in enumerate(self.embed, count):
            index = x[:, column].long()
            if self.training:
                hidden = (index >= FIRST) & (torch.rand(index.shape, device=x.device) < UNKNOWN_SHARE)
                index = index.masked_fill(hidden, UNKNOWN)
            known = embed.weight[FIRST:]  # pyright: ignore[reportIndexIssue]
            mean = known.sum(0) / max(1, len(known))  # a column may have no known category
            parts.append((embed(index) + mean * (index == MISSING)[:, None])[:, None])
        tokens = torch.cat(parts, 1)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device)


def category(value: Any) -> str:
    """A category's name; a whole number's has no point, which pandas puts there where a cell of its column is empty."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def number(name: str, value: Any) -> float:
    """The value as a finite number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"column {name!r} holds {value!r}, expected a number; or give it the kind 'category'"
        ) from None
    if not math.isfinite(found):
        raise ValueError(f"column {name!r} holds {found}, expected a finite number, or nothing where it is missing")
    return found
