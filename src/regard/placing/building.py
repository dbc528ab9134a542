"""The mechanism that stands at a place: built for what the model has there, or refused with the reason."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from regard.attention import Attention, Convolve, Merge, OnMap, OnTokens, Refine, ShapeError, mechanisms
from regard.attention.catalogue import check_arguments, get
from regard.errors import UserError
from regard.placing.place import LAYOUTS, Place, PlaceTable, Slot, Where
from regard.placing.placed import InOrder, Placed, Start, unique
from regard.running import undisturbed

# `Any`: the arguments of somebody's class.
Maker = str | type[nn.Module] | Callable[[int], nn.Module] | tuple[str | type[nn.Module], Mapping[str, Any]]
"""A mechanism: its name or class, either with arguments, `("cbam", {"reduction": 4})`, or a function from the channel
count to one."""

Makers = Maker | Sequence[Maker]
"""One mechanism, or several that are applied in order."""

INSTEAD: dict[str, tuple[str, ...]] = {
    "branch": ("branch", "block", "stage"),
    "block": ("block", "stage"),
    "stage": ("stage", "block"),
    "last_stage": ("last_stage", "block"),
}
"""Where a mechanism goes by default in a model that has no place of the role that its paper names, in this order."""


def _refinements() -> str:
    return ", ".join(sorted(name for name, kind in mechanisms.items() if issubclass(kind, Refine)))


def wanted(
    attention: Makers | Mapping[Where, Makers],
    at: Where | Sequence[Where] | None,
    arguments: Mapping[str, Any],
    table: PlaceTable,
) -> list[tuple[list[Place], list[Maker]]]:
    """Return which mechanisms go where, with names made classes and what is no mechanism refused.

    Args:
        attention, at: as of `insert`.
        arguments: for the constructors of all mechanisms.
        table: the places that the model has.
    """
    if isinstance(attention, Mapping):
        if at is not None:
            raise UserError("at= was given beside a mapping, which says itself where each mechanism goes: leave it out")
        pairs = list(attention.items())
        if not pairs:
            raise UserError("no attention was given: the mapping is empty")
    else:
        pairs = [(at, cast(Makers, attention))]
    found: list[tuple[list[Place], list[Maker]]] = []
    for where, makers in pairs:
        one = not isinstance(makers, list) and not (isinstance(makers, tuple) and not _with_arguments(makers))
        listed = [cast(Maker, makers)] if one else list(cast(Sequence[Maker], makers))
        if not listed:
            raise UserError("no attention was given: give a mechanism's name, or a list of at least one")
        resolved = [_resolve(maker, arguments) for maker in listed]
        found.append((table.choose(_default(resolved, table) if where is None else where), resolved))
    return found


def _with_arguments(makers: tuple[Any, ...]) -> bool:
    """Return whether a tuple is one mechanism with its arguments, and not several mechanisms."""
    return len(makers) == 2 and isinstance(makers[1], Mapping)


def _resolve(given: Maker, arguments: Mapping[str, Any]) -> Maker:
    maker: Any = given
    if isinstance(maker, tuple):
        if not _with_arguments(maker):
            raise UserError(
                f"{maker!r} is no mechanism: give a name or class with its arguments, such as ('cbam', "
                "{'reduction': 4})"
            )
        maker, own = maker
        arguments = {**arguments, **own}
    if isinstance(maker, str):
        maker = get(maker)
    if isinstance(maker, nn.Module):
        raise UserError(
            f"a {type(maker).__name__} that is built already cannot be inserted, since each place has its own "
            "channels: give its name, its class, or a function from the channel count to a module"
        )
    if not callable(maker):
        raise UserError(
            f"{maker!r} is no mechanism: give a name, a class, or a function from the channel count to a module"
        )
    found = cast(Callable[[int], nn.Module], maker)
    kind = _kind(found)
    if kind is not None:
        _require_insertable(kind)
    if arguments:
        if kind is None or not issubclass(kind, Attention):
            raise UserError(
                f"{', '.join(arguments)} was given beside {getattr(maker, '__name__', maker)!r}, which builds its "
                "module itself: give the arguments there"
            )
        check_arguments(kind, arguments)
        return partial(found, **arguments)
    return found


def _default(makers: Sequence[Maker], table: PlaceTable) -> str:
    """Return where mechanisms go of which nothing is said: where their papers put them, or the nearest that there is.

    Raises:
        UserError: they go to different places, or the model has none of that kind.
    """
    places = {getattr(_kind(maker), "place", "block"): maker for maker in makers}
    if len(places) > 1:
        named = ", ".join(f"{getattr(_kind(maker), 'name', maker)} to {place!r}" for place, maker in places.items())
        raise UserError(f"the mechanisms of one list go to different places by default ({named}): say where with at=")
    (place,) = places
    for where in INSTEAD.get(place, (place,)):
        if table.has(where):
            return where
    return place


def _kind(maker: Maker) -> type | None:
    """The class that a maker builds, where it is one or a partial of one."""
    while isinstance(maker, partial):
        maker = maker.func
    return maker if isinstance(maker, type) else None


def _require_insertable(kind: type) -> None:
    if not issubclass(kind, (Refine, Convolve, Merge)):
        what = f"a {kind.contract}" if issubclass(kind, Attention) else "no mechanism of regard"
        raise UserError(
            f"{getattr(kind, 'name', kind.__name__)!r} cannot be inserted: it is {what}. A Convolve takes over from a "
            "convolution, a Merge from what joins tensors, and a Refine goes anywhere, since it gives the shape that "
            f"it takes; those are {_refinements()}"
        )


def build(place: Place, makers: Sequence[Maker], host: nn.Module, start: Start, turn: int | None) -> Placed:
    attention = InOrder()
    sources: tuple[Slot, ...] = ()
    taken: set[str] = set()
    for index, maker in enumerate(makers):
        try:
            made = _make(maker, place, host)
        except ValueError as error:
            kind = _kind(maker)
            name = getattr(kind, "name", getattr(maker, "__name__", "the mechanism"))
            raise UserError(f"{name!r} cannot be built for {str(place)!r}: {error}") from error
        inner = made.refine if isinstance(made, (OnMap, OnTokens)) else made
        _require_insertable(type(inner))
        inner = cast(Attention, inner)
        if not isinstance(inner, Refine):
            if index:
                raise UserError(
                    f"{inner.name!r} is a {inner.contract} and comes after another mechanism, but it takes what the "
                    "model gives there: put it first in the list"
                )
            sources = _sources(place, inner)
        if start == "identity" and isinstance(inner, Refine):
            for zero in inner.zero_start:
                _wake(inner, zero)
        attention.add_module(unique(inner.name, taken), _fit(inner, place) if isinstance(inner, Refine) else inner)
    if start == "identity" and not sources and _gives_its_input(attention, place):
        start = "paper"
    attention.to(device=place.device, dtype=place.dtype)
    placed = Placed(place, attention, start, sources, turn)
    if sources:
        _try(placed, place)
    return placed


def _wake(attention: Refine, zero: str) -> None:
    """Give other values to a parameter that starts at zero; the strength takes over from it.

    Behind a strength of zero a gain of zero would never move: each would wait for the other.
    """
    path, _, name = zero.rpartition(".")
    module = attention.get_submodule(path)
    parameter = module.get_parameter(name)
    if parameter.ndim < 2:
        nn.init.ones_(parameter)
    else:
        cast(Any, module).reset_parameters()


def _gives_its_input(attention: InOrder, place: Place) -> bool:
    """Return whether somebody's own mechanism is the identity at its start, of which nobody said by which parameter.

    A strength would then only do harm: behind a gain of zero it has no gradient, and before one it gives none.
    """
    if any(parameter.is_meta for parameter in attention.parameters()):
        return False  # it has no values to tell by
    tokens = place.layout == "BNC"
    few = [min(size, 7) for size in place.grid or ()]
    shape = (1, *place.shape[1:]) if tokens else (1, place.channels, *few)
    where = next(iter(attention.parameters()), torch.empty(0))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=where.dtype).to(where.device)
    with undisturbed(attention):
        return torch.equal(attention(noise), noise)


# `Any`: the arguments of somebody's class.
def _make(maker: Maker, place: Place, host: nn.Module) -> nn.Module:
    """The mechanism for a place: a convolution's like it, another one from the channel count."""
    kind = _kind(maker)
    build = cast(Callable[..., nn.Module], maker)
    given = set(maker.keywords) if isinstance(maker, partial) else set()
    if kind is not None and issubclass(kind, Convolve):
        if not isinstance(host, nn.Conv2d) or place.slot != Slot():
            raise UserError(
                f"{kind.name!r} is a Convolve, which takes over from a nn.Conv2d, and {str(place)!r} is the "
                f"{place.side} of a {type(host).__name__}: give the path of a convolution, such as 'layer3.*.conv2'"
            )
        if host.dilation != (1, 1) or len(set(host.kernel_size)) > 1 or len(set(host.stride)) > 1:
            raise UserError(
                f"{place.path!r} is a convolution with kernel_size={host.kernel_size}, stride={host.stride} and "
                f"dilation={host.dilation}, which {kind.name!r} cannot take over: it has one kernel size and one "
                "stride, and no dilation"
            )
        carried: dict[str, Any] = {"kernel_size": host.kernel_size[0], "stride": host.stride[0]}
        if host.groups > 1:
            carried["groups"] = host.groups
        if "bias" in inspect.signature(kind).parameters:
            carried["bias"] = host.bias is not None
        carried = {key: value for key, value in carried.items() if key not in given}
        return build(host.in_channels, host.out_channels, **carried)
    if kind is not None and issubclass(kind, Merge) and place.partner is not None:
        shape = _partner_shape(place, place.partner)
        gating = "gating_channels" in inspect.signature(kind).parameters and "gating_channels" not in given
        if gating and shape != place.shape:
            return build(place.channels, gating_channels=shape[LAYOUTS[place.layout][1]])
    return build(place.channels)


