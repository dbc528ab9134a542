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

from regard.errors import UserError
from regard.experiment import findings

REMEDY = "move it away and run the same `regard compare` command again: finished variants are not trained twice"

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
    """Of one forward, measured with all variants side by side."""
    train_seconds: float | None
    places: list[str]
    """The modules at which attention was inserted."""
    measure: str | None
    """What accuracy is, where it is not the share of right answers."""
    shortcuts: dict[str, dict[str, float]]
    """By what it is, the accuracy of what can be had without looking properly, where it is known."""


@dataclass(frozen=True)
class Difference:
    """One variant against the reference, paired by seed, or by test item where there is one seed."""

    attention: str
    reference: str
    difference: float
    interval: Interval | None
    differences: list[float]
    p: float | None
    adjusted_p: float | None
    """For the number of variants."""
    milliseconds_ratio: float | None
    milliseconds_ratio_quartiles: Interval | None
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
    correct: bool
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
    found: list[findings.Row] = field(default_factory=list)
    """What the results show, a row a variant."""
    baselines: dict[str, float] = field(default_factory=dict)
    """The accuracy of what can be had without looking properly; the first is blind."""
    absent: list[str] = field(default_factory=list)
    """Files that a finished run has and this one has not."""


def read(run: Path) -> Run:
    """Everything that the run folder holds so far.

    Raises:
        UserError: this is no run folder, or one of its files is broken.
    """
    if not run.is_dir():
        raise UserError(f"no run folder at {run}: name one that `regard compare` wrote, such as runs/NAME")
    for name in ("settings.json", "results.json"):
        if not (run / name).is_file():
            raise UserError(
                f"{run / name} is missing, so there is nothing to report: "
                "name a folder that `regard compare` wrote, or run it until the first variant is finished"
            )
    settings = _json(run / "settings.json", dict)
    with _checking(run / "settings.json"):
        task = _text(settings["task"])
        attention = [_text(name) for name in _list(settings["attention"])]
        seeds = [int(seed) for seed in _list(settings["seeds"])]
    results = _each(run / "results.json", _result)
    comparison = _each(run / "comparison.json", _difference) if (run / "comparison.json").is_file() else None
    with _checking(run / "results.json"):
        raw = {(one["attention"], one["seed"]): one for one in _json(run / "results.json", list)}
        differences = _json(run / "comparison.json", list) if comparison else []
        table = findings.rows(list(raw.values()), differences)
        baselines = findings.baselines(list(raw.values()))
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
        found=table,
        baselines=baselines,
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
        places=[_text(place) for place in _list(entry.get("places") or [])],
        measure=None if entry.get("measure") is None else _text(entry["measure"]),
        shortcuts={_text(name): _numbers(shares) for name, shares in (entry.get("shortcuts") or {}).items()},
    )


def _difference(entry: Any) -> Difference:
    difference = _number(entry["difference"])
    if difference is None:
        raise ValueError("difference is not a number")
    return Difference(
        attention=_text(entry["attention"]),
        reference=_text(entry.get("reference") or "none"),
        difference=difference,
        interval=_interval(entry.get("interval")),
        differences=[value for value in map(_number, _list(entry.get("differences") or [])) if value is not None],
        p=_number(entry.get("p")),
        adjusted_p=_number(entry.get("adjusted_p")),
        milliseconds_ratio=_number(entry.get("milliseconds_ratio")),
        milliseconds_ratio_quartiles=_interval(entry.get("milliseconds_ratio_quartiles")),
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
        correct=bool(entry["correct"]),
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
        raise UserError(f"{path} is not valid JSON ({error.msg}, line {error.lineno}): {REMEDY}") from error
    except KeyError as error:
        raise UserError(f"{path} lacks {error}: {REMEDY}") from error
    except (AttributeError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise UserError(f"{path} does not hold what a run writes ({error}): {REMEDY}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions and try again") from error


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
