"""The pages of the documentation, as Markdown: from the facts of the mechanisms and the files at the root."""

from collections.abc import Sequence
from html import escape
from inspect import cleandoc
from itertools import groupby
from re import DOTALL, MULTILINE, findall, split, sub

from pictures import CHANNELS, COLUMNS, CREDIT, ROWS, Picture
from regard.attention import Attention, catalogue
from regard.attention.catalogue import Entry
from regard.cli.catalog import example, facts, summary
from regard.models.fusion import fusions
from regard.models.vqa import cores

HEADINGS = ("name", "class", "family", "contract", "paper", "year", "growth", "map axes")


def index(readme: str) -> str:
    """The README as far as its first heading, and where to go on."""
    opening = _moved(readme.partition("\n## ")[0])
    return f"{opening}\n\n[All mechanisms](mechanisms/index.md) · [Contributing](contributing.md)\n"


def contributing(text: str) -> str:
    """CONTRIBUTING.md, with its links as they are in the documentation."""
    return _moved(text)


def table() -> str:
    """One row a mechanism; what is typed above it filters, a heading sorts."""
    entries = catalogue.catalog()
    headings = "".join(f'<th><button type="button">{heading}</button></th>' for heading in HEADINGS)
    rows = "\n".join(_row(entry) for entry in entries)
    return (
        "---\nhide: [toc]\n---\n\n"
        f"# {len(entries)} attention mechanisms\n\n"
        '<p><input id="filter" type="search" placeholder="Filter: a name, a family, an author, a year …" '
        'aria-label="Filter the mechanisms"></p>\n\n'
        f'<div class="wide"><table id="mechanisms"><thead><tr>{headings}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n\n"
        "<p>N = positions of the map or tokens of the memory. The axis *spatial stands for all spatial axes.</p>\n"
    )


