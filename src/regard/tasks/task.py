"""What the comparison asks of a task: data, model, loss and measure that belong together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Model = Any
"""What `Task.model` gives: a module; each task knows its own kind."""

Batch = Any
"""What `Task.batches` yields and `Task.loss` takes: tensors, or tuples and dictionaries of tensors."""

Outcomes = Bool[np.ndarray, " outcomes"] | Float[np.ndarray, " outcomes"]
"""How right each answer is: right or wrong, or anything from 0 to 1 where people disagree about what is right."""


@dataclass(frozen=True)
class Evaluation:
    """Every test question's outcome.

    Attributes:
        correct: how rightly it was answered.
        families: which of `Task.families` it belongs to.
        groups: what it shares its picture with; outcomes of one group are not independent of each other.
        pointed: of the questions that ask about one place and whose reader has a map over the picture: whether the
            largest weight lies there. None for a reader without such a map.
    """

    correct: Outcomes
    families: Int[np.ndarray, " outcomes"]
    groups: Int[np.ndarray, " outcomes"]
    pointed: Bool[np.ndarray, " some"] | None = None

    def kinds(self, families: Sequence[str]) -> dict[str, Bool[np.ndarray, " outcomes"]]:
        """Which outcomes are of each family, if any are, and all of them as `overall`."""
        found = {family: self.families == index for index, family in enumerate(families)}
        return {family: among for family, among in found.items() if among.any()} | {"overall": self.families >= 0}


@runtime_checkable
class Task(Protocol):
    """Data, model, loss and measure that belong together. All that differs between variants is their attention.

    Attributes:
        name: as in the settings.
    """

    name: str

    @property
    def families(self) -> Sequence[str]:
        """Names of the kinds of questions (or classes), in the order of the table."""
        ...

    def model(self, attention: str, seed: int) -> nn.Module:
        """A fresh model. The same seed gives the same values to all that the variants share."""
        ...

    def batches(self, seed: int, epoch: int, progress: float) -> Iterable[Batch]:
        """The batches of one training epoch; the same for all variants. `progress` runs from 0 to 1 over training."""
        ...

    def length(self, seed: int) -> int:
        """How many batches an epoch has."""
        ...

    def check(self, attention: str) -> None:
        """Refuse a variant that there is none of, with a `UserError`, before anything is trained."""
        ...

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """What training makes small."""
        ...

    def learning_rate(self) -> float:
        """The highest learning rate of the schedule."""
        ...

    def validate(self, model: Model, seed: int) -> Evaluation:
        """The outcomes on held-out data that are not the test's, for learning curves."""
        ...

    def evaluate(self, model: Model, seed: int) -> Evaluation:
        """The outcomes on the test data."""
        ...

    def example(self, seed: int) -> tuple[Tensor, ...]:
        """The inputs of the model for one picture, for counting and timing."""
        ...

    def examples(self, seed: int) -> list[dict[str, Any]]:
        """Test pictures for the report: `picture`, `width`, `height`, `question`, `family`, `truth`, `box`."""
        ...

    def readings(self, model: Model, seed: int) -> list[dict[str, Any]]:
        """What the model says of these pictures: `answer`, `probability`, `correct`, `maps`."""
        ...

    def keep(self, model: Model, folder: Path) -> None:
        """Write into a folder what it takes to use the model again, its weights as `model.safetensors`."""
        ...


@runtime_checkable
class HasShortcuts(Task, Protocol):
    """A task that knows what can be had without looking, or without looking properly.

    Attributes:
        measure: what its accuracy is, in words; None where it is the share of right answers.
    """

    measure: str | None

    def shortcuts(self) -> Mapping[str, Evaluation]:
        """The outcomes of each on the test data, by what it is, in words."""
        ...


@runtime_checkable
class HasNotes(Task, Protocol):
    """A task whose variants need to be known by more than their names.

    Attributes:
        notes: what a variant is, and what it is told, by its name.
    """

    notes: Mapping[str, str]


@runtime_checkable
class Looks(Task, Protocol):
    """A task that may let a model see its pictures once, before training."""

    def look(self, model: Model, report: Callable[[int, int], None]) -> None:
        """Keep what the model sees of them; `report` is told now and then how many it has seen, of how many."""
        ...
