"""The page itself: what the template shows, put together and written in one piece."""

import os
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from itertools import zip_longest
from json import dumps
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Any

from regard import formatting
from regard.errors import UserError
from regard.experiment import findings
from regard.extras import naming_extras
from regard.report import charts, folder, fusion, summary
from regard.report.folder import Example, FusionRun, Reading, Run, Weights
from regard.report.summary import Row
from regard.watching import colour

MOST_BYTES = 2_900_000
"""The page stays below 3 MB, which a phone opens at once; examples beyond that stay in the run folder."""

MOST_CELLS = 64
"""Cells of a map along one side; a finer map is averaged down to it."""

_few_families = 6
"""With more kinds of question or classes than this, each gets a row of its own table instead of a column."""

_most_classes = 40


@dataclass(frozen=True)
class Column:
    """One column of the result table; `accuracy` names the key where it is one of accuracy."""

    key: str
    title: str
    best: set[int]
    accuracy: bool = False


@dataclass(frozen=True)
class Map:
    """One map as the page draws it: 8-bit weights from 0 to `peak`."""

    label: str
    weights: str
    columns: int
    rows: int
    peak: float
    lowest: float
    shared: float
    """The largest peak among the maps of this example that sum to one, where this is one of them."""
    note: str
    outline: str
    """The sorted values of a list without a place in the picture."""
    count: int


@dataclass(frozen=True)
class Tile:
    """One variant's reading of one example."""

    variant: int
    name: str
    reading: Reading
    maps: list[Map]


