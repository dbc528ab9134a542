"""What the arguments of mechanisms may be: one table by argument name, and the check of every constructor."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, Signature, signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from regard.errors import UserError


class ArgumentValueError(UserError, ValueError):
    """An argument of a mechanism is outside its domain. The message names mechanism, argument, value and domain."""


class ArgumentNameError(UserError, TypeError):
    """A mechanism was given an argument that it does not take, or lacks one. The message names those that it takes."""


_REFUSED: Final = object()


class Domain(ABC):
    """What an argument may be. Its printed form is what follows "expected" in a message."""

    @abstractmethod
    def take(self, value: object) -> object:
        """The value in the declared type (an `int` of a NumPy integer, a tuple of a list), or `_REFUSED`."""


class WholeNumbers(Domain):
    """Whole numbers, no booleans.

    Attributes:
        least, most: the limits, both included.
        parity: "odd", "even" or "".
    """

    def __init__(self, least: int, most: int, parity: Literal["", "odd", "even"] = "") -> None:
        self.least = least
        self.most = most
        self.parity = parity

    def take(self, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, Integral):
            return _REFUSED
        number = int(value)
        fits = self.least <= number <= self.most and (not self.parity or number % 2 == (self.parity == "odd"))
        return number if fits else _REFUSED

    def __str__(self) -> str:
        if self.most - self.least < 4 and not self.parity:
            numbers = [str(number) for number in range(self.least, self.most + 1)]
            return f"{', '.join(numbers[:-1])} or {numbers[-1]}"
        kind = {"": "a whole number", "odd": "an odd whole number", "even": "an even whole number"}[self.parity]
        return f"{kind} from {self.least} to {self.most}"


class RealNumbers(Domain):
    """Real numbers, no booleans and no NaN.

    Attributes:
        least, most: the limits.
        above, below: whether the limit itself is left out.
    """

    def __init__(self, least: float, most: float, above: bool = False, below: bool = False) -> None:
        self.least = least
        self.most = most
        self.above = above
        self.below = below

    def take(self, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, Real):
            return _REFUSED
        try:
            number = float(value)
        except OverflowError:
            return _REFUSED
        fits = (self.least < number if self.above else self.least <= number) and (
            number < self.most if self.below else number <= self.most
        )
        return number if fits else _REFUSED

    def __str__(self) -> str:
        begin = f"above {self.least:g}" if self.above else f"from {self.least:g}"
        return f"a number {begin} {'to below' if self.below else 'up to'} {self.most:.7g}"


class SomeNumbers(Domain):
    """One of some numbers."""

    def __init__(self, numbers: tuple[float, ...]) -> None:
        self.numbers = numbers

    def take(self, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, Real):
            return _REFUSED
        return next((number for number in self.numbers if number == value), _REFUSED)

    def __str__(self) -> str:
        *others, last = (f"{number:g}" for number in self.numbers)
        return f"{', '.join(others)} or {last}"


class Choices(Domain):
    """One of some words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def take(self, value: object) -> object:
        return next((word for word in self.words if isinstance(value, str) and word == value), _REFUSED)

    def __str__(self) -> str:
        *others, last = map(repr, self.words)
        return f"{', '.join(others)} or {last}" if others else last


class Flag(Domain):
    """True or False, and nothing that is as good as one of them."""

    def take(self, value: object) -> object:
        if type(value).__name__ in ("bool", "bool_") and type(value).__module__ in ("builtins", "numpy"):
            return bool(value)
        return _REFUSED

    def __str__(self) -> str:
        return "True or False"


class Nothing(Domain):
    """None."""

    def take(self, value: object) -> object:
        return value if value is None else _REFUSED

    def __str__(self) -> str:
        return "None"


