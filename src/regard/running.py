"""Running somebody's model on an example without leaving a trace in it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import UserError

Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | None
"""What a model is run on: a tensor, several inputs, named inputs, a shape, or None for the size a timm model knows."""


# `Any`: a model takes what it takes.
@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward."""

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Any:
        """One forward."""
        return model(*self.positional, **self.named)

    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, and in the lists and mappings among them."""
        return list(tensors([*self.positional, *self.named.values()]))


def inputs_of(model: nn.Module, example: Example) -> Inputs:
    """The arguments that an example stands for.

    Args:
        model: the model that will be run; a shape becomes noise of its device and type.
        example: a tensor; a tuple or list of inputs; a mapping of named inputs; a shape, as `torch.Size` or a tuple of
            integers; or None for the `input_size` in the `pretrained_cfg` or `default_cfg` of a timm model.

    Raises:
        UserError: there is no example and the model knows no input size.
    """
    if isinstance(example, Tensor):
        return Inputs((example,))
    if isinstance(example, Mapping):
        return Inputs(named=example)
    if example is None:
        return Inputs((_noise(model, (1, *_known_size(model))),))
    if len(example) > 0 and all(isinstance(size, int) for size in example):
        return Inputs((_noise(model, tuple(example)),))
    return Inputs(tuple(example))


_lock = threading.Lock()
_evaluated: dict[int, int] = {}
"""How many open blocks keep a module in evaluation mode that was in training mode before, by the module's `id`."""
_random: dict[torch.device, tuple[int, Tensor]] = {}
"""How many open blocks want a device's random state back, and what it was before the first of them."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; every module's mode and the random state afterwards as before.

    Modes belong to the modules and the random state to the process. Where blocks of several threads overlap on the same
    modules, the first one sets the evaluation mode and the last one restores what was before the first; likewise for
    the random state. A model that is answered by some threads cannot be trained by another one at the same time.
    """
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    with torch.no_grad(), _random_state_kept([torch.device("cpu"), *devices]), _evaluation_mode(model):
        yield


def tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in what a model takes or gives: itself, or in the lists, tuples and mappings that it holds."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the module itself if it is not wrapped."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    held: list[nn.Module] = []
    try:
        with _lock:
            held += [module for module in model.modules() if module.training or id(module) in _evaluated]
            for module in held:
                _evaluated[id(module)] = _evaluated.get(id(module), 0) + 1
            if any(module.training for module in held):
                model.eval()
        yield
    finally:
        with _lock:
            for module in held:
                _evaluated[id(module)] -= 1
                if _evaluated[id(module)] == 0:
                    del _evaluated[id(module)]
                    module.training = True


@contextmanager
def _random_state_kept(devices: Sequence[torch.device]) -> Iterator[None]:
    with _lock:
        for device in devices:
            blocks, state = _random.get(device) or (0, _random_state(device))
            _random[device] = (blocks + 1, state)
    try:
        yield
    finally:
        with _lock:
            for device in devices:
                blocks, state = _random.pop(device)
                if blocks > 1:
                    _random[device] = (blocks - 1, state)
                elif device.type == "cpu":
                    torch.set_rng_state(state)
                else:
                    torch.cuda.set_rng_state(state, device)


def _random_state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _known_size(model: nn.Module) -> tuple[int, ...]:
    for attribute in ("pretrained_cfg", "default_cfg"):
        settings = getattr(model, attribute, None)
        size = settings.get("input_size") if isinstance(settings, Mapping) else getattr(settings, "input_size", None)
        if size:
            return tuple(size)
    raise UserError(
        f"the input of {type(model).__name__} is not known: give one as example=, a tensor, a tuple or dict of inputs, "
        "or a shape such as (1, 3, 224, 224)"
    )


def _noise(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    first = next((value for value in model.parameters() if value.is_floating_point()), torch.empty(0))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(device=first.device, dtype=first.dtype)
