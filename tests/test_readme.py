"""Every Python example of the README runs, top to bottom, as it stands there."""

import re
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
