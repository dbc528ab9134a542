"""The command line, as it is typed, and how it ends on bad input."""

from typer.testing import CliRunner, Result

from regard.cli import build


def typed(*words: str, **environment: str) -> Result:
    """What `regard WORDS` says, on a terminal of 160 columns unless the environment has others."""
    return CliRunner(env={"COLUMNS": "160", **environment}).invoke(build(), words)


def one_line(result: Result, *parts: str) -> None:
    """It ended as bad input does: exit code 2, one line that says so, no traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr
