"""Every Python example of the README runs, top to bottom, as it stands there; its tables are the catalogue's."""

import re
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.usefixtures("unchecked_shapes")
def test_example(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {"__name__": "readme"})


def test_the_commands_are_the_ones_that_ci_runs():
    text = README.read_text(encoding="utf-8")
    script = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install uv && uv run pytest" in text
    assert "pip install uv && uv run pytest" in script
    assert "pip install uv && uv run regard compare" in text


def table() -> str:
    """The README's table of mechanisms, a row a family."""
    from regard.attention import families

    rows = [
        f"| {family.__name__.rpartition('.')[2].replace('_', ' ')} | "
        + " ".join(f"`{getattr(family, symbol).name}`" for symbol in family.__all__)
        + " |"
        for family in families
    ]
    return "\n".join(["| family | mechanisms |", "|---|---|", *rows]) + "\n"


def test_the_table_of_mechanisms_is_the_catalogue():
    assert table() in README.read_text(encoding="utf-8"), (
        "the README lists other mechanisms than there are; write its table anew with: "
        "uv run python tests/test_readme.py --write"
    )


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("To write the README's table of mechanisms: uv run python tests/test_readme.py --write")
    text = README.read_text(encoding="utf-8")
    written = re.sub(r"\| family \| mechanisms \|\n(\|.*\n)+", lambda _: table(), text)
    README.write_text(written, encoding="utf-8")
