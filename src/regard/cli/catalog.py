"""`regard catalog`: which mechanisms there are, and everything known of one."""

import json
from inspect import Parameter, cleandoc, signature
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regard.commands import command

if TYPE_CHECKING:
    from regard.attention import Attention
    from regard.attention.catalogue import Entry


def catalog(
    name: Annotated[str | None, typer.Argument(help="A mechanism's name; without one, all are listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """List the attention mechanisms, or show everything about one of them.

    Examples:

      regard catalog

      regard catalog cbam

      regard catalog swin
    """
    from regard.attention import catalogue

    entries = catalogue.catalog()
    if name is not None:
        mechanism = catalogue.get(name)
        entries = [entry for entry in entries if entry.name == mechanism.name]
        if not as_json:
            _show(mechanism, entries[0])
            return
    if as_json:
        typer.echo(json.dumps([_as_json(entry) for entry in entries], indent=2, ensure_ascii=False))
    else:
        _list(entries)


def example(mechanism: "type[Attention]") -> str:
    """One line of Python that builds the mechanism and runs it on random input."""
    from regard.attention import Merge, Refine

    widths = {"query_width": "64", "memory_width": "128", "out_channels": "128", "kernel_size": "3"}
    arguments = "".join(f", {widths.get(argument.name, '64')}" for argument in _required(mechanism))
    shapes = {"query": "2, 5, 64", "memory": "2, 49, 128"}
    inputs = _required(mechanism.forward)[1:]  # without `self`
    given = [shapes.get(argument.name, "2, 64, 32, 32") for argument in inputs]
    if issubclass(mechanism, Merge):
        given = ["2, 64, 32, 32"] * mechanism.inputs
    elif issubclass(mechanism, Refine) and mechanism.layout == "tokens":
        given = ["2, 49, 64"]
    elif issubclass(mechanism, Refine) and 2 not in mechanism.spatial_ranks:
        given = ["2, 64" + ", 32" * mechanism.spatial_ranks[0]]
    calls = ", ".join(f"torch.randn({shape})" for shape in given)
    return f'import regard, torch; output = regard.create("{mechanism.name}"{arguments})({calls})'


def _list(entries: "list[Entry]") -> None:
    table = Table(title=f"{len(entries)} attention mechanisms", title_justify="left", header_style="bold")
    for heading in ("name", "family", "contract", "paper", "growth"):
        table.add_column(heading, no_wrap=heading in {"name", "contract"})
    previous = None
    for entry in entries:
        if previous not in (None, entry.family):
            table.add_section()
        family = "" if entry.family == previous else entry.family.replace("_", " ")
        paper = f"{entry.paper.authors}, {entry.paper.venue} {entry.year}"
        table.add_row(entry.name, family, entry.contract, paper, Text(entry.growth))
        previous = entry.family
    console = Console()
    console.print(table)
    one = command("catalog", "NAME")
    console.print(f"N = positions of the map or tokens of the memory. All about one: {one}", style="dim")


def facts(mechanism: "type[Attention]", entry: "Entry") -> dict[str, list[str]]:
    """Everything known of one mechanism, line by line under its label; the documentation shows the same."""
    layout = f", on a {entry.layout}" if entry.layout == "map" else f", on {entry.layout}" if entry.layout else ""
    letters = ", ".join(f"{letter} = {attribute}" for letter, attribute in mechanism.letters.items())
    return {
        "class": [f"regard.attention.{entry.class_name}"],
        "also called": [", ".join(entry.aliases) or "nothing else"],
        "contract": [f"{entry.contract}{layout}"],
        "family": [entry.family.replace("_", " ")],
        "formula": [entry.formula],
        "paper": [str(entry.paper)],
        "arguments": [str(argument) for argument in signature(mechanism).parameters.values()],
        "shapes": _section(cleandoc(mechanism.__doc__ or ""), "Shapes"),
        "maps": [_map_line(fact.label, fact.axes, fact.sums_to_one) for fact in mechanism.maps] or ["none"],
        "parameters": [f"{entry.parameter_count}{f'   with {letters}' if letters else ''}"],
        "growth": [f"{entry.growth}   with N = positions or tokens"],
        "deviations": list(entry.deviations) or ["none"],
        "placement": [entry.placement],
        "default place": [entry.place or "none: it is not inserted"],
    }


def summary(kind: type) -> str:
    """What a mechanism or a model is, in one sentence: the first line of its docstring."""
    return cleandoc(kind.__doc__ or "").splitlines()[0]


def _show(mechanism: "type[Attention]", entry: "Entry") -> None:
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column()
    for label, lines in facts(mechanism, entry).items():
        for row, line in enumerate(lines):
            shown.add_row("" if row else label, Text(line))
    console = Console()
    console.print(Text(f"{entry.name}: {summary(mechanism)}", style="bold"))
    console.print(shown)
    console.print(Text("\nexample", style="bold"))
    typer.echo(example(mechanism))  # not through rich: a line to copy stays one line


def _map_line(label: str, axes: tuple[str, ...], sums_to_one: tuple[str, ...]) -> str:
    kind = f"sums to one over {', '.join(sums_to_one)}" if sums_to_one else "each value by itself"
    return f"{label}: ({', '.join(axes)}), {kind}"


def _section(documentation: str, title: str) -> list[str]:
    """The lines under `title:` in a docstring."""
    _, _, after = documentation.partition(f"\n{title}:\n")
    lines = []
    for line in after.splitlines():
        if line and not line.startswith(" "):
            break
        lines.append(line.strip())
    return [line for line in lines if line]


def _required(call: object) -> list[Parameter]:
    """The parameters without a default."""
    parameters = signature(call).parameters.values()  # type: ignore[arg-type]
    return [parameter for parameter in parameters if parameter.default is Parameter.empty]


def _as_json(entry: "Entry") -> dict[str, object]:
    return {
        "name": entry.name,
        "class": entry.class_name,
        "contract": entry.contract,
        "family": entry.family,
        "paper": str(entry.paper),
        "year": entry.year,
        "map_axes": entry.map_axes,
        "growth": entry.growth,
        "deviations": entry.deviations,
        "aliases": entry.aliases,
        "place": entry.place,
    }
