"""The command line, as it is typed, and how it ends on bad input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from regard.cli import build


def typed(*words: str, **environment: str) -> Result:
    """What `regard WORDS` says, on a terminal of 160 columns unless the environment has others."""
    return CliRunner(env={"COLUMNS": "160", **environment}).invoke(build(), words)


@contextmanager
def interrupted(task: type[Any], step: int) -> Iterator[list[int]]:
    """Ctrl-C at that step of a task's training; gives what counts the steps."""
    loss: Callable[..., torch.Tensor] = task.loss
    calls: list[int] = []

    def counted(self: Any, model: Any, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return loss(self, model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "loss", counted)
        yield calls


def one_line(result: Result, *parts: str) -> None:
    """It ended as bad input does: exit code 2, one line that says so, no traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr
