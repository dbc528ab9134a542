"""`regard cost`: what a model, a mechanism, or attention in a model costs."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.places import MODEL, SHAPE, SIZE, prepare, shapes_of
from regard.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from regard.costing import Cost, Counts, Growth
    from regard.costing.growth import Measure
    from regard.models.naming import Named

IN_MODEL, ALONE = "Attention in a model", "A mechanism alone"

MEASURES = {
    "parameters": "parameters",
    "macs": "MACs",
    "bytes_moved": "bytes moved",
    "activation_bytes": "kept for backward",
    "milliseconds": "latency",
}
GROWING: "tuple[Measure, ...]" = ("macs", "bytes_moved", "activation_bytes")


@dataclass(frozen=True)
class _Priced:
    """What is shown of the model or mechanism itself, or of the model with a variant of attention in it.

    Attributes:
        name: the model's, the mechanism's or the variant's.
        modules: how many modules of attention there are.
        declared: the growth that each mechanism in it states.
        cost: of the whole.
        growth: of the whole, if asked for.
    """

    name: str
    modules: int
    declared: list[str]
    cost: "Cost"
    growth: "Growth | None"


def cost(
    model: Annotated[str, typer.Argument(help=f"{MODEL} Or a mechanism of `regard catalog`.")],
    attention: Annotated[
        str | None,
        typer.Option(
            help="What to put into the model; commas between several that are compared, + between those that stand one "
            "after another at each place.",
            rich_help_panel=IN_MODEL,
        ),
    ] = None,
    at: Annotated[
        str,
        typer.Option(
            help="Where: a role, stage3, a path or a glob (see `regard places`), with commas between several.",
            rich_help_panel=IN_MODEL,
        ),
    ] = "block",
    start: Annotated[
        str,
        typer.Option(
            help="identity: with what keeps the model's output at the start, as `regard.insert` has it. paper: bare.",
            rich_help_panel=IN_MODEL,
        ),
    ] = "identity",
    channels: Annotated[
        int, typer.Option(help="Channels of its map, or the width of its tokens.", rich_help_panel=ALONE)
    ] = 64,
    size: Annotated[int | None, typer.Option(help=f"{SIZE} The map of a mechanism alone: 28.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples in the batch, 1 by default; all numbers are for it.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help=SHAPE)] = None,
    growth: Annotated[
        bool,
        typer.Option("--growth", help="Count at 0.5, 1, 1.5 and 2 times the size too, and fit cost ~ N^p to that."),
    ] = False,
    repeats: Annotated[int, typer.Option(help="How many forwards are timed.")] = 20,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, in bytes and milliseconds.")] = False,
) -> None:
    """Show what one forward of a model costs, and what attention in it adds.

    MACs: multiply-accumulates, those inside attention too; one is two FLOPs.
    Bytes moved: every operator reads its inputs and writes its outputs once,
    the least that has to move when nothing is fused.
    Kept for backward: the memory of activations that training needs.
    Latency: median and interquartile range of forwards in evaluation mode;
    what is compared is timed in turn.

    The model has random weights; nothing is downloaded.

    Examples:

      regard cost resnet50

      regard cost resnet50 --attention cbam --at branch --growth

      regard cost resnet50 --attention se,eca,cbam+simam --at "layer3.*,stage4"

      regard cost cbam --channels 256 --size 14 --growth
    """
    from regard.attention import mechanisms
    from regard.attention.catalogue import get
    from regard.costing import costs

    if repeats < 1:
        raise UserError(f"--repeats {repeats}: give at least 1")
    if start not in ("identity", "paper"):
        raise UserError(f"--start {start!r}: it is identity or paper")
    variants = [] if attention is None else _listed("--attention", attention)
    variants = list(dict.fromkeys("+".join(get(one.strip()).name for one in each.split("+")) for each in variants))
    named = _subject(model, channels)
    alone = [named.name] if named.name in mechanisms else []
    if alone and variants:
        raise UserError(f"{named.name!r} is a mechanism, and --attention goes into a model: name a model first")
    plain, example = prepare(named, size, shape, batch, device)

    puts = [_putting(variant, _listed("--at", at), start) for variant in variants]
    built = [plain, *(put(deepcopy(plain), example) for put in puts)]
    measured = costs(built, *_one(example), repeats=repeats)
    priced = []
    for name, put, whole, price in zip([named.name, *variants], [None, *puts], built, measured, strict=True):
        kinds = [mechanisms[each] for each in (alone if put is None else name.split("+"))]
        modules = sum(isinstance(module, tuple(kinds)) for module in whole.modules())
        grown = _growth(named, whole, put, example, shape, device) if growth else None
        priced.append(_Priced(name, modules, [kind.growth for kind in kinds], price, grown))
    if as_json:
        typer.echo(json.dumps(_as_json(example, device, at, priced), indent=2, ensure_ascii=False))
    else:
        _show(f"{named.name} on {shapes_of(example)}, {device}", at, priced)


_Put = Callable[["nn.Module", tuple[Any, ...]], "nn.Module"]
"""Puts a variant of attention into a model that takes an example, and gives it back."""


def _putting(variant: str, at: list[str], start: Any) -> _Put:
    def put(model: "nn.Module", example: tuple[Any, ...]) -> "nn.Module":
        from regard.models.naming import one_line
        from regard.placing import insert
        from regard.running import Inputs, undisturbed

        insert(model, variant.split("+"), at, start=start, example=example)
        with one_line(f"{variant} does not run in this model at {', '.join(at)}"), undisturbed(model):
            Inputs(example).run(model)
        return model

    return put


def _growth(
    named: "Named", whole: "nn.Module", put: _Put | None, example: tuple[Any, ...], shape: str | None, device: str
) -> "Growth":
    """Of a model that is built anew for each size, since many are built for one; of a mechanism as it is."""
    from regard.attention import Attention
    from regard.costing import growth

    def build(sizes: tuple[int, ...]) -> "nn.Module":
        model = deepcopy(named.build(sizes[-1])).to(device)  # what a user names may be one model, not a function
        return model if put is None else put(model, named.example(model, sizes[-1]))

    return growth(whole if shape or isinstance(whole, Attention) else build, *_one(example))


def _one(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """The example as `costs` takes it: one argument that is a list would be taken for the list of arguments."""
    return example if len(example) > 1 else (example,)


def _subject(name: str, channels: int) -> "Named":
    """The model of that name, or, if there is none, the mechanism, by any of its names."""
    from regard.attention import mechanisms
    from regard.attention.catalogue import UnknownMechanismError, get
    from regard.models.naming import find

    try:
        return find(name, tuple(mechanisms))
    except UserError as error:
        try:
            kind = get(name)
        except UnknownMechanismError:
            raise error from None
    if channels < 1:
        raise UserError(f"--channels {channels}: give at least 1")
    return _mechanism(kind.name, channels)


def _mechanism(name: str, channels: int) -> "Named":
    """A mechanism with nothing but its required arguments, on a map or tokens of random numbers."""
    from inspect import Parameter, signature

    import torch

    from regard.attention import Merge, Read, Refine, mechanisms
    from regard.models.naming import Named

    kind = mechanisms[name]

    def make(size: int | None) -> "nn.Module":
        required = [one for one in signature(kind).parameters.values() if one.default is Parameter.empty]
        return kind(**{one.name: 3 if one.name == "kernel_size" else channels for one in required})

    def example(module: "nn.Module", size: int | None, batch: int) -> tuple[Any, ...]:
        side = 28 if size is None else size
        tokens = torch.randn(batch, side * side, channels)
        if issubclass(kind, Read):
            asks = "query" in signature(kind.forward).parameters
            return (torch.randn(batch, 1, channels), tokens) if asks else (tokens,)
        if issubclass(kind, Refine) and kind.layout == "tokens":
            return (tokens,)
        rank = 2 if not issubclass(kind, Refine) or 2 in kind.spatial_ranks else kind.spatial_ranks[0]
        spatial = (8, side, side)[-rank:]  # eight frames of a video
        return tuple(
            torch.randn(batch, channels, *spatial) for _ in range(kind.inputs if issubclass(kind, Merge) else 1)
        )

    return Named(name, make, example)


def _listed(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError(f"{option} {text!r}: give at least one name")
    return list(dict.fromkeys(parts))


def _show(title: str, at: str, priced: list[_Priced]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    first, *variants = priced
    console.print(Text(title))
    if not variants:
        console.print(_alone(first.cost))
    elif len(variants) == 1:
        console.print(_before_and_after(first, variants[0]))
    else:
        console.print(_side_by_side(first, variants))
    for one in variants:
        console.print(Text(f"{one.name}: {one.modules} module{'s' * (one.modules != 1)} at {at}", style="dim"))
    grown = _grown(priced)
    if grown:
        console.print("\nGrowth with N, the positions of the input")
        console.print(_growth_table(grown))
        console.print(
            "± is how far the worst size lies from its fit. Declared is what a mechanism tends to as N grows; at these "
            "sizes, what does not grow with N can outweigh it.",
            style="dim",
            highlight=False,
        )
    for sizes, reason in {sizes: why for _, growth, _ in grown for sizes, why in growth.refused.items()}.items():
        console.print(Text(f"does not run at {'×'.join(map(str, sizes))}: {reason}", style="yellow"))


def _grown(priced: list[_Priced]) -> "list[tuple[str, Growth, list[str]]]":
    """The growth of what comes first, and of what each variant adds to it, each with what the mechanisms state."""
    first = priced[0].growth
    if first is None:
        return []
    added = [(f"{one.name} alone", one.growth - first, one.declared) for one in priced[1:] if one.growth is not None]
    return [(priced[0].name, first, priced[0].declared), *added]


def _table(*headings: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", overflow="fold")
    return table


def _before_and_after(before: _Priced, after: _Priced) -> "Table":
    from regard.formatting import MINUS

    table = _table("", "before", f"with {after.name}", "difference", "ratio")
    added, ratio = after.cost - before.cost, after.cost / before.cost
    for measure, label in MEASURES.items():
        values = [_value(price, measure) for price in (before.cost, after.cost)]
        change = _value(added, measure)
        table.add_row(label, *values, change if change[0] == MINUS else f"+{change}", _ratio(ratio[measure]))
    return table


def _alone(price: "Cost") -> "Table":
    table = _table("", "one forward")
    for measure, label in MEASURES.items():
        table.add_row(label, _value(price, measure))
    return table


def _side_by_side(first: _Priced, variants: list[_Priced]) -> "Table":
    table = _table("", *(MEASURES[measure] for measure in MEASURES if measure != "milliseconds"), "ms")
    table.add_row("without", *(_value(first.cost, measure).removesuffix(" ms") for measure in MEASURES))
    for one in variants:
        ratio = one.cost / first.cost
        values = [_value(one.cost, measure).removesuffix(" ms") for measure in MEASURES]
        cells = [
            f"{value}\n[dim]{_ratio(ratio[measure])}[/dim]" for value, measure in zip(values, MEASURES, strict=True)
        ]
        table.add_row(one.name, *cells)
    return table


def _growth_table(grown: "list[tuple[str, Growth, list[str]]]") -> "Table":
    headings = [MEASURES[measure] for measure in GROWING]
    table = _table("", *headings, "declared")
    for name, growth, declared in grown:
        table.add_section()
        fits = [str(growth.fit(measure) or "-") for measure in GROWING]
        table.add_row(name, *fits, ", ".join(dict.fromkeys(declared)) or "-", style="bold")
        for sizes, counts in growth.counts.items():
            table.add_row(f"  {'×'.join(map(str, sizes))}", *(_counted(counts, measure) for measure in GROWING), "")
    return table


def _counted(counts: "Counts", measure: str) -> str:
    from regard.formatting import scaled

    unit = "B" if measure in ("bytes_moved", "activation_bytes") else ""
    return scaled(getattr(counts, measure), unit, digits=4)


def _value(price: "Cost", measure: str) -> str:
    from regard.formatting import milliseconds

    if measure == "milliseconds":
        return milliseconds(price.milliseconds, price.spread if price.repeats > 1 else None)
    return _counted(price, measure)


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"×{ratio:.3f}"


def _as_json(example: tuple[Any, ...], device: str, at: str, priced: list[_Priced]) -> dict[str, Any]:
    """All numbers, with names that say their units."""
    from regard.running import Inputs

    first, *variants = priced
    found: dict[str, Any] = {
        "name": first.name,
        "inputs": [list(tensor.shape) for tensor in Inputs(example).tensors()],
        "device": device,
        "cost": first.cost.as_dict(),
        "attention": [
            {
                "name": one.name,
                "at": at,
                "modules": one.modules,
                "cost": one.cost.as_dict(),
                "difference": (one.cost - first.cost).as_dict(),
                "ratio": one.cost / first.cost,
            }
            for one in variants
        ],
    }
    for place, (_, growth, declared) in zip([found, *found["attention"]], _grown(priced), strict=False):
        place["growth"] = _growth_as_json(growth, declared)
    return found


def _growth_as_json(growth: "Growth", declared: list[str]) -> dict[str, Any]:
    fits = {measure: growth.fit(measure) for measure in GROWING}
    return {
        "fit": {measure: None if fit is None else asdict(fit) for measure, fit in fits.items()},
        "declared": declared,
        "sizes": [{"size": list(sizes), **asdict(counts)} for sizes, counts in growth.counts.items()],
        "refused": [{"size": list(sizes), "reason": reason} for sizes, reason in growth.refused.items()],
    }