class Several(Domain):
    """A tuple or list.

    Attributes:
        item: the domain of each item.
        count: how many items there are; None for one or more.
        empty: whether there may be none.
    """

    def __init__(self, item: Domain, count: int | None = None, empty: bool = False) -> None:
        self.item = item
        self.count = count
        self.empty = empty

    def take(self, value: object) -> object:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return _REFUSED
        if len(value) != self.count if self.count else not (value or self.empty):
            return _REFUSED
        taken = tuple(self.item.take(each) for each in value)
        return _REFUSED if any(each is _REFUSED for each in taken) else taken

    def __str__(self) -> str:
        return f"a tuple of {self.count or ('any number' if self.empty else 'one or more')}, each {self.item}"


class Either(Domain):
    """What is in one of several domains."""

    def __init__(self, domains: tuple[Domain, ...]) -> None:
        self.domains = domains

    def take(self, value: object) -> object:
        taken = (domain.take(value) for domain in self.domains)
        return next((each for each in taken if each is not _REFUSED), _REFUSED)

    def __str__(self) -> str:
        return " or ".join(map(str, self.domains))


# The table. The upper limits of sizes lie far above those of any network: what exceeds them is a slip, and would end
# in an overflow or in exhausted memory.

Numbers = WholeNumbers | RealNumbers | SomeNumbers

WIDTH = WholeNumbers(1, 2**20)
"""A number of channels, or of whatever stands along one axis of a tensor."""
COUNT = WholeNumbers(1, 2**16)
"""How many of something a layer has: heads, kernels, queries, ..."""
SIDE = WholeNumbers(1, 2**10)
"""A number of positions along one axis: of a window, a stride, a grid."""
KERNEL = WholeNumbers(1, 2**12 - 1, "odd")
"""The size of a kernel that has a middle."""
REPEATS = WholeNumbers(1, 2**10)
"""How often something is done, or how many layers there are."""
POSITIVE = RealNumbers(0.0, 1e6, above=True)
SHARE = RealNumbers(0.0, 1.0)
DROPOUT = RealNumbers(0.0, 1.0, below=True)
"""A probability of dropping; with 1 nothing would be left."""

DOMAINS: Mapping[str, Numbers] = {
    "alpha": SomeNumbers((1.5, 2.0)),
    "appearance_guide": POSITIVE,
    "appearance_position": POSITIVE,
    "atoms": COUNT,
    "bias_size": SIDE,
    "block": SIDE,
    "blocks": COUNT,
    "branches": REPEATS,
    "channels": WIDTH,
    "classes": WIDTH,
    "condition_width": WIDTH,
    "deviation": POSITIVE,
    "dilation": SIDE,
    "dims": WholeNumbers(1, 3),
    "dropout": DROPOUT,
    "eps": POSITIVE,
    "every": REPEATS,
    "expansion": REPEATS,
    "experts": COUNT,
    "extent": WIDTH,
    "factors": COUNT,
    "features": COUNT,
    "filters": COUNT,
    "frequencies": WholeNumbers(0, 6),
    "gating_channels": WIDTH,
    "glimpses": COUNT,
    "grid": SIDE,
    "groups": WIDTH,
    "guide_channels": WholeNumbers(0, 2**20),
    "halo": WholeNumbers(0, 2**10),
    "head_width": WIDTH,
    "heads": COUNT,
    "hidden_channels": WIDTH,
    "hidden_width": WIDTH,
    "hops": REPEATS,
    "in_channels": WIDTH,
    "iterations": REPEATS,
    "joint_width": WIDTH,
    "kernel_size": KERNEL,
    "kernels": COUNT,
    "key_rank": WIDTH,
    "key_share": SHARE,
    "key_width": WIDTH,
    "landmarks": COUNT,
    "latents": COUNT,
    "layer": COUNT,
    "layers": REPEATS,
    "levels": SIDE,
    "mean_probability": SHARE,
    "memory_width": WIDTH,
    "minimum_key_width": WholeNumbers(0, 2**20),
    "minimum_width": WIDTH,
    "mlp_ratio": RealNumbers(0.0, 1024.0, above=True),
    "modalities": REPEATS,
    "offset_range": RealNumbers(0.0, 1e6),
    "out_channels": WIDTH,
    "patches": COUNT,
    "points": COUNT,
    "queries": COUNT,
    "query_depth": WIDTH,
    "query_rank": WIDTH,
    "query_width": WIDTH,
    "radius": WIDTH,
    "radix": REPEATS,
    "rank": COUNT,
    "reach": COUNT,
    "recurrence": REPEATS,
    "reduction": WIDTH,
    "regions": SIDE,
    "regularization": POSITIVE,
    "residual": RealNumbers(0.0, 1e6),
    "rotary_width": WholeNumbers(0, 2**20, "even"),
    "scales": REPEATS,
    "seeds": COUNT,
    "sharpness": POSITIVE,
    "shift": WholeNumbers(0, 2**10),
    "size": SIDE,
    "sizes": SIDE,
    "sketch_width": WIDTH,
    "slots": COUNT,
    "smoothness": POSITIVE,
    "standard_deviation": POSITIVE,
    "steps": REPEATS,
    "stride": SIDE,
    "strip_sizes": KERNEL,
    "table_size": SIDE,
    "temperature": POSITIVE,
    "temperatures": RealNumbers(0.0, math.inf, above=True),
    "tokens": WIDTH,
    "top": WIDTH,
    "units": COUNT,
    "value_share": SHARE,
    "width": WIDTH,
    "window": SIDE,
}
"""The domain of every argument that is a number, or holds numbers, by its name. Of flags, of words and of None the
annotation says what is accepted; what two arguments must have in common the constructor checks."""