@dataclass(frozen=True)
class Card:
    """One example with every variant's reading."""

    number: int
    example: Example
    group: str
    wrong: list[int]
    tiles: list[Tile]

    @property
    def bytes(self) -> int:
        """About how much of the page it takes."""
        tiles = sum(800 + sum(len(map.weights) + len(map.outline) + 900 for map in tile.maps) for tile in self.tiles)
        return len(self.example.picture) + 2000 + tiles


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, finished or not, from the files that stand there.

    The page is one file without references to others: it opens offline, and can be mailed. It replaces an older one
    only when it is complete.

    Args:
        run: the folder, as `regard compare`, `regard train vqa` or `regard train fusion` wrote it.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder or one of its files is missing or broken, or the page cannot be written.
    """
    page = _render_fusion(folder.read_fusion(run)) if folder.is_fusion(run) else _render(folder.read(run))
    path = run / "report.html"
    try:
        _replace(path, page)
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        raise UserError(f"{reason}: make room or fix the rights of its folder, then try again") from error
    return path


def _render(run: Run) -> str:
    table = summary.rows(run)
    families = summary.families(run)
    cards = _cards(run)
    room = MOST_BYTES - 60_000
    page = ""
    # The charts' size is known only when they are drawn, so the page is filled once without the examples.
    for kept in ([], None):
        shown = kept if kept is not None else _within(cards, room - len(page.encode()))
        page = _filled(
            "template.html.j2",
            run=run,
            title=_title(run),
            sentences=summary.sentences(run),
            used=_used(run),
            headings=findings.HEADINGS,
            explanation=findings.EXPLANATION,
            not_ablated=findings.not_ablated(run.found),
            rows=table,
            missing=summary.missing(run),
            measure=summary.measure(run),
            notes=summary.notes(run),
            columns=_columns(run, table, families),
            classes=_classes(table, families) if len(families) > _few_families else [],
            class_count=len(families),
            several_seeds=any(len(row.seeds) > 1 for row in table),
            panels={along: charts.curves(run, along, _curves(run)) for along in ("seconds", "epoch")},
            scatters=[chart for cost in charts.COST_TITLES if (chart := charts.scatter(table, cost))],
            forest=charts.forest(run),
            cards=shown,
            left_out=len(cards) - len(shown),
            groups=list(dict.fromkeys(card.group for card in cards if card.group)),
            charted=sorted({run.attention.index(row.attention) for row in run.metrics}),
            drawn=sorted({tile.variant for card in cards for tile in card.tiles}),
            unread=[name for name in run.attention if name not in run.readings],
            has_boxes=any(card.example.box for card in cards),
            colour_of=lambda variant: _colour(run, variant),
            colours="".join(bytes(rgba).hex() for rgba in colour.overlay()),
            ramp=", ".join(f"#{bytes(rgba).hex()}" for rgba in colour.overlay(24)),
            settings={key: _setting(key, value) for key, value in run.settings.items()} | _places(run),
        )
    return page


def _render_fusion(run: FusionRun) -> str:
    return _filled(
        "fusion.html.j2",
        **fusion.context(run),
        title=f"Fusions that predict {run.target}",
        colour_of=lambda variant: _turn(variant),
        settings={key: _setting(key, value) for key, value in run.settings.items()},
    )


# `Any`: what a template shows.
def _filled(template: str, **shown: Any) -> str:
    """The page of a template, with its style and script in it."""
    with naming_extras():
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        fixed=formatting.fixed, number=formatting.number, scaled=formatting.scaled, count=formatting.count,
        signed=formatting.signed, probability=formatting.probability, weight=formatting.weight,
        moment=formatting.moment, css_share=css_share,
    )  # fmt: skip
    style = (here / "style.css").read_text(encoding="utf-8")
    script = (here / "script.js").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        style=Markup(style),
        script=Markup(script),
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        **shown,
    )


def css_share(value: float) -> str:
    """A share for a style sheet."""
    return f"{100 * value:.4g}%"


def _title(run: Run) -> str:
    tasks = {
        "digit-scenes": "Attention compared on digit scenes",
        "pictures": "Attention compared on your own pictures",
        "visual-questions": "Answers to questions about pictures",
        "sort-of-clevr": "Answers to the questions of sort-of-CLEVR",
    }
    return tasks.get(run.task, f"Attention compared on {run.task}")


def _places(run: Run) -> dict[str, str]:
    """Where the attention of each variant stands."""
    found = {result.attention: result.places for result in run.results if result.places}
    return {f"places of {name}": ", ".join(places) for name, places in found.items()}


def _used(run: Run) -> list[tuple[int, list[str]]]:
    """The rows about what attention does, with the place of each variant; none if no attention was ablated."""
    if not any(row.ablation is not None for row in run.found):
        return []
    return [(run.attention.index(row.name), row.cells()) for row in run.found]


def _columns(run: Run, table: list[Row], families: list[str]) -> list[Column]:
    keys = ["overall", *(families if len(families) <= _few_families else [])]
    columns = [
        Column(key, key.replace("_", " "), summary.best(table, lambda row, key=key: row.accuracy.get(key), True), True)
        for key in keys
        if any(key in row.accuracy for row in table)
    ]
    if any(row.pointing is not None for row in table):
        columns.append(Column("pointing", "pointing", summary.best(table, lambda row: row.pointing, True)))
    each = "ms a picture" if run.task in ("pictures", "visual-questions") else "ms a scene"
    titles = {"parameters": "parameters", "macs": "MACs", "milliseconds": each, "train_seconds": "training s"}
    for key, title in titles.items():
        columns.append(Column(key, title, summary.best(table, attrgetter(key), False, 2)))
    return columns


def _classes(table: list[Row], families: list[str]) -> list[dict[str, Any]]:
    """Classes in which the variants differ most, with every variant's accuracy."""
    entries = []
    for family in families:
        values = {row.variant: row.accuracy[family] for row in table if family in row.accuracy}
        entries.append({"name": family, "values": values, "spread": max(values.values()) - min(values.values())})
    return sorted(entries, key=lambda entry: -entry["spread"])[:_most_classes]


def _curves(run: Run) -> list[str]:
    """The columns of the metrics that get a chart: overall first, the loss last."""
    found = list(dict.fromkeys(key for row in run.metrics for key in row.values))
    accuracy = sorted(
        (key for key in found if key.startswith("accuracy")),
        key=lambda key: key not in ("accuracy", "accuracy_overall"),
    )
    if len(accuracy) > _few_families + 1:
        accuracy = accuracy[:1]
    return accuracy + [key for key in found if key.endswith("loss")]


