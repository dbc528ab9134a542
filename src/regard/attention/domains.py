"""What the arguments of a mechanism may be: names and values are checked here, for all constructors alike."""

from collections.abc import Mapping
from functools import cache
from inspect import Parameter, signature
from typing import Any

from regard.errors import UserError, nearest


class UnknownArgumentError(UserError, TypeError):
    """A constructor was given an argument that it does not take, or lacks one. The message names those it takes."""


def check_names(mechanism: type, given: Mapping[str, Any]) -> None:
    """Refuse arguments that the constructor of a mechanism does not take.

    Args:
        mechanism: the class.
        given: arguments by name; which of the required ones are missing is not looked at.

    Raises:
        UnknownArgumentError: one is unknown; the message names the nearest one and all that there are.
    """
    parameters = parameters_of(mechanism)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            raise UnknownArgumentError(f"{title(mechanism)} takes no argument {name!r}: {nearest(name, parameters)}")


@cache
def parameters_of(mechanism: type) -> Mapping[str, Parameter]:
    """The arguments of a mechanism's constructor, in their order."""
    return signature(mechanism).parameters


def title(mechanism: type) -> str:
    """What a mechanism is called in a message: its short name, or that of its class."""
    return getattr(mechanism, "name", mechanism.__name__)
