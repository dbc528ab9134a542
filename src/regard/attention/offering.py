"""How a mechanism shows its weights without keeping them, and how somebody else's weights are put in their place.

A mechanism *offers* what it computed; whoever listens at that moment receives it. With no listener an offer is one test
of an empty list: nothing is computed, nothing is stored, and a compiled graph holds no trace of it. While somebody
listens, compiled models run eagerly, since a graph cannot call a listener.

Listeners, replacements, grids and recorders belong to the context (`contextvars`) that opened them, so that threads
which share a model do not hear each other. `torch.compile` can guard on a list and not on a context variable: `_open`,
one list of the process, says whether anybody listens anywhere, and only then is the context asked.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
        fixed: why the map cannot be replaced by other weights (`replacing`), whose functions are then not asked about
            it; empty where it can, which is the default.
    """

    label: str
    axes: tuple[str, ...]
    sums_to_one: tuple[str, ...] = ()
    fixed: str = ""

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


Listener = Callable[[Offer], None]

Replace = Callable[[Offer], Tensor | None]
"""The weights to use instead of those that are offered, in the shape of the whole map, or None to leave them."""

Item = TypeVar("Item")

_open: list[object] = []
_lock = threading.Lock()
_eager: list[AbstractContextManager[Any]] = []
_eager_blocks: list[object] = []
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_replacements: ContextVar[tuple[Replace, ...]] = ContextVar("replacements", default=())
_grids: ContextVar[tuple[tuple[int, ...], ...]] = ContextVar("grids", default=())
_recording: list[object] = []
_recorders: ContextVar[tuple[Choices, ...]] = ContextVar("recorders", default=())


def listening() -> bool:
    """Return whether somebody listens to the maps of this context, or replaces them."""
    # Not a guard of a compiled graph: it would change while another thread opens a watch.
    if torch.compiler.is_dynamo_compiling():
        return False
    return len(_open) > 0 and len(_listeners.get()) + len(_replacements.get()) > 0


def announce(module: nn.Module, fact: MapFact, weights: Weights) -> Tensor | None:
    """Hand a map to everybody who replaces it, unless it is fixed, and then to every listener.

    Returns:
        The weights that take the place of those offered, None if nobody replaces them.
    """
    grids = _grids.get()
    offer = Offer(module, fact, weights, grids[-1] if grids else None)
    replaced: Tensor | None = None
    for replace in () if fact.fixed else _replacements.get():
        other = replace(offer)
        if other is not None:
            replaced = other
            offer = Offer(module, fact, other, offer.grid)
    if not _run_again():
        for listener in _listeners.get():
            listener(offer)
    return replaced


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call `listener` with every map that any mechanism offers inside the block, in this context."""
    with _opened(), _added(_listeners, listener):
        yield


@contextmanager
def replacing(replace: Replace) -> Iterator[None]:
    """Let `replace` say which weights are used instead of those that any mechanism offers inside the block.

    Of several blocks the innermost is asked last, and is given what those around it put in place.

    Where a mechanism runs under gradient checkpointing, the backward pass runs it again and must be inside the block,
    too: outside of it, gradients would come from the mechanism's own weights. `replace` is then asked again.
    """
    with _opened(), _added(_replacements, replace):
        yield


@contextmanager
def over_grid(grid: tuple[int, ...]) -> Iterator[None]:
    """Say that the tokens read inside the block are the cells of this grid, row by row."""
    with _added(_grids, grid):
        yield


@contextmanager
def recording_choices() -> Iterator[Choices]:
    """Collect what sampled reads choose inside the block, in this context."""
    choices = Choices()
    with _lock:
        _recording.append(choices)
    try:
        with _added(_recorders, choices):
            yield choices
    finally:
        with _lock:
            _recording[:] = [other for other in _recording if other is not choices]


@contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled models as plain Python inside, in all threads, until the last open block of any thread ends."""
    mark = object()
    with _lock:
        _eager_blocks.append(mark)
        if len(_eager_blocks) == 1:
            _eager.append(torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            _eager_blocks.remove(mark)
            if not _eager_blocks:
                _eager.pop().__exit__(None, None, None)


def recording() -> bool:
    """Return whether somebody records the choices of sampled reads in this context."""
    # Compiled graphs record, unlike those of `listening`: a block in another thread costs one more graph, no choice.
    return len(_recording) > 0 and len(_recorders.get()) > 0


def record_choice(log_probability: Tensor, entropy: Tensor) -> None:
    """Hand the log-probability of a sampled choice, and its distribution's entropy, to whoever records."""
    if _run_again():
        return
    for recorder in _recorders.get():
        recorder.log_probabilities.append(log_probability)
        recorder.entropies.append(entropy)


def _run_again() -> bool:
    """Return whether this is a backward pass, in which gradient checkpointing runs a module for the second time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextmanager
def _added(variable: ContextVar[tuple[Item, ...]], item: Item) -> Iterator[None]:
    """Add one item to a context's tuple inside the block."""
    variable.set((*variable.get(), item))
    try:
        yield
    finally:
        # The last one of its kind, wherever it stands: blocks may be closed in another order than they were opened in.
        items = variable.get()
        at = next((index for index in reversed(range(len(items))) if items[index] is item), None)
        if at is not None:
            variable.set(items[:at] + items[at + 1 :])


@contextmanager
def _opened() -> Iterator[None]:
    """Run compiled models eagerly while at least one block is open in any thread, and never longer."""
    mark = object()
    with eagerly():
        with _lock:
            _open.append(mark)
        try:
            yield
        finally:
            with _lock:
                _open.remove(mark)
