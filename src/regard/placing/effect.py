"""Whether what attention refines can change an output of the model at all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.attention import OnTokens
from regard.placing.placed import InOrder, Placed, standing_in
from regard.running import Inputs, tensors, undisturbed


class _Unknown(nn.Module):
    """Gives NaN wherever attention can change something: what is computed from it is NaN, whatever it is."""

    def __init__(self, extra_tokens: int) -> None:
        super().__init__()
        self.extra_tokens = extra_tokens

    def forward(self, x: Tensor) -> Tensor:
        if not self.extra_tokens:
            return torch.full_like(x, torch.nan)
        return torch.cat((x[:, : self.extra_tokens], torch.full_like(x[:, self.extra_tokens :], torch.nan)), 1)


def without_effect(model: nn.Module, inputs: Inputs, suspects: Sequence[Placed]) -> list[Placed]:
    """Return which of the inserted attention changes no output of the model.

    Of each in turn every value that it can change is made NaN, which spreads to all that is computed from it, through
    weights of zero too. Gradients would not tell: behind a gain of zero they are zero.

    Args:
        model: a model with inserted attention.
        inputs: what to run it on.
        suspects: the attention to look at.
    """
    if not suspects:
        return []
    lost: list[Placed] = []
    sensors: list[Placed] = []
    with undisturbed(model):
        expected = list(tensors(inputs.run(model)))
        if not expected or any(tensor.is_meta for tensor in expected):
            return []
        for placed in reversed(suspects):
            if _changes(model, inputs, placed, sensors, expected):
                sensors.append(placed)
            else:
                lost.append(placed)
    return lost[::-1]


class _Reached(Exception):
    """What is NaN has come to attention that is known to change an output."""


class _Sensor(nn.Module):
    """Ends a run where NaN comes to positions that are known to reach an output."""

    def __init__(self, extra_tokens: int) -> None:
        super().__init__()
        self.extra_tokens = extra_tokens

    def forward(self, x: Tensor) -> Tensor:
        if x[:, self.extra_tokens :].isnan().any():
            raise _Reached
        return x


def _changes(
    model: nn.Module, inputs: Inputs, placed: Placed, sensors: Sequence[Placed], expected: Sequence[Tensor]
) -> bool:
    """Return whether NaN at one place comes to an output, or to one of the places from which it is known to come."""
    modules = {sensor: InOrder(_Sensor(_untouched(sensor))) for sensor in sensors}
    modules[placed] = InOrder(_Unknown(_untouched(placed)))
    try:
        with standing_in(modules):
            found = list(tensors(inputs.run(model)))
    except Exception:  # `_Reached`, or something of the model that refuses NaN, which it must have read
        return True
    return len(found) != len(expected) or not all(map(_equal, found, expected))


def _untouched(placed: Placed) -> int:
    """Return how many tokens at the front pass the attention unchanged."""
    return placed.extra_tokens if all(isinstance(module, OnTokens) for module in placed.attention) else 0


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) if one.is_floating_point() else one.equal(other)
