"""What is predicted, a class or a number, and all in which the two differ."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from regard.errors import UserError

Task = Literal["classification", "regression"]

MOST_CLASSES = 20
"""So many distinct whole numbers are taken for classes; more are taken for numbers."""

RESAMPLES = 1000
"""Of the rows, for an interval of what is no mean of independent outcomes."""

DRAWN = 1 << 20
"""So many of their rows are drawn at once."""

STRATA = 10
"""Into so many parts of alike many rows numbers are cut where rows are split."""


class Outcome(ABC):
    """What a fusion gives and is trained towards.

    Letters: B batch   K outputs of the network   M modalities   R rows.

    Class attributes:
        task: the key in `outcomes`.
        measure: how `score` is called in what `report` gives.

    Attributes:
        size: how many outputs `K` a network has for it.
        baseline: what `report` says for whoever knows the target's distribution alone.
    """

    task: ClassVar[Task]
    measure: ClassVar[str]
    baseline: ClassVar[str]
    size: int

    @staticmethod
    @abstractmethod
    def read(value: Any) -> Any:
        """A value of the target column that is not missing, as it is learned.

        Raises:
            ValueError: it cannot be learned.
        """

    @classmethod
    @abstractmethod
    def learn(cls, values: Sequence[Any], training: Sequence[Any]) -> "Outcome":
        """From all values that were read, and those of the rows that are trained on."""

    @staticmethod
    @abstractmethod
    def strata(labels: Sequence[Any]) -> list[Any]:
        """What to split rows by, for each label as `read` gave it, or None: chance decides among those alike in it."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """The arguments to build it again."""

    @abstractmethod
    def encode(self, value: Any) -> float:
        """A value as the network is to give it.

        Raises:
            ValueError: it is none that can be predicted.
        """

    @abstractmethod
    def decode(self, outputs: Float[Tensor, "R K"]) -> list[Any]:
        """What the network's outputs say, in the unit of the column."""

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "*lead K"], target: Num[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """What training makes small, for each example."""

    @abstractmethod
    def evidence(self, outputs: Float[Tensor, "*lead K"]) -> Float[Tensor, "*lead K"]:
        """One modality's decision, as a second model learns from it."""

    @abstractmethod
    def vote(self, outputs: Float[Tensor, "B M K"], weights: Float[Tensor, "B M"]) -> Float[Tensor, "B K"]:
        """The mean of the modalities' decisions; `weights` are logarithms, of which those of a row sum to one."""

    @abstractmethod
    def said(self, outputs: Float[Tensor, "R K"], answer: Float[Tensor, "1 K"]) -> Float[Tensor, " R"]:
        """How probable each row makes the class that `answer` says; of a number the number, in the column's unit."""

    @abstractmethod
    def score(self, outputs: Float[Tensor, "R K"], target: Num[Tensor, " R"]) -> float:
        """How well the rows are predicted: 1 is best."""

    @abstractmethod
    def known(self, target: Num[Tensor, " R"]) -> float:
        """The score of the best answer that is the same for all rows."""

    @abstractmethod
    def report(self, outputs: Float[Tensor, "R K"], target: Num[Tensor, " R"]) -> dict[str, Any]:
        """The score with its 95 % interval, and what else says how well the rows are predicted."""

    @abstractmethod
    def change(
        self, outputs: Float[Tensor, "R K"], other: Float[Tensor, "R K"], target: Num[Tensor, " R"]
    ) -> dict[str, Any]:
        """How other outputs for the same rows differ: in score, with its 95 % interval, and in what they say."""

    def target(self, column: str, values: Sequence[Any]) -> Num[Tensor, " R"]:
        """A whole column, encoded.

        Raises:
            UserError: a value cannot be predicted, or there is none.
        """
        found = []
        for row, value in enumerate(values):
            try:
                found.append(self.encode(value))
            except ValueError as error:
                raise UserError(
                    f"row {row} (counted from 0), column {column!r}: {error}: leave out such rows"
                ) from None
        if not found:
            raise UserError("the table has no row: give at least one")
        return torch.tensor(found)


class Classes(Outcome):
    """One of several classes: outputs are logits, the loss is the cross entropy, the score is the accuracy.

    Args:
        labels: what can be predicted, in the order of the outputs.
    """

    task: ClassVar[Task] = "classification"
    measure: ClassVar[str] = "accuracy"
    baseline: ClassVar[str] = "the most common class"

    def __init__(self, labels: Sequence[Any]) -> None:
        self.labels = list(labels)
        self.size = len(self.labels)
        self._numbers = {label: number for number, label in enumerate(self.labels)}

    @staticmethod
    def read(value: Any) -> Any:
        return value

    @classmethod
    def learn(cls, values: Sequence[Any], training: Sequence[Any]) -> "Classes":
        return cls(sorted(set(values)))

    @staticmethod
    def strata(labels: Sequence[Any]) -> list[Any]:
        return list(labels)

    def as_json(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def encode(self, value: Any) -> int:
        if value not in self._numbers:
            known = ", ".join(map(repr, self.labels[:20]))
            raise ValueError(f"{value!r} is none of the classes that were trained ({known})")
        return self._numbers[value]

    def decode(self, outputs: Float[Tensor, "R K"]) -> list[Any]:
        return [self.labels[number] for number in outputs.argmax(1).tolist()]

    def loss(self, outputs: Float[Tensor, "*lead K"], target: Int[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        flat = F.cross_entropy(outputs.flatten(0, -2), target.flatten(), reduction="none")
        return flat.view(target.shape)

    def evidence(self, outputs: Float[Tensor, "*lead K"]) -> Float[Tensor, "*lead K"]:
        """Logarithms of probabilities."""
        return outputs.log_softmax(-1)

    def vote(self, outputs: Float[Tensor, "B M K"], weights: Float[Tensor, "B M"]) -> Float[Tensor, "B K"]:
        """The logarithm of the mean of the probabilities."""
        return (outputs.log_softmax(2) + weights[..., None]).logsumexp(1)

    def said(self, outputs: Float[Tensor, "R K"], answer: Float[Tensor, "1 K"]) -> Float[Tensor, " R"]:
        return outputs.softmax(1)[:, int(answer.argmax())]

    def score(self, outputs: Float[Tensor, "R K"], target: Int[Tensor, " R"]) -> float:
        return float((outputs.argmax(1) == target).double().mean())

    def known(self, target: Int[Tensor, " R"]) -> float:
        return float(target.bincount().max() / len(target))

    def report(self, outputs: Float[Tensor, "R K"], target: Int[Tensor, " R"]) -> dict[str, Any]:
        accuracy = self.score(outputs, target)
        return {
            "accuracy": accuracy,
            "interval": wilson(accuracy, len(target)),
            "loss": float(F.cross_entropy(outputs, target)),
            "rows": len(target),
            "most_common": self.known(target),
        }

    def change(
        self, outputs: Float[Tensor, "R K"], other: Float[Tensor, "R K"], target: Int[Tensor, " R"]
    ) -> dict[str, Any]:
        """`changed` is the share of rows that are given another class."""
        before, after = outputs.argmax(1), other.argmax(1)
        each = (after == target).double() - (before == target).double()
        return {
            "accuracy": self.score(other, target),
            "difference": float(each.mean()),
            "interval": bootstrapped(lambda rows: each[rows].mean(-1), len(target)),
            "changed": float((before != after).double().mean()),
        }


class Number(Outcome):
    """A number: the one output is standardised, the loss is its squared error, the score is R².

    Args:
        mean, deviation: of the rows that are trained on.
    """

    task: ClassVar[Task] = "regression"
    measure: ClassVar[str] = "r_squared"
    baseline: ClassVar[str] = "the mean"
    size = 1

    def __init__(self, mean: float = 0.0, deviation: float = 1.0) -> None:
        self.mean, self.deviation = float(mean), float(deviation)

    @staticmethod
    def read(value: Any) -> float:
        try:
            found = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"holds {value!r}, expected a number") from None
        if not math.isfinite(found):
            raise ValueError(f"holds {found}, expected a finite number")
        return found

    @classmethod
    def learn(cls, values: Sequence[float], training: Sequence[float]) -> "Number":
        known = torch.tensor(training, dtype=torch.float64)
        return cls(float(known.mean()), float(known.std(correction=0)) or 1.0)

    @staticmethod
    def strata(labels: Sequence[float | None]) -> list[int | None]:
        """Tenths: by the numbers themselves, which hardly occur twice, there would be one split alone."""
        known = sorted(label for label in labels if label is not None)
        return [None if label is None else STRATA * bisect_left(known, label) // len(known) for label in labels]

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def encode(self, value: Any) -> float:
        return (self.read(value) - self.mean) / self.deviation

    def decode(self, outputs: Float[Tensor, "R 1"]) -> list[float]:
        return (outputs[:, 0].double() * self.deviation + self.mean).tolist()

    def loss(self, outputs: Float[Tensor, "*lead 1"], target: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        return (outputs[..., 0] - target).square()

    def evidence(self, outputs: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead 1"]:
        return outputs

    def vote(self, outputs: Float[Tensor, "B M 1"], weights: Float[Tensor, "B M"]) -> Float[Tensor, "B 1"]:
        return (outputs * weights.exp()[..., None]).sum(1)

    def said(self, outputs: Float[Tensor, "R 1"], answer: Float[Tensor, "1 1"]) -> Float[Tensor, " R"]:
        return outputs[:, 0] * self.deviation + self.mean

    def score(self, outputs: Float[Tensor, "R 1"], target: Float[Tensor, " R"]) -> float:
        """The share of the rows' variance that is explained; NaN where they do not vary."""
        return float(r_squared(outputs[:, 0].double(), target.double()))

    def known(self, target: Float[Tensor, " R"]) -> float:
        return 0.0

    def report(self, outputs: Float[Tensor, "R 1"], target: Float[Tensor, " R"]) -> dict[str, Any]:
        """In the unit of the column; `mean_alone` is the mean absolute error of always saying the training's mean."""
        found, truth = outputs[:, 0].double(), target.double()
        error = (found - truth).abs() * self.deviation
        return {
            "r_squared": self.score(outputs, target),
            "interval": bootstrapped(lambda rows: r_squared(found[rows], truth[rows]), len(truth)),
            "mean_absolute_error": float(error.mean()),
            "error_interval": bootstrapped(lambda rows: error[rows].mean(-1), len(truth)),
            "mean_alone": float(truth.abs().mean()) * self.deviation,
            "rows": len(truth),
        }

    def change(
        self, outputs: Float[Tensor, "R 1"], other: Float[Tensor, "R 1"], target: Float[Tensor, " R"]
    ) -> dict[str, Any]:
        """`mean_change` is how much the prediction of a row changes, in the unit of the column."""
        before, after, truth = outputs[:, 0].double(), other[:, 0].double(), target.double()
        return {
            "r_squared": self.score(other, target),
            "difference": self.score(other, target) - self.score(outputs, target),
            "interval": bootstrapped(
                lambda rows: r_squared(after[rows], truth[rows]) - r_squared(before[rows], truth[rows]), len(truth)
            ),
            "mean_change": float((before - after).abs().mean()) * self.deviation,
        }


outcomes: dict[str, type[Outcome]] = {outcome.task: outcome for outcome in (Classes, Number)}
"""Both forms by their task."""


def outcome_from_json(about: Mapping[str, Any]) -> Outcome:
    """What `{"task": outcome.task, **outcome.as_json()}` says."""
    arguments = dict(about)
    return outcomes[arguments.pop("task")](**arguments)


def form_of(column: str, values: Sequence[Any], task: str | None) -> type[Outcome]:
    """Whether the values that are not missing are classes or numbers, as given or else as they look.

    Raises:
        UserError: there is no such task, or nothing to tell apart.
    """
    if task is not None and task not in outcomes:
        raise UserError(f"task={task!r}: choose one of {', '.join(outcomes)}, or None to infer it")
    known = [value for value in values if value is not None]
    distinct = set(known)
    if len(distinct) < 2:
        raise UserError(f"column {column!r} has {len(distinct)} distinct value: there is nothing to tell apart")
    if task is None:
        numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
        whole = numeric and all(float(value).is_integer() for value in known)
        task = "regression" if numeric and (not whole or len(distinct) > MOST_CLASSES) else "classification"
    if task == "classification" and (
        len({type(value) for value in known}) > 1 or not isinstance(known[0], (str, bool, int, float))
    ):
        kinds = sorted({type(value).__name__ for value in known})
        raise UserError(f"column {column!r} holds {', '.join(kinds)}, expected text, integers or booleans: convert it")
    return outcomes[task]


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent rows: Wilson, JASA 1927."""
    z = 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrapped(statistic: Callable[[Int[Tensor, "S R"]], Float[Tensor, " S"]], count: int) -> tuple[float, float]:
    """The middle 95 % of a statistic over rows drawn with replacement: Efron, Annals of Statistics 1979."""
    generator, step = torch.Generator().manual_seed(0), max(1, DRAWN // count)
    sizes = [min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step)]
    found = torch.cat([statistic(torch.randint(count, (size, count), generator=generator)) for size in sizes])
    low, high = found.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def r_squared(found: Float[Tensor, "*lead R"], truth: Float[Tensor, "*lead R"]) -> Float[Tensor, "*lead"]:
    """`1 - Σ (t - y)² / Σ (t - mean t)²`."""
    spread = (truth - truth.mean(-1, keepdim=True)).square().sum(-1)
    return 1 - (truth - found).square().sum(-1) / torch.where(spread > 0, spread, torch.nan)
