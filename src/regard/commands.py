"""Commands of this package as they can be pasted: into cmd.exe and sh alike, behind `uv run` where that started it."""

import os
import re
import shlex
import subprocess

_plain = re.compile(r"[A-Za-z0-9_@+=:,./-]+")
"""A word that every shell takes as it is."""

_special = re.compile(r'["$`\\!%^\n]')
"""What some shell changes inside double quotes."""


def command(*words: str) -> str:
    """Return a command of this package as it can be pasted.

    Args:
        words: the words after `regard`; those that need quotes get them.
    """
    return " ".join([*_runner(), "regard", *map(quote, words)])


def as_started(text: str) -> str:
    """Return a text whose commands, in backticks or each on a line of its own, begin as this process did."""
    return re.sub(r"(?m)(`|^ *)regard (?=[a-z])", lambda found: found[1] + " ".join([*_runner(), "regard", ""]), text)


def pip_install(requirement: str) -> str:
    """Return the command that installs a requirement, such as `"regard[compare]"`, where this process runs."""
    uv = ["uv"] if _runner() else []
    return " ".join([*uv, "pip", "install", quote(requirement)])


def quote(word: str) -> str:
    """Return a word as a shell takes it: in double quotes, which cmd.exe and sh both know, if it needs any.

    What is special inside double quotes is quoted as the shells of this system want it.
    """
    if _plain.fullmatch(word):
        return word
    if not _special.search(word):
        return f'"{word}"'
    if os.name != "nt":
        return shlex.quote(word)
    quoted = subprocess.list2cmdline([word])
    return quoted if quoted.startswith('"') else f'"{quoted}"'


def _runner() -> list[str]:
    """What the command line began with before `regard`; uv tells it to what it runs."""
    return ["uv", "run"] if "UV_RUN_RECURSION_DEPTH" in os.environ else []
