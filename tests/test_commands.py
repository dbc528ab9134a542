"""Commands that are printed can be pasted, and every command has `-h`."""

import ast
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from regard import commands
from regard.cli import build
from regard.commands import as_started, command, pip_install, quote
from typed import typed

SOURCE = Path(__file__).parents[1] / "src" / "regard"


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("runs/my-run_1.5", "runs/my-run_1.5"),
        ("what color is the cat?", '"what color is the cat?"'),
        ("it's", '"it\'s"'),
        ("regard[compare]", '"regard[compare]"'),
        ("", '""'),
    ],
)
def test_quotes_are_those_that_cmd_and_sh_take(word: str, quoted: str) -> None:
    assert quote(word) == quoted
    assert shlex.split(quoted) == [word]


@pytest.mark.skipif(os.name == "nt", reason="as sh reads it")
@pytest.mark.parametrize("word", ["$HOME", "`ls`", 'say "no"', "a\\b", "what!?", "100 % of $1", 'it\'s "$x"'])
def test_what_is_special_in_double_quotes_stays_as_it_is(word: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf %s {quote(word)}"], capture_output=True, text=True, check=True)
    assert done.stdout == word


def test_windows_paths_and_quotes_are_quoted_as_its_programs_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.os, "name", "nt")
    assert quote("C:\\my pictures\\cat.png") == '"C:\\my pictures\\cat.png"'
    assert quote('say "no"') == '"say \\"no\\""'


def test_uv_run_stands_before_where_it_started_this(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Train with `regard train vqa`:\n\n  regard ask photos cat.jpg\n\nby regard or irregard compare"
    assert command("ask", "photos", "what?") == 'regard ask photos "what?"'
    assert pip_install("regard[compare]") == 'pip install "regard[compare]"'
    assert as_started(text) == text
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert command("ask", "photos", "what?") == 'uv run regard ask photos "what?"'
    assert pip_install("regard[compare]") == 'uv pip install "regard[compare]"'
    assert as_started(text) == (
        "Train with `uv run regard train vqa`:\n\n  uv run regard ask photos cat.jpg\n\nby regard or irregard compare"
    )
    assert "uv run regard compare --attention none" in typed("compare", "--help").stdout


def test_no_message_writes_a_command_by_hand() -> None:
    """All but docstrings, which `as_started` reads, and the help of options, which refers to commands."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helps = {
            id(part)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in ("Option", "Argument")
            for part in ast.walk(call)
        }
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | helps:
                assert "`regard " not in node.value, f"{path}:{node.lineno}: build it with regard.commands.command"


def names(group: object, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command and group."""
    found = [before]
    for name, one in getattr(group, "commands", {}).items():
        found += names(one, (*before, name))
    return found


@pytest.mark.parametrize("words", names(get_command(build())), ids=lambda words: " ".join(words) or "regard")
def test_every_command_has_h_for_help(words: tuple[str, ...]) -> None:
    short, long = typed(*words, "-h"), typed(*words, "--help")
    assert short.exit_code == long.exit_code == 0
    assert "Usage:" in short.stdout
    assert short.stdout == long.stdout
