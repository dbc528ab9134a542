"""Where ticks, lines, points and labels of the charts stand; the template draws them as SVG."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, floor, isclose, log10

from regard.formatting import number
from regard.report.folder import Difference, Interval, Run
from regard.report.summary import Row, cheapest_path

COLOURS = 9
"""As many colours as the style sheet names; the first is grey and for `none` alone."""

COST_TITLES = {
    "macs": "multiply-accumulates",
    "parameters": "parameters",
    "milliseconds": "milliseconds",
}


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in the drawing and what stands there."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A range of values on a range of the drawing, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    step: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[Tick]:
        first, last = ceil(self.low / self.step - 1e-9), floor(self.high / self.step + 1e-9)
        values = [self.step * count for count in range(first, last + 1)]
        return [Tick(self(value), plain(value, self.step)) for value in values]


@dataclass(frozen=True)
class Point:
    """A place in the drawing and what hovering over it says."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """One seed of one variant."""

    variant: int
    path: str
    title: str
    points: list[Point]


@dataclass(frozen=True)
class Label:
    """A variant's name beside its mark."""

    variant: int
    x: float
    y: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True)
class Panel:
    """One chart: learning curves of one quantity."""

    title: str
    x_title: str
    width: float
    height: float
    x: Scale
    y: Scale
    lines: list[Line]
    labels: list[Label]


@dataclass(frozen=True)
class Whisker:
    """A variant in the chart of accuracy against cost, with the ends of its interval."""

    variant: int
    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Scatter:
    """Accuracy against one cost."""

    cost: str
    x_title: str
    width: float
    height: float
    x: Scale
    y: Scale
    points: list[Whisker]
    labels: list[Label]
    path: str
    """The staircase of those that no other beats at the same or a lower cost."""
    path_names: list[str]


@dataclass(frozen=True)
class ForestRow:
    """One variant's paired difference."""

    variant: int
    entry: Difference
    at: float
    ends: Interval | None
    seeds: list[float]


@dataclass(frozen=True)
class Forest:
    """All paired differences on one scale."""

    width: float
    scale: Scale
    zero: float
    rows: list[ForestRow]


def plain(value: float, step: float) -> str:
    """A tick's label: as many digits as the step needs, thousands as k, M, G."""
    if isclose(value, 0, abs_tol=step * 1e-6):
        return "0"
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and step >= size / 1e4:
            return f"{value / size:.{_digits(step / size)}f} {sign}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.{_digits(step)}f}".replace("-", "\N{MINUS SIGN}")


