"""Means over seeds, what is still missing, and one sentence that says what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from regard import formatting
from regard.report.folder import Difference, Interval, Result, Run

MODELS = ("visual-questions", "sort-of-clevr")
"""Tasks whose variants are models of their own, and not one model with one attention or another."""

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


def shortcuts(run: Run) -> dict[str, float]:
    """The overall accuracy of what can be had without looking, where it is known."""
    known = next((result.shortcuts for result in run.results if result.shortcuts), {})
    return {name: shares["overall"] for name, shares in known.items() if "overall" in shares}


def notes(run: Run) -> dict[str, str]:
    """What variants are, by their names, where it is known; in the order of the settings."""
    known = {result.attention: result.note for result in run.results if result.note}
    return {name: known[name] for name in run.attention if name in known}


def measure(run: Run) -> str | None:
    """What accuracy is, where it is not the share of right answers."""
    return next((result.measure for result in run.results if result.measure), None)


def sentence(run: Run, table: list[Row]) -> str:
    """What came out, in words, from the numbers alone."""
    ranked = sorted((row for row in table if "overall" in row.accuracy), key=lambda row: -row.accuracy["overall"])
    if not ranked:
        return "No variant has finished yet, so there is nothing to compare."
    if run.task == "pictures" and run.comparison:
        return _differences(run.comparison, max(len(row.seeds) for row in table))
    text = _ranking(run, ranked)
    known = [f"{name}, {_share(share)}" for name, share in shortcuts(run).items()]
    if known:
        text += f" Shortcut{'s' * (len(known) > 1)}: {'; '.join(known)}."
    return text


def _ranking(run: Run, ranked: list[Row]) -> str:
    """The best, who follows, and whether that may be chance."""
    first = ranked[0]
    right = f"{_share(first.accuracy['overall'])} of the test {'pictures' if run.task == 'pictures' else 'questions'}"
    if run.task in MODELS:
        text = f"{first.name} answers {right} rightly{_between(first)}"
    else:
        manner = "Without attention" if first.name == "none" else f"With {first.name} attention"
        text = f"{manner}, {right} are answered right{_between(first)}"
    if first.pointing is not None:
        text += f", and the largest weight lies on what was asked about in {_share(first.pointing)} of cases"
    if len(ranked) == 1:
        return text + ("." if len(run.attention) == 1 else ". No other variant has finished yet.")
    second = ranked[1]
    baseline = next((row for row in ranked[1:] if row.name == "none"), second)
    if baseline is not second:
        text += f"; {second.name} follows with {_share(second.accuracy['overall'])}"
    manner = "without attention it is" if baseline.name == "none" else f"{baseline.name} follows with"
    text += f"; {manner} {_share(baseline.accuracy['overall'])}."
    close = [row.name for row in ranked[1:] if _overlap(first.interval.get("overall"), row.interval.get("overall"))]
    if close:
        verb = "overlaps" if len(close) == 1 else "overlap"
        nouns = "interval" if len(close) == 1 else "intervals"
        text += f" The {nouns} of {_and(close)} {verb} with the best, so their order may be chance."
    return text


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


def _differences(comparison: list[Difference], seeds: int) -> str:
    top = max(comparison, key=lambda entry: entry.difference)
    gain = f"{_points(top.difference)} of accuracy"
    price = "" if top.milliseconds_ratio is None else f", at {top.milliseconds_ratio:.2f} times the time for a picture"
    if top.interval is None:
        return (
            f"{top.attention} comes out highest, {gain} against no attention{price}. "
            "This is one seed, which cannot tell a gain from chance: --seeds 5 would."
        )
    low, high = top.interval
    between = f"95 % interval {_points(low, '')} to {_points(high, '')}, {seeds} paired seeds"
    if low > 0:
        return f"{top.attention} helps on these pictures: {gain} against no attention ({between}){price}."
    if all(entry.interval is not None and entry.interval[0] <= 0 for entry in comparison):
        return (
            f"No attention is shown to help on these pictures: the highest, {top.attention}, comes out {gain} "
            f"against none, an interval that includes no gain ({between}){price}."
        )
    sure = max((e for e in comparison if e.interval and e.interval[0] > 0), key=lambda e: e.difference, default=top)
    return (
        f"{top.attention} comes out highest, {gain} against no attention, but its interval includes no gain ({between})"
        + (f"; {sure.attention} does help, {_points(sure.difference)}." if sure is not top else ".")
    )


def _points(difference: float, unit: str = " percentage points") -> str:
    return formatting.signed(100 * difference) + unit


def _share(value: float) -> str:
    return formatting.percent(value)


def _between(row: Row) -> str:
    if "overall" not in row.interval:
        return ""
    low, high = row.interval["overall"]
    return f" (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def _overlap(one: Interval | None, other: Interval | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
