"""What the results of a comparison show, and what they do not: sentences and table rows, from the numbers alone.

The terminal and the report say the same, as both take it from here. `results` and `comparison` below are what
`results.json` and `comparison.json` of a run hold.

A difference counts as shown if its p-value, adjusted for the number of variants by Holm's method, is below 0.05. It
counts as undone by an ablation if at least half of it goes with the attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any

from regard import formatting
from regard.experiment.statistics import Interval, mean_interval
from regard.watching.ablation import KINDS

LEVEL = 0.05
"""Below it an adjusted p-value counts as shown."""

HARDLY = 0.01
"""Below this share of changed predictions attention is hardly used."""

FIXED = 0.2
"""Below this share of what removal changes, weights at their mean count as changing nothing, if that is not shown."""

MOST_SAID = 3
"""Differences that are put in words, and maps that are named; the table has all differences."""

HEADINGS = (
    "variant", "accuracy", "difference", "removed", "mean", "resampled", "changed", "strength", "time", "parameters"
)  # fmt: skip
"""Of the columns that `Row.cells` fills."""

EXPLANATION = (
    "difference: to the reference, in percentage points, with its 95 % interval. removed, mean, resampled: accuracy "
    "with the attention removed, with its weights replaced by their mean over the test set, and by those of another "
    "picture. changed: share of predictions that the first of these changes. strength: mean size, lowest and highest. "
    "time: of one forward as a multiple of the reference, both timed in turn, with quartiles."
)


@dataclass(frozen=True)
class Ablation:
    """What an ablation of the attention changes, the mean over seeds.

    Attributes:
        accuracy: with the attention ablated.
        difference: to the full model.
        interval: of the difference: over seeds if there are several, otherwise over test items.
        changed: the share of predictions that change.
    """

    accuracy: float
    difference: float
    interval: Interval | None
    changed: float

    @property
    def matters(self) -> bool:
        """Whether it is shown to change the accuracy; without an interval, whether more than hardly any prediction."""
        if self.interval is None:
            return self.changed >= HARDLY
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Row:
    """One variant, its numbers the means over its finished seeds.

    Attributes:
        name: of the variant.
        seeds: how many.
        accuracy: overall.
        interval: of the accuracy: over seeds if there are several, otherwise over test items.
        difference: to the reference, an entry of `comparison.json`; None for the reference.
        ablations: by kind; None where it is not possible.
        strength: mean size, lowest and highest; None where attention has none.
        ratio: time as a multiple of the reference's, and its quartiles.
        parameters: how many.
        left: by ablation, the maps that could not be ablated, each with the reason.
    """

    name: str
    seeds: int
    accuracy: float
    interval: Interval | None
    difference: Mapping[str, Any] | None
    ablations: Mapping[str, Ablation | None]
    strength: tuple[float, float, float] | None
    ratio: tuple[float, float, float] | None
    parameters: float | None
    left: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def shown(self) -> bool:
        """Whether a difference to the reference is shown."""
        entry = self.difference or {}
        p, interval = entry.get("adjusted_p"), entry.get("interval")
        return p is not None and p < LEVEL and bool(interval) and (interval[0] > 0 or interval[1] < 0)

    @property
    def ablation(self) -> tuple[str, Ablation] | None:
        """The ablation that a verdict rests on, the first that is possible, and its kind."""
        return next(((kind, one) for kind in KINDS if (one := self.ablations.get(kind)) is not None), None)

    @property
    def undone(self) -> bool | None:
        """Whether the difference goes with the attention; None where that was not measured."""
        if self.ablation is None or self.difference is None:
            return None
        difference = self.difference["difference"]
        lost = -self.ablation[1].difference
        return lost * (1 if difference > 0 else -1) >= abs(difference) / 2

    @property
    def fixed(self) -> bool:
        """Whether the model needs its attention, but not that its weights depend on what it is shown."""
        removed, mean = self.ablations.get("removed"), self.ablations.get("mean")
        if removed is None or mean is None or not removed.matters or mean.matters:
            return False
        return abs(mean.difference) < FIXED * abs(removed.difference)

    def cells(self) -> list[str]:
        """The texts of the columns `HEADINGS`; empty where there is nothing to measure."""
        entry = self.difference or {}
        accuracy = formatting.fixed(self.accuracy)
        if self.interval is not None:
            accuracy += f" ± {formatting.fixed((self.interval[1] - self.interval[0]) / 2)}"
        difference = ""
        if self.difference is not None:
            difference = formatting.signed(100 * entry["difference"])
            if entry.get("interval"):
                difference += f" ({points(entry['interval'])})"
        ablated = [self.ablations.get(kind) for kind in KINDS]
        strength = ""
        if self.strength is not None:
            mean, low, high = (formatting.number(value, 2) for value in self.strength)
            strength = f"{mean} ({low} to {high})"
        ratio = ""
        if self.ratio is not None:
            middle, low, high = (formatting.fixed(value, 2) for value in self.ratio)
            ratio = f"× {middle} ({low} to {high})"
        return [
            self.name,
            accuracy,
            difference,
            *("" if one is None else formatting.fixed(one.accuracy) for one in ablated),
            "" if self.ablation is None else formatting.percent(self.ablation[1].changed),
            strength,
            ratio,
            "" if self.parameters is None else formatting.count(self.parameters),
        ]


def rows(results: Sequence[Mapping[str, Any]], comparison: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row for each variant with a result, in the order of the results."""
    differences = {entry["attention"]: entry for entry in comparison}
    found = []
    for name in dict.fromkeys(result["attention"] for result in results):
        mine = [one for one in results if one["attention"] == name and _finite(one["accuracy"].get("overall"))]
        if mine:
            found.append(_row(name, mine, differences.get(name)))
    return found


