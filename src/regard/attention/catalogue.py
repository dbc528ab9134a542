"""The mechanisms as a table: what there is, and a mechanism by any of its names."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from regard.attention import domains, families, mechanisms
from regard.attention.contract import Attention, Convolve, DefaultPlace, Layout, Merge, Paper, Refine
from regard.errors import UserError

AMBIGUOUS: Mapping[str, tuple[str, ...]] = {
    "attention": ("multi_head_self", "multi_head_cross", "dot", "additive"),
    "attention_pooling": ("softmax_pool", "multi_head_pool", "gated_instance", "clip_pool"),
    "bisenet": ("attention_refinement", "feature_fusion"),
    "bottleneck": ("bottleneck_self", "bam"),
    "bottleneck_attn": ("bottleneck_self", "bam"),
    "ca": ("coordinate", "multi_head_cross"),
    "cam": ("channel_self", "se"),
    "channel_attention": ("se", "eca", "channel_self"),
    "channel_attention_module": ("channel_self", "se"),
    "efficientvit": ("cascaded_group", "multi_scale_linear"),
    "flamingo": ("perceiver_resampler", "multi_head_gated_cross"),
    "gct": ("gated_channel", "gaussian_context"),
    "pan": ("feature_pyramid", "global_attention_upsample"),
    "psa": ("polarized", "pyramid_split"),
    "psp": ("pyramid_pooling", "feature_pyramid"),
    "sa": ("multi_head_self", "shuffle"),
    "spatial_attention": ("spatial_gate", "spatial_squeeze", "spatial_group"),
    "window": ("shifted_window", "halo", "neighbourhood"),
}
"""Words that people use for several mechanisms, or for something that only resembles some."""

VARIANTS: Mapping[str, tuple[str, str]] = {
    "lxmert": ("co_attentional", 'variant="lxmert"'),
    "mqa": ("grouped_query", "groups=1"),
    "multi_query": ("grouped_query", "groups=1"),
    "multi_query_attention": ("grouped_query", "groups=1"),
    "sparsemax": ("entmax", "alpha=2"),
    "swin_v2": ("shifted_window", 'version="v2"'),
}
"""Words for a mechanism with another argument than its default: the mechanism and the argument."""


class UnknownMechanismError(UserError, ValueError):
    """No mechanism has that name, or several might be meant. The message names the nearest one, or the several."""


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of one mechanism: the facts that its class states, and where the class stands.

    Attributes:
        name: the short name that `create` takes.
        class_name: the class in `regard.attention`.
        contract: `"Refine"`, `"Convolve"`, `"Read"`, `"Select"` or `"Merge"`.
        family: the folder that it lies in.
        paper: where it was published.
        map_axes: the axes of each map that it offers, by label.
        growth: how its cost grows with the number of positions or tokens `N`.
        deviations: the argument values by which one leaves the paper's formula.
        formula: its mathematics in plain text.
        parameter_count: closed form of its parameter count at default arguments.
        placement: where in a network people put it.
        layout: of a `Refine`, `"map"` or `"tokens"`.
        aliases: its other names.
        place: the role of the places where its paper puts it; None of a `Read` or `Select`.
    """

    name: str
    class_name: str
    contract: str
    family: str
    paper: Paper
    map_axes: dict[str, tuple[str, ...]]
    growth: str
    deviations: tuple[str, ...]
    formula: str
    parameter_count: str
    placement: str
    layout: Layout | None
    aliases: tuple[str, ...]
    place: DefaultPlace | None

    @property
    def year(self) -> int:
        """The year of the paper."""
        return self.paper.year


def catalog() -> list[Entry]:
    """Every mechanism, family by family."""
    return [
        _entry(family.__name__.rpartition(".")[2], getattr(family, symbol))
        for family in families
        for symbol in family.__all__
    ]


def get(name: str) -> type[Attention]:
    """The class of the mechanism of this name: its short name, its class's name or an alias.

    Where no name is just this one, case, spaces, `-` and `_` make no difference.

    Raises:
        UnknownMechanismError: there is none, or several might be meant.
    """
    if not isinstance(name, str):
        raise UnknownMechanismError(f"{name!r} is no name of a mechanism: give a string, such as 'se'")
    if name in mechanisms:
        return mechanisms[name]
    known, plain = _known(), _plain(name)
    if plain in known:
        return mechanisms[known[plain]]
    variant = next((found for word, found in VARIANTS.items() if _plain(word) == plain), None)
    if variant:
        raise UnknownMechanismError(f"{name!r} is {variant[0]!r} with {variant[1]}: give both")
    several = next((names for word, names in AMBIGUOUS.items() if _plain(word) == plain), None)
    if several:
        meant = ", ".join(f"{each} ({_source(mechanisms[each])})" for each in several)
        raise UnknownMechanismError(f"{name!r} is no one mechanism: choose among {meant}")
    near = get_close_matches(plain, known, n=1, cutoff=0.7)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    raise UnknownMechanismError(f"unknown mechanism {name!r}: {hint}the choices are {', '.join(sorted(mechanisms))}")


# `Any`: the arguments are those of the class, which checks them itself.
def create(name: str, *args: Any, **kwargs: Any) -> Attention:
    """Build the mechanism of this name, see `get`; the other arguments are its constructor's.

    >>> create("se", 64, reduction=8)

    Raises:
        UnknownMechanismError: there is no mechanism of that name.
        ArgumentNameError: an argument is unknown or missing.
        ArgumentValueError: an argument is outside its domain.
    """
    return get(name)(*args, **kwargs)


def check_arguments(mechanism: type[Attention], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the constructor of a mechanism does not take, before anything is built.

    Args:
        mechanism: the class.
        arguments: some of its constructor's arguments by name; those that are missing are not looked at.

    Raises:
        ArgumentNameError: an argument is unknown; the message names the nearest one and all that there are.
        ArgumentValueError: a value is outside the domain of its argument; the message names both.
    """
    domains.check_names(mechanism, arguments)
    domains.check_values(mechanism, arguments)


@cache
def _known() -> Mapping[str, str]:
    """The short name of every mechanism by each of its names, in the form in which they are compared."""
    return {
        _plain(name): mechanism.name
        for mechanism in mechanisms.values()
        for name in (mechanism.name, mechanism.__name__, *mechanism.aliases)
    }


def _plain(name: str) -> str:
    return name.casefold().translate({ord(mark): None for mark in " -_"})


def _source(mechanism: type[Attention]) -> str:
    return f"{mechanism.paper.authors} {mechanism.paper.year}"


def _entry(family: str, mechanism: type[Attention]) -> Entry:
    return Entry(
        name=mechanism.name,
        class_name=mechanism.__name__,
        contract=mechanism.contract,
        family=family,
        paper=mechanism.paper,
        map_axes={fact.label: fact.axes for fact in mechanism.maps},
        growth=mechanism.growth,
        deviations=mechanism.deviations,
        formula=mechanism.formula,
        parameter_count=mechanism.parameter_count,
        placement=mechanism.placement,
        layout=mechanism.layout if issubclass(mechanism, Refine) else None,
        aliases=mechanism.aliases,
        place=mechanism.place if issubclass(mechanism, Refine | Convolve | Merge) else None,
    )
