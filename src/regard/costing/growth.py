"""How the cost of a model or mechanism grows with the size of its input."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from regard.attention import Read, Refine
from regard.costing.counting import Counts, count
from regard.errors import UserError, in_one_line
from regard.running import Inputs, inputs_of, undisturbed

Measure = Literal["macs", "bytes_moved", "activation_bytes"]

Sizes = tuple[int, ...]
"""The spatial sizes of an input: height and width of an image, the number of tokens."""


@dataclass(frozen=True)
class Fit:
    """A power law: cost ~ N^exponent.

    Attributes:
        exponent: by least squares between the logarithms of both.
        error: how far the worst size lies from the law, as a share of what the law says. It is large where a cost is
            a sum of terms that grow differently, and the exponent then belongs to these sizes alone.
    """

    exponent: float
    error: float

    def __str__(self) -> str:
        exponent = f"N^{round(self.exponent, 2) + 0.0:.2f}"  # + 0.0: not -0.00
        return exponent if self.error < 0.01 else f"{exponent} ±{self.error:.0%}"


@dataclass(frozen=True)
class Growth:
    """What one forward needs at several input sizes. The growth of one model less another's is that of the difference.

    Attributes:
        counts: what was counted at each size, by rising number of positions.
        refused: the sizes at which the model does not run, each with its reason.
    """

    counts: Mapping[Sizes, Counts]
    refused: Mapping[Sizes, str] = field(default_factory=dict)

    def fit(self, measure: Measure) -> Fit | None:
        """The power of the number of positions N with which a cost grows.

        None where there is no such power: fewer than two sizes ran, or the cost is not above zero at all of them.
        """
        values = [getattr(counts, measure) for counts in self.counts.values()]
        if len(values) < 2 or min(values) <= 0:
            return None
        positions = [math.log(math.prod(sizes)) for sizes in self.counts]
        costs = [math.log(value) for value in values]
        slope, intercept = statistics.linear_regression(positions, costs)
        errors = [abs(math.expm1(y - intercept - slope * x)) for x, y in zip(positions, costs, strict=True)]
        return Fit(slope, max(errors))

    def __sub__(self, other: "Growth") -> "Growth":
        common = [sizes for sizes in self.counts if sizes in other.counts]
        counts = {sizes: self.counts[sizes] - other.counts[sizes] for sizes in common}
        return Growth(counts, {**other.refused, **self.refused})


# `Any`: a model takes what it takes.
def growth(
    model: nn.Module | Callable[[Sizes], nn.Module],
    *example: Any,
    factors: Sequence[int | float] = (0.5, 1.0, 1.5, 2.0),
) -> Growth:
    """Count what a model or mechanism needs at several sizes of its input.

        growth(model, (1, 3, 224, 224)).fit("macs")
        growth(attended, images) - growth(model, images)  # of the inserted attention alone

    An image or map `(batch, channels, *spatial)` is made larger and smaller along its spatial axes. Of a mechanism that
    takes tokens their number is, and of a `Read` the number of memory tokens.

    Args:
        model: any module; or, where a model is built for one size, a function from the spatial sizes to the model.
        example: as of `cost`, at the middle of the range.
        factors: by which its sides are multiplied.

    Raises:
        UserError: the example has no axis that could grow, the factors are not two or more positive numbers, or the
            model runs at none of the sizes.
    """
    if len({*factors}) < 2 or not all(0 < factor < math.inf for factor in factors):
        raise UserError(f"factors are {tuple(factors)}: give at least two different positive numbers")
    if not isinstance(model, nn.Module) and not example:
        raise UserError("a function that builds the model needs an example: give one")
    known = model if isinstance(model, nn.Module) else nn.Identity()
    inputs = Inputs(example) if len(example) > 1 else inputs_of(known, example[0] if example else None)
    counts: dict[Sizes, Counts] = {}
    refused: dict[Sizes, str] = {}
    for factor in sorted({*factors}):
        resized, sizes = _resized(known, inputs, factor)
        if sizes in counts or sizes in refused:
            continue
        try:
            built = model if isinstance(model, nn.Module) else model(sizes)
            with undisturbed(built):
                counts[sizes] = count(built, resized)
        except Exception as error:  # whatever a model says when a size does not suit it
            refused[sizes] = in_one_line(error)
    if not counts:
        sizes, reason = next(iter(refused.items()))
        raise UserError(f"the model runs at none of the sizes; at {'×'.join(map(str, sizes))} it says: {reason}")
    return Growth(counts, refused)


def _resized(model: nn.Module, inputs: Inputs, factor: int | float) -> tuple[Inputs, Sizes]:
    """The inputs with each spatial axis as many times as long, and the sizes of the first that has any."""
    seen: list[Sizes] = []

    def resize(axes_of: Callable[[Tensor], Sequence[int]]) -> Callable[[Tensor], Tensor]:
        def resized(tensor: Tensor) -> Tensor:
            axes = axes_of(tensor)
            for axis in axes:
                old = tensor.shape[axis]
                new = max(1, round(old * factor))
                tensor = tensor.index_select(axis, torch.arange(new, device=tensor.device) * old // new)
            if axes:
                seen.append(tuple(tensor.shape[axis] for axis in axes))
            return tensor

        return resized

    names = list(signature(model.forward).parameters)
    positional = [
        tree_map_only(Tensor, resize(_axes(model, names[min(place, len(names) - 1)])), value)
        for place, value in enumerate(inputs.positional)
    ]
    named = {name: tree_map_only(Tensor, resize(_axes(model, name)), value) for name, value in inputs.named.items()}
    if not seen:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors()) or "none"
        raise UserError(
            f"growth needs an input of shape (batch, channels, *spatial) with at least two spatial axes; the example "
            f"has tensors of shape {shapes}"
        )
    return Inputs(tuple(positional), named), seen[0]


def _axes(model: nn.Module, name: str) -> Callable[[Tensor], Sequence[int]]:
    """Which axes of a tensor hold positions, by the argument of `forward` that it is given as."""
    if isinstance(model, Read):
        # A mask is over the memory alone, or over queries and memory.
        return lambda tensor: {"memory": (1,), "mask": (tensor.ndim - 1,)}.get(name, ())
    if isinstance(model, Refine) and model.layout == "tokens":
        return lambda tensor: {"x": (1,), "mask": tuple(range(1, tensor.ndim))}.get(name, ())
    if isinstance(model, Refine):
        return lambda tensor: range(2, tensor.ndim)
    return lambda tensor: range(2, tensor.ndim) if tensor.ndim > 3 else ()