def baselines(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the overall accuracy of what can be had without looking properly; the first is blind."""
    known: Mapping[str, Any] = next((one["shortcuts"] for one in results if one.get("shortcuts")), {})
    return {name: shares["overall"] for name, shares in known.items() if "overall" in shares}


def sentences(
    task: str, table: Sequence[Row], known: Mapping[str, float] | None = None, asked: int | None = None
) -> list[str]:
    """Return what came out, the most important first.

    Args:
        task: its name.
        table: of `rows`.
        known: of `baselines`.
        asked: how many variants the run is to have; default as many as there are.
    """
    if not table:
        return ["No variant has finished yet, so there is nothing to compare."]
    what = "pictures" if task == "pictures" else "questions"
    said = _guessing(table, known or {}, what)
    ranked = sorted(table, key=lambda row: -row.accuracy)
    if len(table) == 1:
        (row,) = table
        rest = "" if asked in (None, 1) else " No other variant has finished yet."
        reached = f"{_subject(row.name)} gets {_reached(row)} of the test {what} right.{rest}"
        return [*said, reached, *_unused(table), *_fixed(table, what), *_known(known or {})]
    top = [row for row in ranked if round(row.accuracy, 3) == round(ranked[0].accuracy, 3)]
    first = f"{_subject(top[0].name)} is highest" if len(top) == 1 else f"{_and([row.name for row in top])} are level"
    said.append(f"{first}, with {_reached(top[0])} of the test {what} right.")
    compared = [row for row in table if row.difference is not None]
    shown = sorted((row for row in compared if row.shown), key=lambda row: -abs(_difference(row)))
    said += [_shown(row, len(compared)) for row in shown[:MOST_SAID]]
    if len(shown) > MOST_SAID:
        said.append(f"Differences are shown of {len(shown) - MOST_SAID} more variants, see the table.")
    if compared and len(shown) < len(compared):
        said.append(_not_shown([row for row in compared if not row.shown], bool(shown), len(compared)))
    single = [row for row in compared if (row.difference or {}).get("paired_by") == "items"]
    if single:
        which = "This is one seed"
        if len(single) < len(compared):
            which = f"Of {_and([row.name for row in single])} this is one seed"
        said.append(
            f"{which}, whose intervals come from the test {what} alone: what another seed would change is not in them, "
            "and --seeds 5 would show it."
        )
    told = {row.name for row in shown[:MOST_SAID] if _needs_mean_alone(row)}
    rest = [row for row in table if row.name not in told]
    return [*said, *_unused(table), *_fixed(rest, what), *_known(known or {})]


def not_ablated(table: Sequence[Row]) -> list[str]:
    """Return what could not be ablated and so stayed as it is, a line a variant, ablation and reason."""
    said = []
    for row in table:
        for kind in KINDS:
            reasons: dict[str, list[str]] = {}
            for line in row.left.get(kind, ()):
                name, known, reason = line.partition(": ")
                reasons.setdefault(reason if known else line, []).extend([name] * bool(known))
            for reason, names in reasons.items():
                more = [f"{len(names) - MOST_SAID} more"] * (len(names) > MOST_SAID)
                maps = f"{_and([*names[:MOST_SAID], *more])} ({reason})" if names else f"all of it ({reason})"
                said.append(f"Left out of the ablation {kind!r} of {row.name}: {maps}.")
    return said


def points(interval: Sequence[float]) -> str:
    """Return an interval of a difference in percentage points, as text."""
    low, high = interval
    return f"{formatting.signed(100 * low)} to {formatting.signed(100 * high)}"


def _row(name: str, results: Sequence[Mapping[str, Any]], difference: Mapping[str, Any] | None) -> Row:
    accuracies = [one["accuracy"]["overall"] for one in results]
    interval = mean_interval(accuracies)
    own = (results[0].get("interval") or {}).get("overall")
    if interval is None and own and all(map(_finite, own)):
        interval = float(own[0]), float(own[1])
    strengths = [one["strength"] for one in results if one.get("strength")]
    quartiles = results[0].get("milliseconds_ratio_quartiles")
    sizes = [one["parameters"] for one in results if one.get("parameters") is not None]
    return Row(
        name=name,
        seeds=len(results),
        accuracy=fmean(accuracies),
        interval=interval,
        difference=difference,
        ablations={kind: _ablation([(one.get("ablations") or {}).get(kind) for one in results]) for kind in KINDS},
        strength=None
        if not strengths
        else (
            fmean(one["mean"] for one in strengths),
            min(one["lowest"] for one in strengths),
            max(one["highest"] for one in strengths),
        ),
        ratio=None if not quartiles else (results[0]["milliseconds_ratio"], quartiles[0], quartiles[1]),
        parameters=fmean(sizes) if sizes else None,
        left=_left(results),
    )


def _left(results: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What could not be ablated, of all seeds, each once."""
    found: dict[str, list[str]] = {}
    for one in results:
        for kind, lines in ((one.get("ablations") or {}).get("left") or {}).items():
            found[kind] = list(dict.fromkeys([*found.get(kind, []), *lines]))
    return found


def _ablation(found: Sequence[Mapping[str, Any] | None]) -> Ablation | None:
    known = [one for one in found if one is not None]
    if not known:
        return None
    differences = [one["difference"] for one in known]
    interval = mean_interval(differences) or known[0].get("interval")
    return Ablation(
        accuracy=fmean(one["accuracy"] for one in known),
        difference=fmean(differences),
        interval=None if interval is None else (interval[0], interval[1]),
        changed=fmean(one["changed"] for one in known),
    )


def _finite(value: float | None) -> bool:
    return value is not None and isfinite(value)


def _guessing(table: Sequence[Row], known: Mapping[str, float], what: str) -> list[str]:
    """Which variants are below the blind baseline, or not shown to be above it."""
    if not known:
        return []
    name, share = next(iter(known.items()))
    said = []
    worse = [row for row in table if row.accuracy < share]
    if worse:
        reached = _and([f"{row.name} ({formatting.percent(row.accuracy)})" for row in worse])
        said.append(
            f"Worse than guessing: {reached} of the test {what} right, against {formatting.percent(share)} for {name}."
        )
    unsure = [row for row in table if row.interval is not None and row.interval[0] <= share <= row.accuracy]
    if unsure:
        names = _and([row.name for row in unsure])
        said.append(f"Not shown to be better than guessing ({name}, {formatting.percent(share)}): {names}.")
    return said


def _shown(row: Row, comparisons: int) -> str:
    difference = _difference(row)
    to = _object((row.difference or {}).get("reference", "none"))
    side = "above" if difference > 0 else "below"
    text = f"{_subject(row.name)} is {_points(abs(difference))} {side} {to} ({_evidence(row, comparisons)})"
    if row.ratio is not None:
        text += f", at {formatting.fixed(row.ratio[0], 2)} times the time"
    text += "."
    if row.ablation is None or row.undone is None:
        return text
    kind, ablation = row.ablation
    doing = {
        "removed": "removing it", "mean": "replacing its weights by their mean",
        "resampled": "giving it the weights of another picture",
    }[kind]  # fmt: skip
    effect = (
        f"{doing} changes {formatting.percent(ablation.changed)} of predictions and accuracy by "
        f"{_points(ablation.difference, True)}"
    )
    if not row.undone:
        if difference < 0:
            return f"{text} Removing what the attention computes at test time does not undo that: {effect}."
        return f"{text} The difference does not come from what the attention computes at test time: {effect}."
    fixed = row.ablations.get("mean")
    if fixed is not None and _needs_mean_alone(row):
        return (
            f"{text} The model relies on it ({effect}), but not on what it computes from each picture: with its "
            f"weights at their mean over the test set accuracy changes by {_points(fixed.difference, True)}."
        )
    return f"{text} It goes with the attention: {effect}."


def _needs_mean_alone(row: Row) -> bool:
    """Return whether a difference goes with the attention, and not with how its weights depend on what is shown."""
    fixed = row.ablations.get("mean")
    if fixed is None or not row.undone or row.ablations.get("removed") is None:
        return False
    difference = _difference(row)
    return -fixed.difference * (1 if difference > 0 else -1) < abs(difference) / 2


def _not_shown(unshown: Sequence[Row], others: bool, comparisons: int) -> str:
    """That no difference could be shown, and how large a one could have been."""
    most = max(unshown, key=lambda row: abs(_difference(row)))
    to = _object((most.difference or {}).get("reference", "none"))
    of = f" of {_and([row.name for row in unshown])}" if others else ""
    largest = f"largest: {most.name}, {_points(_difference(most), True)}"
    if len(unshown) == 1:
        largest = f"{most.name} differs by {_points(_difference(most), True)}"
    text = f"No difference{of} to {to} could be shown ({largest}, {_evidence(most, comparisons)})."
    widths = [high - low for row in unshown if (row.difference or {}).get("interval") for low, high in [_interval(row)]]
    if widths:
        text += f" A difference below about {formatting.fixed(100 * max(widths) / 2, 1)} points could not be seen here."
    return text


def _unused(table: Sequence[Row]) -> list[str]:
    """Which variants compute attention that changes hardly any prediction."""
    hardly = [row for row in table if row.ablation is not None and row.ablation[1].changed < HARDLY]
    if not hardly:
        return []
    most = max(row.ablation[1].changed for row in hardly if row.ablation is not None)
    at_most = "at most " if len(hardly) > 1 else ""
    return [
        f"Attention that is hardly used: {_and([row.name for row in hardly])}; without it {at_most}"
        f"{formatting.percent(most)} of predictions change."
    ]


def _fixed(table: Sequence[Row], what: str) -> list[str]:
    """Which variants need their attention, but not that its weights depend on what the model is shown."""
    said = []
    for row in table:
        removed, mean = row.ablations.get("removed"), row.ablations.get("mean")
        if row.fixed and removed is not None and mean is not None:
            acting, shown = ("rescaling", "picture") if what == "pictures" else ("weighting", "picture and question")
            said.append(
                f"Attention that acts as a fixed {acting}, not as attention to content: {row.name}. Removing it "
                f"changes accuracy by {_points(removed.difference, True)}, and replacing its weights by their mean "
                f"over the test set by {_points(mean.difference, True)}: that they depend on the {shown} is not used."
            )
    return said


def _known(known: Mapping[str, float]) -> list[str]:
    """The baselines."""
    if not known:
        return []
    return [
        f"Baseline{'s' * (len(known) > 1)}: {'; '.join(f'{k}, {formatting.percent(v)}' for k, v in known.items())}."
    ]


def _evidence(row: Row, comparisons: int) -> str:
    """The interval, what the sample is, and the p-value, in words."""
    entry = row.difference or {}
    parts = []
    if entry.get("interval"):
        parts.append(f"95 % interval {points(entry['interval'])}")
    seeds = len(entry.get("differences") or [])
    parts.append("paired test items of one seed" if entry.get("paired_by") == "items" else _seeds(seeds))
    if (p := entry.get("adjusted_p")) is not None:
        adjusted = f" adjusted for {comparisons} comparisons" if comparisons > 1 else ""
        parts.append(f"p {'< 0.001' if p < 0.001 else f'= {formatting.fixed(p)}'}{adjusted}")
    return ", ".join(parts)


def _seeds(count: int) -> str:
    return "one seed, which says nothing of chance" if count <= 1 else f"{count} paired seeds"


def _interval(row: Row) -> tuple[float, float]:
    low, high = (row.difference or {})["interval"]
    return low, high


def _difference(row: Row) -> float:
    return float((row.difference or {})["difference"])


def _points(difference: float, sign: bool = False) -> str:
    number = formatting.signed(100 * difference) if sign else formatting.fixed(100 * difference, 1)
    return f"{number} percentage points"


def _reached(row: Row) -> str:
    reached = formatting.percent(row.accuracy)
    if row.interval is None:
        return reached
    low, high = (formatting.fixed(100 * max(0.0, min(1.0, end)), 1) for end in row.interval)
    return f"{reached} (95 % interval {low} to {high})"


def _subject(name: str) -> str:
    return "The model without attention" if name == "none" else name


def _object(name: str) -> str:
    return "no attention" if name == "none" else name


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
