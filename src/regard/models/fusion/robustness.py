"""How the score falls as a modality is dropped or made noisy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regard.errors import UserError
from regard.models.fusion.encoders import Encoder

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""After Okabe and Ito, told apart also by colour-blind people; they begin anew after the last."""


@dataclass(frozen=True)
class Point:
    """The score when one modality is `dropped` from, or `noisy` in, so much."""

    modality: str
    how: str
    level: float
    score: float


@dataclass(frozen=True)
class Robustness:
    """Scores under what may happen to each modality alone.

    Attributes:
        points: one for each modality, what happens to it, and how much.
        rows: how many rows they were measured on.
        measure: what the scores are: `accuracy` or `r_squared`.
        baseline: what always says the same that is best.
        known: its score.
    """

    points: tuple[Point, ...]
    rows: int
    measure: str
    baseline: str
    known: float

    def curve(self, modality: str, how: str) -> dict[float, float]:
        """The score by level, of a modality that is `"dropped"` or `"noisy"`."""
        return {point.level: point.score for point in self.points if (point.modality, point.how) == (modality, how)}

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(point.modality for point in self.points))

    def as_rows(self) -> list[dict[str, Any]]:
        """The points as mappings, for a data frame."""
        return [vars(point) for point in self.points]

    def __str__(self) -> str:
        levels = list(dict.fromkeys(point.level for point in self.points))
        wide = max(len(name) for name in ("modality", *self.modalities))
        lines = [f"{'modality':{wide}}  {'':7}" + "".join(f"{level:>8.0%}" for level in levels)]
        for how in ("dropped", "noisy"):
            for name in self.modalities:
                found = self.curve(name, how)
                lines.append(f"{name:{wide}}  {how:7}" + "".join(f"{found[level]:>8.1%}" for level in levels))
        lines.append(f"{self.rows} rows; {self.baseline} alone has {self.known:.1%}")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> Path:
        """Write the curves as an SVG picture, dropped on the left, noisy on the right."""
        path = Path(path)
        path.write_text(self.svg(), encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        return self.svg()

    def svg(self) -> str:
        """The curves as an SVG picture."""
        parts = [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 320" font-family="sans-serif" font-size="12">',
            '<rect width="800" height="320" fill="white"/>',
        ]
        for left, how, title in ((50, "dropped", "share of rows without it"), (350, "noisy", "amount of noise in it")):

            def x(level: float, left: int = left) -> float:
                return left + 240 * level

            for tick in LEVELS:
                parts.append(f'<path d="M{left} {y(tick)}h240" stroke="#ddd"/>')
                parts.append(f'<text x="{left - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:.0%}</text>')
                parts.append(f'<text x="{x(tick)}" y="276" text-anchor="middle">{tick:.0%}</text>')
            parts.append(f'<text x="{left + 120}" y="24" text-anchor="middle">{how}</text>')
            parts.append(f'<text x="{left + 120}" y="300" text-anchor="middle">{title}</text>')
            parts.append(f'<path d="M{left} {y(self.known):.1f}h240" stroke="#888" stroke-dasharray="4 4"/>')
            for index, name in enumerate(self.modalities):
                colour = COLOURS[index % len(COLOURS)]
                points = " ".join(f"{x(level):.1f},{y(value):.1f}" for level, value in self.curve(name, how).items())
                parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for index, name in enumerate([*self.modalities, self.baseline]):
            colour = COLOURS[index % len(COLOURS)] if index < len(self.modalities) else "#888"
            parts.append(f'<path d="M610 {50 + 20 * index}h18" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="634" y="{54 + 20 * index}">{escape(name)}</text>')
        return "\n".join([*parts, "</svg>"]) + "\n"


def y(score: float) -> float:
    """Where a score stands in the picture; what is worse than nothing stands at the bottom."""
    return 260 - 220 * max(0.0, score)


def curves(
    readers: Mapping[str, Encoder],
    score: Callable[[Callable[[str, int, Tensor], Tensor | None]], float],
    rows: int,
    levels: Sequence[float],
    seed: int,
) -> tuple[Point, ...]:
    """Measure every modality at every level.

    Args:
        readers: for each modality its encoder, which knows how to make a cell noisy.
        score: of a function from modality, row and cell to the cell that is to be seen, None for none.
    """
    if not levels or any(not 0 <= level <= 1 for level in levels):
        raise UserError(f"levels={tuple(levels)}: give some numbers from 0 to 1")
    turn = torch.rand(rows, generator=torch.Generator().manual_seed(seed)).tolist()

    def dropped(name: str, level: float) -> Callable[[str, int, Tensor], Tensor | None]:
        return lambda other, row, cell: None if other == name and turn[row] < level else cell

    def noisy(name: str, level: float) -> Callable[[str, int, Tensor], Tensor | None]:
        def change(other: str, row: int, cell: Tensor) -> Tensor:
            if other != name or level == 0:
                return cell
            # The same noise at every level, only more of it.
            return readers[name].noisy(cell, level, torch.Generator().manual_seed(1_000_003 * seed + row))

        return change

    return tuple(
        Point(name, how, level, score(change(name, level)))
        for how, change in (("dropped", dropped), ("noisy", noisy))
        for name in readers
        for level in levels
    )
