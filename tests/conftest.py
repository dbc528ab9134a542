"""Before anything imports `regard`: every shape in a signature is checked, in the tests alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import jaxtyping
import pytest
import torch
from torch import nn

jaxtyping.install_import_hook("regard", "beartype.beartype")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores already


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def without_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands print alike under `uv run pytest` and `pytest`."""
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models of `transformers`, see `small_checkpoints`."""
    from small_checkpoints import write_checkpoints

    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a user runs it, without shape checks: to see the mechanism's own errors, and to compile."""
    # Also for functions that are defined within a forward, which the hook decorates whenever that runs.
    monkeypatch.setattr(jaxtyping, "jaxtyped", lambda typechecker: lambda function: function)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_make_parametrize_id(val: object) -> str | None:
    """A function's or module's printed form holds its address: name it by its kind, so that all workers agree."""
    if isinstance(val, FunctionType):
        return val.__name__.strip("<>")
    return type(val).__name__ if isinstance(val, nn.Module) else None