def _sources(place: Place, attention: Attention) -> tuple[Slot, ...]:
    """What a Convolve or a Merge takes at a place."""
    if isinstance(attention, Convolve):
        return (Slot("input", place.inputs[0][0]),)
    if place.partner is not None:
        return (place.slot, place.partner)
    if place.side == "output" and len(place.inputs) > 1:
        return tuple(Slot("input", key) for key, _ in place.inputs)
    raise UserError(
        f"{attention.name!r} is a Merge, which takes several tensors, and {str(place)!r} is one tensor: place it at "
        "'skip', where the model exposes one with the coarser tensor that it meets, or at a module that is given "
        "several tensors"
    )


def _partner_shape(place: Place, slot: Slot) -> tuple[int, ...]:
    shape = list(dict(place.inputs)[slot.key])
    if slot.span:
        shape[LAYOUTS[place.layout][1]] = slot.span[1] - slot.span[0]
    return tuple(shape)


def _try(placed: Placed, place: Place) -> None:
    """Run attention that takes other tensors than it refines once, since its contract does not promise the shape."""
    shapes = [_partner_shape(place, source) for source in placed.sources]
    noise = [torch.zeros(shape, dtype=place.dtype, device=place.device) for shape in (place.shape, *shapes)]
    mechanism = getattr(placed.attention[0], "name", "")
    try:
        with undisturbed(placed):
            given = [x.movedim(-1, 1) if placed.channels_at_end else x for x in noise[1:]]
            got = tuple(placed.attention(*given).shape)
    except (ShapeError, RuntimeError, TypeError) as error:
        raise UserError(f"{mechanism!r} cannot stand at {str(place)!r}: {error}") from error
    expected = tuple(noise[0].movedim(-1, 1).shape) if placed.channels_at_end else place.shape
    if got != expected:
        raise UserError(
            f"{mechanism!r} cannot stand at {str(place)!r}: it gives shape {got} from "
            f"{', '.join(map(str, shapes))}, and the model goes on with {expected}"
        )


def _fit(module: Refine, place: Place) -> nn.Module:
    """The module as it can stand at that place."""
    tokens = place.layout == "BNC"
    where = f"{str(place)!r} has {'tokens' if tokens else 'a map'} of shape {place.shape} ({place.layout})"
    if module.channels != place.channels:
        raise UserError(
            f"{where}, and {module.name!r} was built for {module.channels} channels: use the count that is given"
        )
    if module.layout == "tokens":
        return module if tokens else OnMap(module)
    positions = place.shape[1] - place.extra_tokens
    if tokens and place.grid is None and math.isqrt(positions) ** 2 != positions:
        raise UserError(
            f"{where}, whose grid cannot be told, and {module.name!r} refines maps (batch, channels, *spatial): place "
            "it where a map is, or give a function from the channel count to regard.attention.OnTokens(..., grid=...)"
        )
    rank = 2 if place.grid is None else len(place.grid)
    if rank not in module.spatial_ranks:
        ranks = " or ".join(map(str, module.spatial_ranks))
        raise UserError(f"{where}, and {module.name!r} takes {ranks} spatial axes")
    return OnTokens(module, place.extra_tokens, place.grid) if tokens else module
