"""What the page of a run of fusions shows: the sentence, the columns of the table, the curves and the examples."""

from base64 import b64encode
from dataclasses import dataclass
from math import isfinite
from typing import Any

from regard.formatting import fixed, number, percent
from regard.report import charts
from regard.report.folder import Evaluation, FusionExample, FusionResult, FusionRun, Reading, Run, Score

MEASURES = {"accuracy": "accuracy", "r_squared": "R²"}

BASELINES = {"accuracy": "the most common class", "r_squared": "the mean"}


@dataclass(frozen=True)
class Tile:
    """What one fusion says to one row."""

    variant: int
    name: str
    reading: Reading


@dataclass(frozen=True)
class Card:
    """One row of the test with every fusion's answer."""

    number: int
    example: FusionExample
    tiles: list[Tile]


def context(run: FusionRun) -> dict[str, Any]:
    """Return what the template of fusions is filled with."""
    names = [result.name for result in run.results]
    return {
        "fusion": run,
        "measure": MEASURES[run.measure],
        "baseline": BASELINES[run.measure],
        "sentence": sentence(run),
        "gone": list(dict.fromkeys(name for result in run.results for name in result.without)),
        "best": best(run.results),
        "panels": panels(run),
        "robustness": [(one.name, picture(one.robustness)) for one in run.results if one.robustness],
        "cards": cards(run),
        "variants": names,
        "stopped": {result.name: result.best for result in run.results if result.best is not None},
    }


def sentence(run: FusionRun) -> str:
    """Say what came out, from the numbers alone, and first whether it is better than a guess."""
    ranked = sorted((one for one in run.results if isfinite(one.whole.value)), key=lambda one: -one.whole.value)
    if not ranked:
        return "No score could be computed: the target does not vary in the test."
    first, guess = ranked[0], BASELINES[run.measure]
    rows = f"{run.rows:,} test row{'s' * (run.rows != 1)}"
    known = f"always saying {guess}, {_shown(run, run.baseline)}"
    reached = f"{first.name} reaches an {MEASURES[run.measure]} of {_shown(run, first.whole.value)}"
    reached += _between(run, first.whole)
    if first.whole.value <= run.baseline:
        text = f"No fusion predicts {run.target} better than {known}: the best, {reached} on {rows}."
    elif first.whole.interval is None or first.whole.interval[0] <= run.baseline:
        text = f"{reached} on {rows}, which is not shown to be better than {known}."
    else:
        text = f"{reached} on {rows}, against {known}."
    if first.whole.error is not None and run.baseline_error is not None:
        error, guessed = number(first.whole.error), number(run.baseline_error)
        text += f" Its mean absolute error is {error}; {guess} alone has {guessed}."
    if len(ranked) > 1:
        second = ranked[1]
        level = [one.name for one in ranked[1:] if _shown(run, one.whole.value) == _shown(run, first.whole.value)]
        follows = f"{second.name} follows with {_shown(run, second.whole.value)}"
        text += f" {', '.join(level)} reach{'es' * (len(level) == 1)} the same." if level else f" {follows}."
        if close := [one.name for one in ranked[1:] if _overlap(first.whole, one.whole)]:
            text += f" The intervals of {', '.join(close)} overlap with the best, so their order may be chance."
    missed = {name: score.value for name, score in first.without.items() if isfinite(score.value)}
    if missed:
        worst = min(missed, key=missed.__getitem__)
        if missed[worst] < first.whole.value:
            text += f" {first.name} misses {worst} most: without it, {_shown(run, missed[worst])}."
    return text


def best(results: list[FusionResult]) -> set[str]:
    """Return the fusions with the best score as the table prints it; none where all are alike."""
    shown = {one.name: round(one.whole.value, 3) for one in results if isfinite(one.whole.value)}
    winners = {name for name, value in shown.items() if value == max(shown.values())}
    return set() if len(winners) == len(shown) else winners


def panels(run: FusionRun) -> list[charts.Panel]:
    """Return the learning curves over epochs: the score and the loss of the rows held out, and that of training."""
    titles = {"held_out_score": f"held-out {MEASURES[run.measure]}", "held_out_loss": "held-out loss", "loss": "loss"}
    metrics = [
        Evaluation(
            result.name,
            result.seed,
            {"epoch": epoch + 1.0} | {titles.get(key, key): value for key, value in row.items()},
        )
        for result in run.results
        for epoch, row in enumerate(result.history)
    ]
    shown = Run(
        name=run.name, task="fusion", attention=[one.name for one in run.results], seeds=[], settings={}, results=[],
        comparison=None, metrics=metrics, examples=[], readings={},
    )  # fmt: skip
    return charts.curves(shown, "epoch", list(titles.values()))


def picture(svg: str) -> str:
    """Return an SVG picture as a link that can run nothing."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def cards(run: FusionRun) -> list[Card]:
    """Return the rows that at least one fusion was asked about, each with the answers."""
    found = []
    for place, example in enumerate(run.examples):
        tiles = [
            Tile(variant, one.name, one.readings[place]) for variant, one in enumerate(run.results) if one.readings
        ]
        if tiles:
            found.append(Card(place + 1, example, tiles))
    return found


def _shown(run: FusionRun, value: float) -> str:
    return percent(value) if run.measure == "accuracy" else fixed(value)


def _between(run: FusionRun, score: Score) -> str:
    if score.interval is None:
        return ""
    low, high = (fixed(100 * end, 1) if run.measure == "accuracy" else fixed(end) for end in score.interval)
    return f" (95 % interval {low} to {high})"


def _overlap(one: Score, other: Score) -> bool:
    return bool(
        one.interval
        and other.interval
        and one.interval[0] <= other.interval[1]
        and other.interval[0] <= one.interval[1]
    )
