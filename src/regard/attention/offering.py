"""How a mechanism shows its weights without keeping them.

A mechanism *offers* what it computed; whoever listens at that moment receives it. With no listener an
offer is one test of an empty list: nothing is computed, nothing is stored, and a compiled graph holds no trace of
it. While somebody listens, compiled models run eagerly, since a graph cannot call a listener. The list of listeners
belongs to the process (`torch.compile` can guard on a list, not on a context variable), so two threads that watch at
once both see both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

SPATIAL = "*spatial"
"""Stands in a declared map for the input's spatial axes, whatever their number."""

SPATIAL_NAMES: dict[int, tuple[str, ...]] = {
    1: ("length",),
    2: ("height", "width"),
    3: ("depth", "height", "width"),
}


@dataclass(frozen=True)
class MapFact:
    """One map that a mechanism declares to offer.

    Args:
        label: what this map is called within its mechanism (`"channel"`, `"attention"`).
        axes: the names of its axes in order; `SPATIAL` stands for all spatial axes of the input.
        sums_to_one: the axes over which the weights sum to one (a softmax), or none for a gate. A row that its mask
            leaves without anything to attend to sums to zero instead.
    """

    label: str
    axes: tuple[str, ...]
    sums_to_one: tuple[str, ...] = ()

    def named(self, rank: int) -> tuple[str, ...]:
        """The axes of a map of this rank, with `SPATIAL` written out."""
        if SPATIAL not in self.axes:
            return self.axes
        at = self.axes.index(SPATIAL)
        return (*self.axes[:at], *SPATIAL_NAMES[rank - len(self.axes) + 1], *self.axes[at + 1 :])

    def normalized(self, rank: int) -> tuple[str, ...]:
        """The axes that sum to one together in a map of this rank, with `SPATIAL` written out."""
        if SPATIAL not in self.sums_to_one:
            return self.sums_to_one
        spatial = SPATIAL_NAMES[rank - len(self.axes) + 1]
        return tuple(name for axis in self.sums_to_one for name in (spatial if axis == SPATIAL else (axis,)))


@dataclass(frozen=True)
class Request:
    """Which part of a map a listener wants; `None` means all. Mechanisms with fused kernels compute only that part.

    Args:
        heads: indices along the `heads` axis.
        queries: indices along the `query` axis.
    """

    heads: tuple[int, ...] | None = None
    queries: tuple[int, ...] | None = None

    def pick(self, values: Tensor, heads: int | None = None, queries: int | None = None) -> Tensor:
        """Those heads and query rows of `values`; `heads` and `queries` say which dimensions they are."""
        for dimension, wanted in ((heads, self.heads), (queries, self.queries)):
            if dimension is not None and wanted is not None:
                values = values.index_select(dimension, torch.tensor(wanted, device=values.device))
        return values


Weights = Tensor | Callable[[Request], Tensor]
"""A map that is there anyway, or a function that computes the part that is asked for (behind a fused kernel)."""


@dataclass(frozen=True)
class Offer:
    """What a listener receives: who offers which declared map, and over which grid its keys lie if that is known."""

    module: nn.Module
    fact: MapFact
    weights: Weights
    grid: tuple[int, ...] | None = None


@dataclass
class Choices:
    """The sampled choices made while `recording_choices` was open, for a score-function loss.

    Attributes:
        log_probabilities: one `(batch, query)` tensor a sampled read, of the places it chose.
        entropies: the entropies, in nats, of the distributions they were drawn from, `(batch, query)`.
    """

    log_probabilities: list[Tensor] = field(default_factory=list)
    entropies: list[Tensor] = field(default_factory=list)


_listeners: list[Callable[[Offer], None]] = []
_recorders: list[Choices] = []
_grids: list[tuple[int, ...]] = []


def listening() -> bool:
    """Whether anybody watches."""
    return len(_listeners) > 0


def announce(module: nn.Module, fact: MapFact, weights: Weights) -> None:
    """Hand a map to every listener."""
    offer = Offer(module, fact, weights, _grids[-1] if _grids else None)
    for listener in _listeners:
        listener(offer)


@contextmanager
def listen(listener: Callable[[Offer], None]) -> Iterator[None]:
    """Call `listener` with every map that any mechanism offers inside the block."""
    with torch.compiler.set_stance("force_eager"):
        _listeners.append(listener)
        try:
            yield
        finally:
            _listeners.remove(listener)


@contextmanager
def over_grid(grid: tuple[int, ...]) -> Iterator[None]:
    """Say that the tokens read inside the block are the cells of this grid, row by row."""
    _grids.append(grid)
    try:
        yield
    finally:
        _grids.pop()


@contextmanager
def recording_choices() -> Iterator[Choices]:
    """Collect what sampled reads choose inside the block."""
    choices = Choices()
    _recorders.append(choices)
    try:
        yield choices
    finally:
        _recorders.remove(choices)


def recording() -> bool:
    """Whether anybody records the choices of sampled reads."""
    return len(_recorders) > 0


def record_choice(log_probability: Tensor, entropy: Tensor) -> None:
    """Hand the log-probability of a sampled choice, and its distribution's entropy, to whoever records."""
    for recorder in _recorders:
        recorder.log_probabilities.append(log_probability)
        recorder.entropies.append(entropy)
