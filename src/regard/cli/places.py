"""`regard places`: where attention can go in a model."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from regard.models.naming import Named
    from regard.placing import Place, PlaceTable

MODEL = (
    "A name of timm, or of torchvision where timm has none (timm:NAME and torchvision:NAME say which), or your own "
    "package.module:function, called without arguments."
)
SIZE = "Side of the pictures in pixels; by default the one that the model was made for."
SHAPE = "The whole shape of the one input instead, with commas: 1,3,16,112,112."


def places(
    model: Annotated[str, typer.Argument(help=MODEL)],
    size: Annotated[int | None, typer.Option(help=SIZE)] = None,
    shape: Annotated[str | None, typer.Option(help=SHAPE)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the modules without a role, which can be named by path.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """Show where attention can go in a model: one line a place, to be named by its role, its path or a glob.

    insert(model, attention, at=...) and regard cost --at take what is shown:
    a role, stage3, a path, or a glob such as layer3.*.conv2.

    The model has random weights; nothing is downloaded. It is run once.

    Examples:

      regard places resnet50

      regard places torchvision:fasterrcnn_resnet50_fpn --size 320

      regard places mynet:build --shape 1,3,16,112,112 --all
    """
    from regard.models.naming import find
    from regard.placing import places as find_places

    named = find(model)
    built, example = prepare(named, size, shape)
    table = find_places(built, example)
    shown = [place for place in table if everything or place.role]
    if as_json:
        typer.echo(json.dumps([_as_json(place) for place in shown], indent=2))
    else:
        _show(named.name, shapes_of(example), table, shown)


def prepare(
    named: "Named", size: int | None, shape: str | None, batch: int | None = None, device: str = "cpu"
) -> "tuple[nn.Module, tuple[Any, ...]]":
    """The model, built, and an example that it runs on."""
    import torch
    from torch.utils._pytree import tree_map_only

    from regard.models.naming import one_line
    from regard.running import Inputs, inputs_of, undisturbed

    for option, value in (("--size", size), ("--batch", batch)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give at least 1")
        if value is not None and shape is not None:
            raise UserError(f"{option} and --shape: the shape says that already, give one of the two")
    sizes = None if shape is None else numbers(shape)
    with one_line(f"--device {device}"):
        torch.empty(0, device=device)
    model = named.build(size).to(device)
    example = named.example(model, size, batch or 1) if sizes is None else inputs_of(model, sizes).positional
    example = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), example)
    with one_line(f"{named.name} does not run on {shapes_of(example)}"), undisturbed(model):
        Inputs(example).run(model)
    return model, example


def numbers(shape: str) -> tuple[int, ...]:
    """The shape that is written with commas."""
    sizes = shape.replace("x", ",").replace("×", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(f"--shape {shape!r}: expected whole numbers above zero with commas, such as 1,3,16,112,112")
    return tuple(map(int, sizes))


def shapes_of(example: tuple[Any, ...]) -> str:
    """The shapes of the inputs, for titles and messages."""
    from regard.running import Inputs

    return " and ".join("×".join(map(str, tensor.shape)) for tensor in Inputs(example).tensors())


def _show(name: str, shapes: str, table: "PlaceTable", shown: "list[Place]") -> None:
    from collections import Counter

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    wide = console.width >= 100  # the shape says nothing that layout, channels and resolution do not
    console.print(Text(f"{name} on {shapes}"))
    printed = Table(header_style="bold", box=box.SIMPLE_HEAD)
    printed.add_column("path", overflow="fold")
    for heading in ("role", "layout"):
        printed.add_column(heading, no_wrap=True)
    for heading in (*(("shape",) if wide else ()), "channels", "resolution", "calls"):
        printed.add_column(heading, justify="right", no_wrap=True)
    for place in shown:
        shape = ("×".join(map(str, place.shape)),) if wide else ()
        cells = (place.role or "", place.layout, *shape, str(place.channels), place.resolution, str(place.calls))
        printed.add_row(Text(str(place)), *cells)
    console.print(printed)
    counts = Counter(place.role for place in table if place.role)
    line = ", ".join(f"{count} {role}" for role, count in counts.items()) or "no place with a role"
    hidden = len(table) - len(shown)
    console.print(f"{line}{f'; {hidden} more modules by path: --all' if hidden else ''}", style="dim", highlight=False)


def _as_json(place: "Place") -> dict[str, object]:
    return {
        "path": place.path,
        "side": place.side,
        "role": place.role,
        "shape": list(place.shape),
        "layout": place.layout,
        "channels": place.channels,
        "resolution": place.resolution,
        "calls": place.calls,
    }
