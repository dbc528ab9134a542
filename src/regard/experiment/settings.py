"""What a comparison was asked to do, resolved to the last default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.errors import UserError


@dataclass(frozen=True)
class Settings:
    """All that decides the outcome of a comparison.

    Attributes:
        task: its name, such as `digit-scenes`.
        data: the folder of pictures, or None.
        size: side of a picture in pixels.
        batch: pictures a batch.
        epochs: how long each variant trains, or None if `minutes` decides.
        minutes: the same in minutes of training.
        device: what it runs on, as PyTorch names it.
        precision: Lightning's name of the arithmetic.
        attention: the variants; more may be added to a run later.
        seeds: how many seeds each is trained from, 0 first; more may be added later.
        options: what else the task was given, by the names of `compare`, as JSON holds it.
    """

    task: str
    data: str | None
    size: int
    batch: int
    epochs: int | None
    minutes: float | None
    device: str
    precision: str
    attention: tuple[str, ...]
    seeds: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """One level of names: the task's own options stand beside the others."""
        own = {name: value for name, value in vars(self).items() if name != "options"}
        return {**own, **self.options, "attention": list(self.attention), "seeds": list(range(self.seeds))}

    def require_same(self, other: dict[str, Any], folder: Path) -> None:
        """Refuse a run folder whose settings, but for variants and seeds, are others."""
        mine = self.as_json()
        differing = [
            f"{key} {other.get(key)!r} there, {value!r} now"
            for key, value in mine.items()
            if key not in ("attention", "seeds") and other.get(key) != value
        ]
        if differing:
            raise UserError(
                f"{folder} holds a run with other settings ({'; '.join(differing)}): repeat its settings to go on with "
                "it, choose another --name, or put it aside with --no-resume"
            )
