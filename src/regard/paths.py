"""Module paths: how a pattern names some of a model's modules, and which path was probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase


def is_pattern(text: str) -> bool:
    """Whether this is a glob and not the path of one module."""
    return any(letter in text for letter in "*?[")


def matches(path: str, pattern: str) -> bool:
    """Whether the glob `pattern` names `path`, by the rules of a `.gitignore` with dots for slashes.

    With a dot in it a pattern is matched from the root, name by name: `*` is one name or a part of it, `**` any number
    of names, at the end at least one (`"layer3.*.conv2"`, `"encoder.**.norm"`, `"layer4.**"`). Without a dot it is
    matched with the last name of the path, at any depth (`"bn?"`, `"*"`).
    """
    names = path.split(".")
    if "." not in pattern:
        return fnmatchcase(names[-1], pattern)
    return _match(names, pattern.split("."))


def lies_in(path: str, pattern: str) -> bool:
    """Whether the glob `pattern` names `path` or a module that `path` lies in."""
    names = path.split(".")
    return any(matches(".".join(names[:depth]), pattern) for depth in range(1, len(names) + 1))


def nearest(path: str, paths: Iterable[str]) -> list[str]:
    """The few paths that look most like `path`; the first few if none does."""
    known = list(paths)
    return get_close_matches(path, known, n=3, cutoff=0.5) or known[:3]


def _match(names: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        if len(patterns) == 1:
            return bool(names)
        return any(_match(names[skip:], patterns[1:]) for skip in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _match(names[1:], patterns[1:])
