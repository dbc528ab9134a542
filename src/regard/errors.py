"""What goes wrong by the hand of the person at the keyboard, as opposed to a fault of this library."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error whose message is one clear line: what happened, what was expected, what to do.

    The command line prints that line without a traceback and exits with 2. A library error that is one too derives from
    both this and the built-in exception that a caller would catch.
    """


GO_ON_WITHOUT = "go on without them with skip_bad=True, at the command line --skip-bad"
"""What is to be done about data that cannot be used, where it is not to be mended."""


def in_one_line(error: BaseException) -> str:
    """What an error says, without its line breaks; the name of its kind if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, and all that there are."""
    known = sorted(names)
    near = get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}the choices are {', '.join(known) or 'none'}"
