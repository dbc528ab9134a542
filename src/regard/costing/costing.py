"""Parameters, multiply-accumulates, bytes and time of one forward."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from regard.costing.counting import Counts, count
from regard.errors import UserError
from regard.formatting import count as counted
from regard.formatting import milliseconds, scaled
from regard.running import Inputs, inputs_of, undisturbed

_WARM_UP = 3


@dataclass(frozen=True)
class Cost(Counts):
    """What one forward of a model costs: what `Counts` counts, and beside it parameters and time.

    One cost less another is what the change between them adds:

        before, after = costs([model, attended], images)
        print(after - before, (after / before)["macs"])

    Attributes:
        parameters: all parameters, shared ones once.
        trainable_parameters: those that require a gradient.
        times: milliseconds of each forward in evaluation mode without gradients. Those of a difference are differences
            forward by forward, which is why both must come from one call of `costs`.
    """

    parameters: int
    trainable_parameters: int
    times: tuple[float, ...] = field(repr=False)

    @property
    def milliseconds(self) -> float:
        """Median time of one forward."""
        return statistics.median(self.times)

    @property
    def spread(self) -> float:
        """The interquartile range of that time, in milliseconds."""
        if len(self.times) == 1:
            return 0.0
        low, _, high = statistics.quantiles(self.times, n=4, method="inclusive")
        return high - low

    @property
    def repeats(self) -> int:
        """How many forwards were timed."""
        return len(self.times)

    def time_ratio(self, other: "Cost") -> tuple[float, float, float]:
        """Return how many times another model's time this is, round by round: the median and both quartiles.

        Both come from one call of `costs`, where the models of a round run one after the other.

        Raises:
            UserError: they were not timed in as many rounds.
        """
        if other.repeats != self.repeats:
            raise _unpaired(self, other)
        ratios = [mine / theirs for mine, theirs in zip(self.times, other.times, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high

    def as_dict(self) -> dict[str, int | float]:
        """Its numbers by name, the time as median and spread."""
        counted = {attribute.name: getattr(self, attribute.name) for attribute in fields(self)}
        del counted["times"]
        return {**counted, "milliseconds": self.milliseconds, "spread": self.spread, "repeats": self.repeats}

    def __sub__(self, other: Counts) -> "Cost":
        if not isinstance(other, Cost):
            return NotImplemented
        if other.repeats != self.repeats:
            raise _unpaired(self, other)
        counts = Counts.__sub__(self, other)
        return Cost(
            macs=counts.macs,
            bytes_moved=counts.bytes_moved,
            activation_bytes=counts.activation_bytes,
            parameters=self.parameters - other.parameters,
            trainable_parameters=self.trainable_parameters - other.trainable_parameters,
            times=tuple(mine - theirs for mine, theirs in zip(self.times, other.times, strict=True)),
        )

    def __truediv__(self, other: "Cost") -> dict[str, float | None]:
        """How many times the other cost this is, by measure; None where the other costs nothing."""
        mine, theirs = self.as_dict(), other.as_dict()
        return {name: mine[name] / theirs[name] if theirs[name] else None for name in mine if name not in _NO_RATIO}

    def __str__(self) -> str:
        return (
            f"{counted(self.parameters)} parameters ({counted(self.trainable_parameters)} trainable), "
            f"{scaled(self.macs, digits=4)} MACs, "
            f"{scaled(self.bytes_moved, 'B', 4)} moved, {scaled(self.activation_bytes, 'B', 4)} kept for backward, "
            f"{milliseconds(self.milliseconds, self.spread)} (median and interquartile range of {self.repeats})"
        )


_NO_RATIO = ("spread", "repeats")


# `Any`: a model takes what it takes.
def cost(model: nn.Module, *example: Any, repeats: int = 20) -> Cost:
    """Count and time one forward of a model or mechanism.

    The model is run in evaluation mode; its modes, its gradients and the random state are afterwards as before.

        cost(model, (1, 3, 224, 224))
        cost(AdditiveRead(64, 128), query, memory)

    Args:
        model: any module.
        example: its inputs; or one shape, tuple or dict of inputs; or nothing for the input size that a timm model
            knows.
        repeats: forwards to time, after three that are not timed.

    Raises:
        UserError: there is no example and the model knows no input size, or `repeats` is not at least 1.
    """
    return costs([model], *example, repeats=repeats)[0]


def costs(
    models: Sequence[nn.Module], *example: Any, repeats: int = 20, examples: Sequence[Any] | None = None
) -> list[Cost]:
    """The costs of several models on one example, timed in turn, so that a busy minute falls on all of them alike.

        attended = regard.insert(deepcopy(model), "cbam", at="branch")
        before, after = costs([model, attended])
        print(after - before)  # what the attention costs there

    Args:
        models: at least one module; all take the example.
        example, repeats: as of `cost`; without an example, the input size that the first model knows.
        examples: one for each model, where they do not all take the same, each as `example` of `cost` if it is one.

    Raises:
        UserError: as `cost`; there is no model; a model has lazy layers that have not seen any input yet; there are not
            as many examples as models, or one for all beside them.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}: at least one forward must be timed")
    if not models:
        raise UserError("no model was given: give at least one")
    for model in models:
        if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            raise UserError(
                f"{type(model).__name__} has lazy layers, which have no parameters before they see an input: "
                "run the model once first"
            )
    if examples is None:
        common = Inputs(example) if len(example) > 1 else inputs_of(models[0], example[0] if example else None)
        inputs = [common] * len(models)
    elif example or len(examples) != len(models):
        raise UserError(f"{len(examples)} examples for {len(models)} models: give one for each, and none beside them")
    else:
        inputs = [inputs_of(model, one) for model, one in zip(models, examples, strict=True)]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(undisturbed(model))
        counted = [count(model, one) for model, one in zip(models, inputs, strict=True)]
        times = _times(models, inputs, repeats)
    return [
        Cost(
            macs=counts.macs,
            bytes_moved=counts.bytes_moved,
            activation_bytes=counts.activation_bytes,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            trainable_parameters=sum(value.numel() for value in model.parameters() if value.requires_grad),
            times=tuple(taken),
        )
        for model, counts, taken in zip(models, counted, times, strict=True)
    ]


def _unpaired(one: Cost, other: Cost) -> UserError:
    return UserError(
        f"these costs come from {other.repeats} and {one.repeats} timed forwards: measure both in one call, "
        "costs([before, after], example)"
    )


def _times(models: Sequence[nn.Module], inputs: Sequence[Inputs], repeats: int) -> list[list[float]]:
    """Milliseconds of each forward, model by model; each round runs all models, every other one in reverse."""
    given = [tensor for one in inputs for tensor in one.tensors()]
    tensors = (*given, *(tensor for model in models for tensor in model.parameters()))
    on_gpu = any(tensor.device.type == "cuda" for tensor in tensors)
    times: list[list[float]] = [[] for _ in models]
    for run in range(_WARM_UP + repeats):
        turns = list(zip(models, inputs, times, strict=True))
        for model, one, taken in turns if run % 2 else reversed(turns):
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            one.run(model)
            if on_gpu:
                torch.cuda.synchronize()
            if run >= _WARM_UP:
                taken.append((time.perf_counter() - start) * 1000)
    return times
