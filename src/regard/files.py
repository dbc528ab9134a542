"""Writing files so that nothing half-written is ever found, and a full disk says so in one line."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from regard.errors import UserError


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in its place at once.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` before stands there still.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(partial)
        os.replace(partial, path)
    except Exception as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) or "No space left" in str(error):
            raise UserError(_trouble(path, error)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Put a text in place at once."""
    write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Put a JSON file in place at once; without an indent, on one line."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def save_weights(model: nn.Module, path: Path, about: dict[str, str] | None = None) -> None:
    """Put a model's weights in place at once, as safetensors, with what they belong to."""
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write(path, lambda partial: save_file(weights, partial, metadata=about))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): it was not written by regard, or was changed since; "
            "move it away, or choose another --name"
        ) from error


def _trouble(path: Path, error: Exception) -> str:
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return (
            f"the disk is full: {path} could not be written. Nothing finished is lost; make room and run the same "
            "command again to go on"
        )
    return f"{path} could not be written ({error}): check that the folder exists and may be written to"
