"""What a run folder holds, read and checked. A broken file ends in one line that names it and says what to do."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from regard.commands import command
from regard.errors import UserError

_picture = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Result:
    """One finished variant and seed."""

    attention: str
    seed: int
    accuracy: dict[str, float]
    interval: dict[str, Interval]
    questions: dict[str, int]
    pointing: float | None
    parameters: float | None
    macs: float | None
    milliseconds: float | None
    train_seconds: float | None
    measure: str | None
    """What accuracy is, where it is not the share of right answers."""
    shortcuts: dict[str, dict[str, float]]
    """By what it is, the accuracy of what can be had without looking properly, where it is known."""
    note: str | None
    """What the variant is, where its name does not say it."""


@dataclass(frozen=True)
class Difference:
    """One variant against none, paired by seed."""

    attention: str
    difference: float
    interval: Interval | None
    differences: list[float]
    p: float | None
    milliseconds_ratio: float | None
    parameters_added: float | None


@dataclass(frozen=True)
class Evaluation:
    """One row of the metrics: `values` by column, without the empty cells."""

    attention: str
    seed: int
    values: dict[str, float]


@dataclass(frozen=True)
class Example:
    """One picture, what was asked about it, the truth, and the place of what was asked about."""

    picture: str
    width: int
    height: int
    question: str | None
    family: str | None
    truth: str
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Weights:
    """One map: rows of raw values over the picture, or a flat list `values` that has no place in it."""

    label: str
    rows: list[list[float]]
    values: list[float]
    sums_to_one: bool


@dataclass(frozen=True)
class Reading:
    """What one variant made of one example."""

    answer: str
    probability: float | None
    correct: bool | None
    """None of what is never just right, such as a number."""
    maps: list[Weights]


@dataclass(frozen=True)
class Run:
    """Everything in a run folder that the report shows."""

    name: str
    task: str
    attention: list[str]
    seeds: list[int]
    settings: dict[str, Any]
    results: list[Result]
    comparison: list[Difference] | None
    metrics: list[Evaluation]
    examples: list[Example]
    readings: dict[str, list[Reading]]
    absent: list[str] = field(default_factory=list)
    """Files that a finished run has and this one has not."""


@dataclass(frozen=True)
class Score:
    """How well a fusion predicts some rows: accuracy or R², and of numbers also the mean absolute error."""

    value: float
    interval: Interval | None
    error: float | None
    error_interval: Interval | None


@dataclass(frozen=True)
class FusionResult:
    """One trained fusion: its scores on the test, whole and without each modality, and how its training went."""

    name: str
    level: str
    seed: int
    parameters: float | None
    whole: Score
    without: dict[str, Score]
    history: list[dict[str, float]]
    best: int | None
    readings: list[Reading]
    robustness: str | None
    """The curves, an SVG picture."""


@dataclass(frozen=True)
class FusionExample:
    """One row of the test: texts and pictures by column, and what was to be predicted."""

    texts: dict[str, str]
    pictures: dict[str, str]
    truth: str


@dataclass(frozen=True)
class FusionRun:
    """Everything in the folder of a run of fusions that the report shows.

    Attributes:
        measure: `accuracy` or `r_squared`.
        baseline: the score of always saying the most common class, or the mean.
        baseline_error: of numbers, the mean absolute error of always saying the mean.
    """

    name: str
    settings: dict[str, Any]
    target: str
    measure: str
    rows: int
    baseline: float
    baseline_error: float | None
    results: list[FusionResult]
    examples: list[FusionExample]


def is_fusion(run: Path) -> bool:
    """Whether the folder is one of fusions."""
    path = run / "settings.json"
    return path.is_file() and _json(path, dict).get("task") == "fusion"


def read_fusion(run: Path) -> FusionRun:
    """Everything that a run of fusions holds so far.

    Raises:
        UserError: a file is missing or broken.
    """
    settings = _json(run / "settings.json", dict)
    if not (run / "results.json").is_file():
        raise UserError(
            f"{run / 'results.json'} is missing, so there is nothing to report: {_remedy('train', 'fusion')}"
        )
    entries = _json(run / "results.json", list)
    examples = _each(run / "examples.json", _fusion_example) if (run / "examples.json").is_file() else []
    with _checking(run / "results.json"):
        if not entries:
            raise ValueError("it has no result")
        first = entries[0]["test"]
        measure = "r_squared" if "r_squared" in first else "accuracy"
        return FusionRun(
            name=run.resolve().name,
            settings=settings,
            target=_text(settings["target"]),
            measure=measure,
            rows=int(first["rows"]),
            baseline=0.0 if measure == "r_squared" else float(first["most_common"]),
            baseline_error=_number(first.get("mean_alone")),
            results=[_fusion_result(run, entry, measure, len(examples)) for entry in entries],
            examples=examples,
        )


def _fusion_result(run: Path, entry: Any, measure: str, examples: int) -> FusionResult:
    name, seed = _text(entry["fusion"]), int(entry["seed"])
    part = run / f"{name}-{seed}"
    history, best = [], None
    if (part / "predictor.json").is_file():
        about = _json(part / "predictor.json", dict)
        with _checking(part / "predictor.json"):
            history = [_numbers(epoch) for epoch in _list(about["history"]["epochs"])]
            best = max((int(epoch) for epoch in about["history"]["best"]), default=None)
    readings = _each(part / "readings.json", _reading) if (part / "readings.json").is_file() else []
    drawn = part / "robustness.svg"
    return FusionResult(
        name=name,
        level=_text(entry["level"]),
        seed=seed,
        parameters=_number(entry.get("parameters")),
        whole=_score(entry["test"], measure),
        without={_text(gone): _score(score, measure) for gone, score in entry["without"].items()},
        history=history,
        best=best,
        readings=readings if len(readings) == examples else [],
        robustness=drawn.read_text(encoding="utf-8") if drawn.is_file() else None,
    )


def _score(entry: Any, measure: str) -> Score:
    value = _number(entry[measure])
    return Score(
        value=float("nan") if value is None else value,
        interval=_interval(entry.get("interval")),
        error=_number(entry.get("mean_absolute_error")),
        error_interval=_interval(entry.get("error_interval")),
    )


def _fusion_example(entry: Any) -> FusionExample:
    texts, pictures = {}, {}
    for name, cell in entry["cells"].items():
        if "picture" in cell:
            if not _picture.fullmatch(_text(cell["picture"])):
                raise ValueError("picture must be a data URL of a PNG, JPEG, WebP or GIF image in base64")
            pictures[_text(name)] = cell["picture"]
        else:
            texts[_text(name)] = _text(cell["text"])
    return FusionExample(texts, pictures, _text(entry["truth"]))


def read(run: Path) -> Run:
    """Everything that the run folder holds so far.

    Raises:
        UserError: this is no run folder, or one of its files is broken.
    """
    if not run.is_dir():
        raise UserError(f"no run folder at {run}: name one that `{command('compare')}` wrote, such as runs/NAME")
    for name in ("settings.json", "results.json"):
        if not (run / name).is_file():
            raise UserError(
                f"{run / name} is missing, so there is nothing to report: "
                f"name a folder that `{command('compare')}` wrote, or run it until the first variant is finished"
            )
    settings = _json(run / "settings.json", dict)
    with _checking(run / "settings.json"):
        task = _text(settings["task"])
        attention = [_text(name) for name in _list(settings["attention"])]
        seeds = [int(seed) for seed in _list(settings["seeds"])]
    results = _each(run / "results.json", _result)
    comparison = _each(run / "comparison.json", _difference) if (run / "comparison.json").is_file() else None
    examples = _each(run / "examples.json", _example) if (run / "examples.json").is_file() else []
    readings: dict[str, list[Reading]] = {}
    if (run / "readings.json").is_file():
        found = _json(run / "readings.json", dict)
        with _checking(run / "readings.json"):
            readings = {_text(name): [_reading(entry) for entry in _list(entries)] for name, entries in found.items()}
            for name, entries in readings.items():
                if len(entries) != len(examples):
                    raise ValueError(f"{name} has {len(entries)} readings for {len(examples)} examples")
    metrics = _metrics(run / "metrics.csv") if (run / "metrics.csv").is_file() else []
    # What the run was asked for comes first and in that order, then whatever else left results.
    expected = ["none", *attention] if task == "pictures" else attention
    named = [*expected, *(result.attention for result in results), *(row.attention for row in metrics), *readings]
    return Run(
        name=run.resolve().name,
        task=task,
        attention=list(dict.fromkeys(named)),
        seeds=seeds or [0],
        settings=settings,
        results=list({(result.attention, result.seed): result for result in results}.values()),
        comparison=comparison,
        metrics=metrics,
        examples=examples,
        readings=readings,
        absent=[name for name in ("metrics.csv", "examples.json", "readings.json") if not (run / name).is_file()],
    )


def _result(entry: Any) -> Result:
    return Result(
        attention=_text(entry["attention"]),
        seed=int(entry["seed"]),
        accuracy=_numbers(entry["accuracy"]),
        interval={key: pair for key, value in (entry.get("interval") or {}).items() if (pair := _interval(value))},
        questions={key: int(value) for key, value in _numbers(entry.get("questions") or {}).items()},
        pointing=_number(entry.get("pointing")),
        parameters=_number(entry.get("parameters")),
        macs=_number(entry.get("macs")),
        milliseconds=_number(entry.get("milliseconds")),
        train_seconds=_number(entry.get("train_seconds")),
        measure=None if entry.get("measure") is None else _text(entry["measure"]),
        shortcuts={_text(name): _numbers(shares) for name, shares in (entry.get("shortcuts") or {}).items()},
        note=None if entry.get("note") is None else _text(entry["note"]),
    )


def _difference(entry: Any) -> Difference:
    difference = _number(entry["difference"])
    if difference is None:
        raise ValueError("difference is not a number")
    return Difference(
        attention=_text(entry["attention"]),
        difference=difference,
        interval=_interval(entry.get("interval")),
        differences=[value for value in map(_number, _list(entry.get("differences") or [])) if value is not None],
        p=_number(entry.get("p")),
        milliseconds_ratio=_number(entry.get("milliseconds_ratio")),
        parameters_added=_number(entry.get("parameters_added")),
    )


def _example(entry: Any) -> Example:
    picture = _text(entry["picture"])
    if not _picture.fullmatch(picture):
        raise ValueError("picture must be a data URL of a PNG, JPEG, WebP or GIF image in base64")
    width, height = int(entry["width"]), int(entry["height"])
    if min(width, height) < 1:
        raise ValueError(f"a picture of {width} by {height} pixels")
    box = None
    if entry.get("box") is not None:
        left, top, wide, high = (float(number) for number in entry["box"])
        box = (left, top, wide, high)
    question, family = entry.get("question"), entry.get("family")
    return Example(
        picture=picture,
        width=width,
        height=height,
        question=None if question is None else _text(question),
        family=None if family is None else _text(family),
        truth=_text(entry["truth"]),
        box=box,
    )


def _reading(entry: Any) -> Reading:
    return Reading(
        answer=_text(entry["answer"]),
        probability=_number(entry.get("probability")),
        correct=None if entry["correct"] is None else bool(entry["correct"]),
        maps=[_weights(weights) for weights in _list(entry.get("maps") or [])],
    )


def _weights(entry: Any) -> Weights:
    rows = [[float(value) for value in _list(row)] for row in _list(entry.get("weights") or [])]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("the rows of a map must have one length")
    return Weights(
        label=_text(entry.get("label") or "attention"),
        rows=rows,
        values=[float(value) for value in _list(entry.get("values") or [])],
        sums_to_one=bool(entry.get("sums_to_one")),
    )


def _metrics(path: Path) -> list[Evaluation]:
    rows: list[Evaluation] = []
    with _checking(path), path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file, strict=True):
            cells = {key: cell for key, cell in line.items() if isinstance(key, str) and isinstance(cell, str)}
            name, seed = cells.pop("attention"), int(cells.pop("seed"))
            values = {key: float(cell) for key, cell in cells.items() if cell.strip()}
            rows.append(Evaluation(name, seed, {key: value for key, value in values.items() if isfinite(value)}))
    return rows


def _each(path: Path, build: Any) -> list[Any]:
    entries = _json(path, list)
    with _checking(path):
        return [build(entry) for entry in entries]


def _json(path: Path, kind: type) -> Any:
    with _checking(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise TypeError(f"expected a JSON {'object' if kind is dict else 'list'}")
        return found


@contextmanager
def _checking(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error.msg}, line {error.lineno}): {_remedy()}") from error
    except KeyError as error:
        raise UserError(f"{path} lacks {error}: {_remedy()}") from error
    except (AttributeError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{path} does not hold what a run writes ({error}): {_remedy()}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and try again") from error


def _remedy(*words: str) -> str:
    again = f"move it away and run the same `{command(*words or ('compare',))}` command again"
    return f"{again}: finished variants are not trained twice"


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    return value


def _number(value: Any) -> float | None:
    """A finite number, or None for null, NaN and infinity."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r}")
    return float(value) if isfinite(value) else None


def _numbers(value: Any) -> dict[str, float]:
    return {key: number for key, entry in value.items() if (number := _number(entry)) is not None}


def _interval(value: Any) -> Interval | None:
    if value is None:
        return None
    low, high = (_number(end) for end in value)
    return None if low is None or high is None else (low, high)
