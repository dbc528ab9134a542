"""The cells of a table as encoders read them, kept while memory lasts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from regard.errors import UserError, in_one_line
from regard.models.fusion.encoders import Encoder
from regard.models.fusion.encoders.tabular import number

TABULAR = "tabular"
"""The modality of all numbers and categories together."""


@dataclass(frozen=True)
class Bad:
    """A cell that cannot be read, and why."""

    row: int
    reason: str


def values_of(columns: Mapping[str, list[Any]], kinds: Mapping[str, str], folder: Path) -> dict[str, list[Any]]:
    """For each modality its value in every row, None where it is missing; paths are found from the folder.

    The numbers and categories of a row are one value, missing where all of them are.
    """
    values: dict[str, list[Any]] = {}
    flat = [name for name, kind in kinds.items() if kind in ("number", "category")]
    for name, kind in kinds.items():
        if name in flat:
            continue
        if name == TABULAR:
            raise UserError(f"a column is named {TABULAR!r}, as numbers and categories together are: rename it")
        values[name] = [
            folder / value if kind != "text" and isinstance(value, (str, Path)) else value for value in columns[name]
        ]
    if flat:
        rows = zip(*(columns[name] for name in flat), strict=True)
        values[TABULAR] = [
            dict(zip(flat, row, strict=True)) if any(value is not None for value in row) else None for row in rows
        ]
    return values


class Cells:
    """One modality's cells, read when they are asked for.

    Args:
        name: of the modality.
        encoder: reads them.
        values: one for each row, None where missing.
        memory: bytes that may be kept, in a list of one number that several columns share.
    """

    def __init__(self, name: str, encoder: Encoder, values: Sequence[Any], memory: list[int]) -> None:
        self.name, self.encoder, self.values, self.memory = name, encoder, values, memory
        self._kept: dict[int, Tensor] = {}

    def __getitem__(self, row: int) -> Tensor | None:
        """One cell, None where it is missing.

        Raises:
            UserError: it cannot be read.
        """
        if self.values[row] is None:
            return None
        if row in self._kept:
            return self._kept[row]
        try:
            cell = self.encoder.read(self.values[row])
        except Exception as error:  # whatever a decoder stumbles over in a broken file
            raise UserError(wrong(self.name, Bad(row, in_one_line(error)))) from error
        size = cell.numel() * cell.element_size()
        if size <= self.memory[0]:
            self.memory[0] -= size
            self._kept[row] = cell
        return cell

    def among(self, rows: Sequence[int]) -> "Among":
        """The cells of these rows that are not missing."""
        return Among(self, rows)

    def bad(self) -> list[Bad]:
        """All cells that cannot be read."""
        found = []
        for row in range(len(self.values)):
            try:
                self[row]
            except UserError as error:
                found.append(Bad(row, in_one_line(error.__cause__ or error)))
        return found


class Among:
    """Some cells of a column, read anew or from memory each time that they are gone through."""

    def __init__(self, cells: Cells, rows: Sequence[int]) -> None:
        self.cells, self.rows = cells, rows

    def __iter__(self) -> Iterator[Tensor]:
        return (cell for row in self.rows if (cell := self.cells[row]) is not None)


def bad_numbers(values: Sequence[Mapping[str, Any] | None], kinds: Mapping[str, str]) -> list[Bad]:
    """The rows whose numbers are none."""
    found = []
    for row, value in enumerate(values):
        try:
            for name, entry in (value or {}).items():
                if kinds[name] == "number" and entry is not None:
                    number(name, entry)
        except ValueError as error:
            found.append(Bad(row, in_one_line(error)))
    return found


def wrong(name: str, bad: Bad) -> str:
    """What is wrong with a cell, in one line."""
    where = f"row {bad.row} (counted from 0)"
    return f"{where}: {bad.reason}" if name == TABULAR else f"{where}, column {name!r}: {bad.reason}"
