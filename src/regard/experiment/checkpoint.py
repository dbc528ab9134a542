"""Checkpoints as safetensors, never pickled: tensors in the file's body, all else as JSON in its head."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from regard import files
from regard.errors import UserError

_TENSOR, _PAIRS = "__tensor__", "__pairs__"


def flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON can hold it, with its tensors taken out into `tensors`."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: key}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: flatten(item, tensors) for key, item in value.items()}
        return {_PAIRS: [[key, flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [flatten(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}: keep tensors, numbers and texts in it")


def restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`; a tuple comes back as a list."""
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        if set(value) == {_PAIRS}:
            return {key: restore(item, tensors) for key, item in value[_PAIRS]}
        return {key: restore(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [restore(item, tensors) for item in value]
    return value


class SafetensorsCheckpoints(CheckpointIO):
    """Lightning's checkpoints as safetensors files that are always whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        head = json.dumps(flatten(checkpoint, tensors))
        files.write(Path(path), lambda partial: save_file(tensors, partial, metadata={"regard": head}))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                head = json.loads(file.metadata()["regard"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint {path} cannot be read ({error}): remove it, and this part of the run starts anew"
            ) from error
        return restore(head, tensors)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