def scale(values: Iterable[float], start: float, end: float, zero: bool = False, ticks: int = 5) -> Scale:
    """Covers the values between round ends."""
    found = list(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    if zero:
        low = min(0.0, low)
    if isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        margin = abs(high) * 0.1 or 1.0
        low, high = (0.0 if zero else low - margin), high + margin
    rough = (high - low) / ticks
    power = 10.0 ** floor(log10(rough))
    step = next(power * round_one for round_one in (1, 2, 2.5, 5, 10) if power * round_one >= rough * 0.999)
    return Scale(floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step, start, end, step)


def curves(run: Run, along: str, columns: list[str]) -> list[Panel]:
    """A panel for every column of the metrics, over seconds or epochs."""
    variants = {name: place for place, name in enumerate(run.attention)}
    series: dict[tuple[str, int], list[dict[str, float]]] = {}
    for row in run.metrics:
        if along in row.values:
            series.setdefault((row.attention, row.seed), []).append(row.values)
    most = max(12, min(80, 4000 // max(1, len(series))))
    hover = len(series) * len(columns) <= 60
    width, height, left, top, bottom = 340.0, 216.0, 34.0, 10.0, 32.0
    # Names at the ends of the lines, as far as there is room; the legend has them all in any case.
    named = len(variants) <= 11
    right = min(86.0, 14 + 6.2 * max(map(len, variants))) if named and variants else 12.0
    x = scale((row[along] for rows in series.values() for row in rows), left, width - right, zero=True, ticks=4)
    # Up to the last evaluation and no further, so that the names stand at the ends of their lines.
    x = replace(x, high=max([row[along] for rows in series.values() for row in rows], default=1.0) or 1.0)
    x_title = {"seconds": "training seconds", "epoch": "epoch"}[along]
    panels = []
    for column in columns:
        values = [row[column] for rows in series.values() for row in rows if column in row]
        if not values:
            continue
        ends = [0.0, 1.0] if column.startswith("accuracy") else []
        y = scale([*values, *ends], height - bottom, top, zero=True, ticks=4)
        lines, last = [], {}
        for (name, seed), rows in series.items():
            kept = _thin([row for row in rows if column in row], most)
            if not kept:
                continue
            points = [
                Point(
                    x(row[along]),
                    y(row[column]),
                    f"{name}: {row[column]:.3f} at {number(row[along])} {along}",
                )
                for row in kept
            ]
            title = f"{name}, seed {seed}: {kept[-1][column]:.3f} at the end"
            path = "M" + "L".join(f"{point.x:g} {point.y:g}" for point in points)
            lines.append(Line(variants[name], path, title, points if hover else []))
            last.setdefault(name, []).append(points[-1])
        labels = []
        if named:
            labels = [
                Label(variants[name], width - right + 8, sum(point.y for point in points) / len(points), _short(name))
                for name, points in last.items()
            ]
            labels = _apart(labels, 12.5, top + 2, height - bottom + 4)
        lines.sort(key=lambda line: run.attention[line.variant] != "none")
        title = column.removeprefix("accuracy_").replace("_", " ")
        panels.append(Panel(title, x_title, width, height, x, y, lines, labels))
    return panels


def scatter(table: list[Row], cost: str) -> Scatter | None:
    """Accuracy against one cost, or None where no variant has it."""
    known = [row for row in table if getattr(row, cost) is not None and "overall" in row.accuracy]
    if not known:
        return None
    width, height, left, right, top, bottom = 440.0, 290.0, 38.0, 16.0, 16.0, 38.0
    low = {row.variant: row.interval.get("overall", (row.accuracy["overall"],) * 2)[0] for row in known}
    high = {row.variant: row.interval.get("overall", (row.accuracy["overall"],) * 2)[1] for row in known}
    costs = [getattr(row, cost) for row in known]
    margin = 0.06 * (max(costs) - min(costs))
    x = scale([max(0.0, min(costs) - margin), max(costs) + margin], left, width - right, ticks=5)
    y = scale([*low.values(), *high.values()], height - bottom, top, ticks=5)
    points = [
        Whisker(
            variant=row.variant,
            x=x(getattr(row, cost)),
            y=y(row.accuracy["overall"]),
            low=y(low[row.variant]),
            high=y(high[row.variant]),
            title=f"{row.name}: accuracy {row.accuracy['overall']:.3f}, "
            f"{COST_TITLES[cost]} {number(getattr(row, cost))}",
        )
        for row in known
    ]
    path = cheapest_path(table, cost)
    steps = ""
    for row in path:
        at, up = x(getattr(row, cost)), y(row.accuracy["overall"])
        steps += f"H{at:g}V{up:g}" if steps else f"M{at:g} {up:g}"
    if steps:
        steps += f"H{width - right:g}"
    return Scatter(
        cost=cost,
        x_title=COST_TITLES[cost],
        width=width,
        height=height,
        x=x,
        y=y,
        points=points,
        labels=_beside(points, {row.variant: row.name for row in known}, (left, top, width - right, height - bottom)),
        path=steps,
        path_names=[row.name for row in path],
    )


def forest(run: Run) -> Forest | None:
    """The paired differences against no attention, zero included."""
    if not run.comparison:
        return None
    width = 300.0
    values = [0.0]
    for entry in run.comparison:
        values += [entry.difference, *(entry.interval or ()), *entry.differences]
    across = scale((100 * value for value in values), 14.0, width - 14, ticks=5)
    variants = {name: place for place, name in enumerate(run.attention)}
    rows = [
        ForestRow(
            variant=variants.get(entry.attention, 0),
            entry=entry,
            at=across(100 * entry.difference),
            ends=None if entry.interval is None else (across(100 * entry.interval[0]), across(100 * entry.interval[1])),
            seeds=[across(100 * value) for value in entry.differences],
        )
        for entry in run.comparison
    ]
    return Forest(width, across, across(0.0), rows)


def profile(values: list[float], most: int = 96) -> str:
    """The outline of the sorted values in a box of 100 by 100, from 0 to 1, or to their maximum if that is larger."""
    ordered = sorted(values, reverse=True)
    top = max(1.0, ordered[0])
    kept = [ordered[round(place * (len(ordered) - 1) / max(1, most - 1))] for place in range(most)]
    heights = [100 - 100 * max(0.0, value) / top for value in kept]
    steps = "".join(f"L{100 * place / (most - 1):.1f} {at:.1f}" for place, at in enumerate(heights))
    return f"M0 100{steps}L100 100Z"


def _digits(step: float) -> int:
    digits = 0
    while digits < 9 and not isclose(step * 10**digits, round(step * 10**digits), rel_tol=1e-6):
        digits += 1
    return digits


def _thin(rows: list[dict[str, float]], most: int) -> list[dict[str, float]]:
    """At most so many rows, evenly chosen, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _apart(labels: list[Label], gap: float, top: float, bottom: float) -> list[Label]:
    """The same labels, moved so that none covers another."""
    ordered = sorted(labels, key=lambda label: label.y)
    places = [label.y for label in ordered]
    for place in range(len(places)):
        places[place] = max(places[place], top if place == 0 else places[place - 1] + gap)
    for place in reversed(range(len(places))):
        places[place] = min(places[place], bottom if place == len(places) - 1 else places[place + 1] - gap)
    return [Label(label.variant, label.x, round(at, 1), label.text) for label, at in zip(ordered, places, strict=True)]


def _beside(points: list[Whisker], names: dict[int, str], frame: tuple[float, float, float, float]) -> list[Label]:
    """A name for every point where it covers neither a point nor another name; what finds no place has its title."""
    taken = [(point.x - 5, point.y - 5, point.x + 5, point.y + 5) for point in points]
    left, top, right, bottom = frame
    labels = []
    for point in sorted(points, key=lambda point: point.y):
        text = _short(names[point.variant], 20)
        long = 6.6 * len(text)
        for across, down, anchor in (
            (-7, -7, "end"),  # above and to the left the staircase never passes
            (-10, 4, "end"),
            (7, -7, "start"),
            (10, 16, "start"),
            (10, 4, "start"),
            (-10, 16, "end"),
            (10, 28, "start"),
            (-10, 28, "end"),
            (7, -20, "start"),
            (-7, -20, "end"),
        ):
            x, y = point.x + across, point.y + down
            box = (x, y - 11, x + long, y + 3) if anchor == "start" else (x - long, y - 11, x, y + 3)
            inside = box[0] >= left and box[2] <= right and box[1] >= top - 8 and box[3] <= bottom
            if inside and not any(_cross(box, other) for other in taken):
                taken.append(box)
                labels.append(Label(point.variant, round(x, 1), round(y, 1), text, anchor))
                break
    return labels


def _cross(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
