"""The mechanisms as a table: what there is, and a mechanism by its short name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regard.attention import domains, families, mechanisms
from regard.attention.contract import Attention, Layout, Paper, Refine
from regard.errors import UserError, nearest


class UnknownMechanismError(UserError, ValueError):
    """No mechanism has that name. The message names the nearest one and all others."""


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
    """The class of the mechanism with this short name.

    Raises:
        UnknownMechanismError: there is none.
    """
    if name in mechanisms:
        return mechanisms[name]
    raise UnknownMechanismError(f"unknown mechanism {name!r}: {nearest(name, mechanisms)}")


# `Any`: the arguments are those of the class, which checks them itself; a wrong one is its TypeError.
def create(name: str, *args: Any, **kwargs: Any) -> Attention:
    """Build the mechanism with this short name; the other arguments are its constructor's.

    >>> create("se", 64, reduction=8)

    Raises:
        UnknownMechanismError: there is no mechanism of that name.
    """
    return get(name)(*args, **kwargs)


def check_arguments(mechanism: type[Attention], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the constructor of a mechanism does not take, before anything is built.

    Args:
        mechanism: the class.
        arguments: some of its constructor's arguments by name; those that are missing are not looked at.

    Raises:
        UnknownArgumentError: an argument is unknown; the message names the nearest one and all that there are.
    """
    domains.check_names(mechanism, arguments)


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
    )