EXCEPTIONS: Mapping[tuple[str, str], Numbers] = {
    ("cosine", "tokens"): WholeNumbers(2, 2**20),  # of one token alone the logarithm of pairs is none
    ("draw_read", "size"): WholeNumbers(2, 2**10),  # one filter has no stride
    ("gather_excite", "extent"): WholeNumbers(2, 2**20),  # an extent of one gathers nothing
    ("large_kernel", "kernel_size"): SIDE,  # taken apart into two kernels, of which each has a middle
    ("linear_context", "channels"): WholeNumbers(2, 2**20),  # one channel alone has no deviation
    ("multi_scale_linear", "scales"): KERNEL,  # sizes, not how many
    ("shuffle", "channels"): WholeNumbers(2, 2**20),  # they are halved
    ("spatial_reduction", "reduction"): SIDE,  # the side of a patch
}
"""Domains of arguments that mean something else in one mechanism, by mechanism and argument."""

MAY_BE_EMPTY = {("multi_scale_convolutional", "strip_sizes"), ("multi_scale_linear", "scales")}
"""Tuples that may hold no item, by mechanism and argument, beside those that are empty by default."""


def domain_of(mechanism: str, parameter: Parameter) -> Domain | None:
    """The domain of an argument, from its annotation and the table.

    Args:
        mechanism: short name of the mechanism.
        parameter: the argument of its constructor.

    Returns:
        None if the annotation says nothing, or something that has no domain here, such as a module.
    """
    name = parameter.name
    found = _read(parameter.annotation, EXCEPTIONS.get((mechanism, name), DOMAINS.get(name)))
    if isinstance(found, Several) and (parameter.default == () or (mechanism, name) in MAY_BE_EMPTY):
        found.empty = True
    return found


def check_names(mechanism: type, given: Mapping[str, Any]) -> None:
    """Refuse arguments that the constructor of a mechanism does not take.

    Args:
        mechanism: the class.
        given: arguments by name; which of the required ones are missing is not looked at.

    Raises:
        ArgumentNameError: one is unknown; the message names the nearest one and all that there are.
    """
    parameters = signature(mechanism).parameters
    if unknown := _unknown(parameters, given):
        raise ArgumentNameError(f"{title(mechanism)} takes no argument {_suggest(unknown, parameters)}")


def check_values(mechanism: type, given: Mapping[str, Any]) -> None:
    """Refuse values outside the domains of their arguments.

    Args:
        mechanism: the class.
        given: arguments by name; names that the constructor does not take are not looked at.

    Raises:
        ArgumentValueError: a value is outside its domain; the message names both.
    """
    name = title(mechanism)
    for argument, parameter in signature(mechanism).parameters.items():
        if argument in given:
            _take(name, argument, domain_of(name, parameter), given[argument])


