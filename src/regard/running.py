"""Running somebody's model on an example without leaving a trace in it."""

from collections.abc import Iterable, Iterator, Mapping
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
        return list(_tensors([*self.positional, *self.named.values()]))


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


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; every module's mode and the random state afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices), enabled=True):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


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