def _colour(run: Run, variant: int) -> str:
    """The class of a variant's colour: grey for none, the others in turn, dashed in the second round."""
    if run.attention[variant] == "none":
        return "c0"
    place = sum(name != "none" for name in run.attention[:variant])
    return _turn(place)


def _turn(place: int) -> str:
    """The class of a colour: one after the other without grey, then dashed, then dotted."""
    turn, colour_place = divmod(place, charts.COLOURS - 1)
    return f"c{colour_place + 1}" + (f" d{min(turn, 2)}" if turn else "")


def _cards(run: Run) -> list[Card]:
    cards = []
    for place, example in enumerate(run.examples):
        read = [
            (variant, name, run.readings[name][place])
            for variant, name in enumerate(run.attention)
            if name in run.readings
        ]
        peaks = [_peak(map) for _, _, reading in read for map in reading.maps if map.sums_to_one and map.rows]
        shared = max(peaks, default=0.0)
        tiles = [
            Tile(variant, name, reading, [_map(map, shared) for map in reading.maps]) for variant, name, reading in read
        ]
        group = example.family or (example.truth if example.question is None else "")
        wrong = [variant for variant, _, reading in read if not reading.correct]
        cards.append(Card(place + 1, example, group, wrong, tiles))
    return cards


def _within(cards: list[Card], room: int) -> list[Card]:
    """The cards that fit: as many with a wrong answer as with right ones alone, each in their order."""
    kept = []
    wrong, right = [card for card in cards if card.wrong], [card for card in cards if not card.wrong]
    for card in (card for pair in zip_longest(wrong, right) for card in pair if card is not None):
        if card.bytes <= room:
            kept.append(card)
            room -= card.bytes
    return sorted(kept, key=lambda card: card.number)


def _peak(weights: Weights) -> float:
    return max((value for row in weights.rows for value in row if isfinite(value)), default=0.0)


def _map(weights: Weights, shared: float) -> Map:
    notes = []
    if weights.rows and weights.rows[0]:
        top = _peak(weights)
        finite = [[value if isfinite(value) else 0.0 for value in row] for row in weights.rows]
        if any(not isfinite(value) for row in weights.rows for value in row):
            notes.append("not finite in places, drawn as 0")
        lowest = min(value for row in finite for value in row)
        if lowest < 0:
            notes.append(f"down to {formatting.weight(lowest)}, below 0 drawn as 0")
        by = max(-(-len(finite) // MOST_CELLS), -(-len(finite[0]) // MOST_CELLS))
        if by > 1:
            finite = _averaged(finite, by)
            notes.append(f"averaged {by} × {by}")
        levels = bytes(
            round(255 * min(1.0, max(0.0, value / top))) if top > 0 else 0 for row in finite for value in row
        )
        return Map(
            label=weights.label,
            weights=b64encode(levels).decode(),
            columns=len(finite[0]),
            rows=len(finite),
            peak=top,
            lowest=lowest,
            shared=shared if weights.sums_to_one else 0.0,
            note="; ".join(notes),
            outline="",
            count=0,
        )
    values = [value for value in weights.values if isfinite(value)]
    return Map(
        label=weights.label,
        weights="",
        columns=0,
        rows=0,
        peak=max(values, default=0.0),
        lowest=min(values, default=0.0),
        shared=0.0,
        note="",
        outline=charts.profile(values) if values else "",
        count=len(values),
    )


def _averaged(rows: list[list[float]], by: int) -> list[list[float]]:
    blocks = []
    for top in range(0, len(rows), by):
        line = []
        for left in range(0, len(rows[0]), by):
            cells = [value for row in rows[top : top + by] for value in row[left : left + by]]
            line.append(sum(cells) / len(cells))
        blocks.append(line)
    return blocks


def _setting(key: str, value: Any) -> str:
    if isinstance(value, str):
        return formatting.moment(value) if key == "started" else value
    if isinstance(value, list) and all(isinstance(entry, str | int | float) for entry in value):
        return ", ".join(map(str, value))
    return dumps(value, ensure_ascii=False)


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=".report-", suffix=".html", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