def checked(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that looks at names and values of its arguments before anything is built.

    Numbers and tuples reach it in the types of its signature: a NumPy integer as an `int`, a list as a tuple.
    """
    known: tuple[Signature, dict[str, Domain | None]] | None = None

    @wraps(constructor)
    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        nonlocal known
        name = title(type(self))
        if known is None:  # not at import, where it would be done for all mechanisms
            _, *parameters = signature(constructor).parameters.values()
            domains = {each.name: domain_of(name, each) for each in parameters}
            known = Signature(parameters), domains
        declared, domains = known
        try:
            bound = declared.bind(*args, **kwargs)
        except TypeError:
            raise ArgumentNameError(f"{name} {_misfit(declared.parameters, args, kwargs)}") from None
        for argument, value in bound.arguments.items():
            bound.arguments[argument] = _take(name, argument, domains[argument], value)
        constructor(self, *bound.args, **bound.kwargs)

    return __init__


def title(mechanism: type) -> str:
    """What a mechanism is called in a message: its short name, or that of its class."""
    return getattr(mechanism, "name", mechanism.__name__)


def _read(annotation: object, numbers: Numbers | None) -> Domain | None:
    """The domain that an annotation stands for, with its numbers within the limits of the table."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is bool:
        return Flag()
    if annotation in (None, NoneType):
        return Nothing()
    if annotation is int:
        return numbers if isinstance(numbers, WholeNumbers) else WholeNumbers(-(2**63), 2**63 - 1)
    if annotation is float:
        return numbers if isinstance(numbers, RealNumbers | SomeNumbers) else RealNumbers(-math.inf, math.inf)
    if origin is Literal and all(isinstance(word, str) for word in arguments):
        return Choices(arguments)
    if origin in (Union, UnionType):
        parts = [_read(part, numbers) for part in arguments]
        return Either(tuple(part for part in parts if part)) if all(parts) else None
    if origin in (tuple, Sequence) and arguments:
        item = _read(arguments[0], numbers)
        fixed = origin is tuple and arguments[-1] is not Ellipsis
        same = not fixed or len(set(arguments)) == 1
        return Several(item, len(arguments) if fixed else None) if item and same else None
    return None


def _take(mechanism: str, argument: str, domain: Domain | None, value: Any) -> Any:
    if domain is None:
        return value
    taken = domain.take(value)
    if taken is _REFUSED:
        raise ArgumentValueError(f"{mechanism} got {argument}={_short(value)}, expected {domain}")
    return taken


def _short(value: object) -> str:
    """A value on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(parameters: Mapping[str, Parameter], given: Mapping[str, Any]) -> str:
    """The first name that is no argument; an empty string if there is none."""
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ""
    return next((name for name in given if name not in parameters), "")


def _suggest(name: str, parameters: Mapping[str, Parameter]) -> str:
    near = get_close_matches(name.lower(), parameters, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{name!r}: {meant}{_listed(parameters)}"


def _listed(parameters: Mapping[str, Parameter]) -> str:
    return f"its arguments are {', '.join(parameters) or 'none'}"


def _misfit(parameters: Mapping[str, Parameter], args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Why arguments do not fit a signature, and what it takes."""
    if unknown := _unknown(parameters, kwargs):
        return f"takes no argument {_suggest(unknown, parameters)}"
    places = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(args) > len(places):
        return f"got {len(args)} arguments by position, takes at most {len(places)}: {_listed(parameters)}"
    if twice := next((name for name in places[: len(args)] if name in kwargs), ""):
        return f"got {twice!r} by position and by name: {_listed(parameters)}"
    missing = [
        repr(name)
        for name, parameter in parameters.items()
        if parameter.default is Parameter.empty
        and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        and name not in kwargs
        and name not in places[: len(args)]
    ]
    return f"lacks {' and '.join(missing)}: {_listed(parameters)}"
