"""Means over seeds, what is still missing, and what came out in words."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from regard.experiment import findings
from regard.report.folder import Interval, Result, Run

COSTS = ("parameters", "macs", "milliseconds", "train_seconds")


@dataclass(frozen=True)
class Row:
    """One variant, its numbers the means over its finished seeds."""

    variant: int
    """Its place in `Run.attention`, which gives it its colour on the whole page."""
    name: str
    seeds: list[int]
    accuracy: dict[str, float]
    interval: dict[str, Interval]
    """What the test set leaves open: with several seeds, the mean of their intervals."""
    spread: dict[str, Interval]
    """The lowest and highest seed, where there are several."""
    pointing: float | None
    parameters: float | None
    macs: float | None
    milliseconds: float | None
    train_seconds: float | None


def rows(run: Run) -> list[Row]:
    """One row for every variant with a result, in the order of the settings."""
    found = []
    for variant, name in enumerate(run.attention):
        results = [result for result in run.results if result.attention == name]
        if results:
            found.append(_row(variant, name, results))
    return found


def families(run: Run) -> list[str]:
    """The keys of accuracy in the order they came, without `overall`."""
    return [key for key in dict.fromkeys(key for result in run.results for key in result.accuracy) if key != "overall"]


def missing(run: Run) -> list[str]:
    """Variants, or seeds of a variant, that the settings ask for and that have no result yet."""
    done = {(result.attention, result.seed) for result in run.results}
    lines = []
    for name in run.attention:
        seeds = [seed for seed in run.seeds if (name, seed) not in done]
        if len(seeds) == len(run.seeds):
            lines.append(name)
        elif seeds:
            lines.append(f"{name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})")
    return lines


def best(table: list[Row], value: Callable[[Row], float | None], highest: bool, digits: int = 3) -> set[int]:
    """The variants with the best value, all of them where the table prints the same number."""
    values = {row.variant: number for row in table if (number := value(row)) is not None}
    if len(values) < 2:
        return set()
    shown = {variant: round(number, digits) for variant, number in values.items()}
    target = max(shown.values()) if highest else min(shown.values())
    winners = {variant for variant, number in shown.items() if number == target}
    return set() if len(winners) == len(shown) else winners


def cheapest_path(table: list[Row], cost: str) -> list[Row]:
    """The variants that no other one beats in accuracy at the same or a lower cost, from cheap to dear."""
    points = [row for row in table if getattr(row, cost) is not None and "overall" in row.accuracy]
    points.sort(key=lambda row: (getattr(row, cost), -row.accuracy["overall"]))
    path: list[Row] = []
    for row in points:
        if not path or row.accuracy["overall"] > path[-1].accuracy["overall"]:
            path.append(row)
    return path


def notes(run: Run) -> dict[str, str]:
    """What variants are, by their names, where it is known; in the order of the settings."""
    known = {result.attention: result.note for result in run.results if result.note}
    return {name: known[name] for name in run.attention if name in known}


def measure(run: Run) -> str | None:
    """What accuracy is, where it is not the share of right answers."""
    return next((result.measure for result in run.results if result.measure), None)


def sentences(run: Run) -> list[str]:
    """What came out, in words, from the numbers alone."""
    return findings.sentences(run.task, run.found, run.baselines, len(run.attention))


def _row(variant: int, name: str, results: list[Result]) -> Row:
    keys = list(dict.fromkeys(key for result in results for key in result.accuracy))
    accuracy = {key: [result.accuracy[key] for result in results if key in result.accuracy] for key in keys}
    intervals = {key: [result.interval[key] for result in results if key in result.interval] for key in keys}

    def mean(field: str) -> float | None:
        values = [value for result in results if (value := getattr(result, field)) is not None]
        return fmean(values) if values else None

    return Row(
        variant=variant,
        name=name,
        seeds=sorted(result.seed for result in results),
        accuracy={key: fmean(values) for key, values in accuracy.items()},
        interval={
            key: (fmean(low for low, _ in pairs), fmean(high for _, high in pairs))
            for key, pairs in intervals.items()
            if pairs
        },
        spread={key: (min(values), max(values)) for key, values in accuracy.items() if len(values) > 1},
        pointing=mean("pointing"),
        parameters=mean("parameters"),
        macs=mean("macs"),
        milliseconds=mean("milliseconds"),
        train_seconds=mean("train_seconds"),
    )