def page(mechanism: type[Attention], entry: Entry, pictures: list[Picture]) -> str:
    """Everything about one mechanism, with the pictures of its maps, which lie in `pictures/` as `name-label.webp`."""
    known = facts(mechanism, entry)
    documentation = cleandoc(mechanism.__doc__ or "")
    equations = _equations(documentation)
    parts = [
        f"# {entry.name}",
        f"<p>{_html(summary(mechanism))}</p>",
        _block(known["formula"]),
        _block(equations) if equations else "",
        "<dl>"
        + "".join(_fact(label, known[label]) for label in ("class", "also called", "contract", "family", "paper"))
        + "</dl>",
        "## Example",
        _block([example(mechanism)], "python"),
        "## Maps",
        _list(known["maps"], _described(documentation, "Maps")),
        *_shown(entry, pictures),
        "## Arguments",
        _list(known["arguments"], _described(documentation, "Args")),
        "## Shapes",
        f"<p>{_html(' '.join(known['shapes']))}</p>",
        "## Cost",
        "<dl>" + _fact("parameters", known["parameters"], code=True) + _fact("growth", known["growth"]) + "</dl>",
        "## Deviations from the paper",
        "<ul>" + "".join(f"<li>{_deviation(line)}</li>" for line in known["deviations"]) + "</ul>",
        "## Where people place it",
        f"<p>{_html(', '.join(known['placement']))}</p>",
        f"<p>Default place: <code>{escape(', '.join(known['default place']))}</code></p>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def questions(text: str) -> str:
    """The page on questions about pictures, with a table of its models."""
    rows = [
        (f"`{name}`", summary(core), f"{core.paper.authors}, {core.paper.venue} {core.paper.year}",
         "words" if core.reads_words else "its summary", "cells of a grid" if core.grid else "cells or regions",
         "yes" if core.attends else "no", core.loss)
        for name, core in cores.items()
    ]  # fmt: skip
    headings = ("name", "what it does", "paper", "reads of a question", "reads of a picture", "attends", "loss")
    return text.replace("<!-- models -->", _rows(headings, *rows))


def fusion(text: str) -> str:
    """The page on fusion, with a table of what there is."""
    rows = [
        (f"`{name}`", kind.level, summary(kind),
         f"{kind.paper.authors}, {kind.paper.venue} {kind.paper.year}" if kind.paper else "")
        for name, kind in fusions.items()
    ]  # fmt: skip
    return text.replace("<!-- fusions -->", _rows(("name", "level", "what it does", "paper"), *rows))


def navigation() -> list[dict[str, object]]:
    """What stands where, for mkdocs."""
    families = [
        {family.replace("_", " "): [{entry.name: f"mechanisms/{entry.name}.md"} for entry in entries]}
        for family, entries in groupby(catalogue.catalog(), key=lambda entry: entry.family)
    ]
    return [
        {"regard": "index.md"},
        {"Mechanisms": ["mechanisms/index.md", *families]},
        {"Questions": ["questions.md", {"sort-of-CLEVR": "sort_of_clevr.md"}]},
        {"Fusion": "fusion.md"},
        {
            "Models": [
                "placing.md",
                {"Recipes": "recipes.md", "attention in a classifier": "attention_in_classification.md"},
            ]
        },
        {"Contributing": "contributing.md"},
        {"Changelog": "changelog.md"},
    ]


def _rows(headings: Sequence[str], *rows: Sequence[str]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _row(entry: Entry) -> str:
    axes = "<br>".join(f"{label}: {', '.join(axes)}" for label, axes in entry.map_axes.items()) or "none"
    cells = (
        f'<a href="{entry.name}.html">{entry.name}</a>',
        entry.class_name + (f"<br><small>{escape(', '.join(entry.aliases))}</small>" if entry.aliases else ""),
        entry.family.replace("_", " "),
        entry.contract,
        escape(f"{entry.paper.authors}, {entry.paper.venue}"),
        str(entry.year),
        entry.growth,
        axes,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _shown(entry: Entry, pictures: list[Picture]) -> list[str]:
    if not pictures:
        return []
    parts = []
    for picture in pictures:
        span = (
            f"constant, {picture.lowest:.4g} everywhere"
            if picture.constant
            else f"from {picture.lowest:.4g} to {picture.highest:.4g}"
        )
        parts.append(
            f'<figure><img src="../pictures/{entry.name}-{picture.label}.webp" '
            f'alt="The map {picture.label} of {entry.name} on a photograph">'
            f"<figcaption><code>{picture.label}</code>: {span}</figcaption></figure>"
        )
    parts.append(
        f'<p class="note">The weights are <strong>untrained</strong>: a freshly initialised module (seed 0, default '
        f"arguments, gains that start at zero as they are) on {len(CHANNELS)} fixed filters of the photograph "
        f"(opponent colours, contrast, edges, Gabor energies) over {ROWS} by {COLUMNS} cells. The pictures show what "
        f"form the maps have, not what they would learn. Of long axes only some places are shown, with one scale of "
        f"colours for all; the numbers under a picture are those of the whole map. {CREDIT}.</p>"
    )
    return parts


def _fact(label: str, lines: list[str], code: bool = False) -> str:
    cut = [line.partition("   with ") for line in lines]
    text = "<br>".join(
        (f"<code>{escape(value)}</code>" if code else _html(value)) + (f", with {escape(letters)}" if letters else "")
        for value, _, letters in cut
    )
    return f"<dt>{label}</dt><dd>{text}</dd>"


def _list(lines: list[str], described: dict[str, str]) -> str:
    """Each line as code, and what the docstring says of its first word."""
    items = []
    for line in lines:
        said = described.get(split(r"\W", line, maxsplit=1)[0], "")
        items.append(f"<li><code>{escape(line)}</code>{f'<br>{_html(said)}' if said else ''}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _deviation(line: str) -> str:
    setting, separator, text = line.partition(": ")
    return f"<code>{escape(setting)}</code>: {_html(text)}" if separator else _html(line)


def _block(lines: list[str], language: str = "text") -> str:
    return "\n".join((f"```{language}", *lines, "```"))


def _equations(documentation: str) -> list[str]:
    """The indented lines between the first line of a docstring and its sections."""
    body = split(r"^\w+:", documentation, maxsplit=1, flags=MULTILINE)[0]
    return cleandoc("\n".join(line for line in body.splitlines() if line.startswith("    "))).splitlines()


def _described(documentation: str, title: str) -> dict[str, str]:
    """The items `name: text` of a section of a docstring, on one line each."""
    _, _, after = documentation.partition(f"\n{title}:\n")
    section = split(r"^\S", after, maxsplit=1, flags=MULTILINE)[0]
    items = findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", section, DOTALL | MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def _html(text: str) -> str:
    """Text as HTML, with what stands between backticks as code."""
    return sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _moved(text: str) -> str:
    """Links between the files at the root, as links between the pages."""
    for file, target in (("CONTRIBUTING.md", "contributing.md"), ("CHANGELOG.md", "changelog.md")):
        text = text.replace(f"]({file})", f"]({target})")
    return text.replace("](docs/", "](")
