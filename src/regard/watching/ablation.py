"""Ablation of a model's attention: is what a trained model says different without the weights that it computes?

Three ablations, in the words of the field:

    removed     inserted attention passes its input through; a read takes the mean of its valid tokens (uniform weights)
    mean        every map of weights is replaced by its mean over the data: what depends on the input is gone
    resampled   every map is replaced by that of another, randomly drawn item (resample ablation)

`ablations` runs all of them over a data set. The parts it is made of, `recorded`, `removed` and `substituted`, are for
whoever needs another one. A model gives exactly what it gave before once they are left.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from regard.attention import Attention, Refine, offering
from regard.attention.offering import SPATIAL_NAMES, MapFact, Offer, Request
from regard.errors import UserError
from regard.placing.placed import Placed, inserted, switched_off
from regard.running import tensors, undisturbed

Kind = Literal["removed", "mean", "resampled"]

KINDS: tuple[Kind, ...] = ("removed", "mean", "resampled")

Batch = TypeVar("Batch")


class Key(NamedTuple):
    """One map of one forward pass: the path of the mechanism, the label of the map, and which call it was."""

    path: str
    label: str
    call: int


@dataclass(frozen=True)
class Recorded:
    """The weights of one map in one forward pass.

    Attributes:
        values: the weights.
        fact: what the mechanism declares of them.
        valid: True where an entry takes part, of a shape that broadcasts to that of the values; None: all of them.
        grid: the grid over which the keys lie, if it is known.
        per_query: whether the mechanism reads, so that each query may be an item of its own.
    """

    values: Tensor
    fact: MapFact
    valid: Tensor | None
    grid: tuple[int, ...] | None
    per_query: bool

    @property
    def axes(self) -> tuple[str, ...]:
        """The name of each axis of the values."""
        return self.fact.named(self.values.ndim)


Recording = Mapping[Key, Recorded]

Substitute = Callable[[Key, Recorded], Tensor | str]
"""The weights to use instead of a map's, in its shape, or why the map stays as it is."""

NO_ITEMS = "its first axis is not that of the batch"


@dataclass(frozen=True)
class Ablations:
    """What a model predicts as it is and with its attention ablated, item by item in the order of the batches.

    Attributes:
        full: the predictions of the whole model.
        removed, mean, resampled: those of each ablation; None where it is not possible.
        left: what could not be ablated, by ablation: maps that stay as they are, each with the reason.
    """

    full: Tensor
    removed: Tensor | None = None
    mean: Tensor | None = None
    resampled: Tensor | None = None
    left: Mapping[Kind, Sequence[str]] = field(default_factory=dict)

    def changed(self, kind: Kind) -> float | None:
        """The share of predictions that differ from the full model's; None where the ablation is not possible."""
        other: Tensor | None = getattr(self, kind)
        if other is None:
            return None
        differs = other != self.full
        return float(differs.reshape(len(differs), -1).any(1).double().mean())


def attends(model: nn.Module) -> bool:
    """Return whether a model holds a mechanism of regard, inserted or its own."""
    return any(isinstance(module, (Attention, Placed)) for module in model.modules())


def ablations(
    model: nn.Module,
    batches: Iterable[Batch],
    predict: Callable[[Batch], Tensor],
    *,
    kinds: Sequence[Kind] = KINDS,
    items: Callable[[Batch], Tensor] | None = None,
    seed: int = 0,
) -> Ablations:
    """Run a model over a data set as it is and with its attention ablated, in evaluation mode.

        answers = ablations(model, loader, lambda batch: model(batch[0]).argmax(1))
        print(answers.changed("removed"))

    Give the data in random order: the weights of another item are those of one in the same batch. Masks that are
    arguments of a mechanism are kept, whosever weights it is given.

    Args:
        model: holds mechanisms of regard, inserted or its own.
        batches: the data; gone through twice if `"mean"` is wanted, so that a list or a data loader is needed.
        predict: from a batch to predictions, an item a row. It calls `model` on the whole batch at once.
        kinds: which ablations; default all three.
        items: from a batch to a number for each item, `(rows)` or, of several queries (questions) a row,
            `(rows, queries)`; items with the same number share their input and are never given each other's weights,
            and -1 is padding. Default: each row is an item of its own.
        seed: of the draw of other items.

    Raises:
        UserError: there is no batch, `batches` can be gone through only once, or inserted attention is no longer run
            since its module was replaced.
    """
    generator = torch.Generator().manual_seed(seed)
    means = Means()
    found: dict[str, list[Tensor]] = {kind: [] for kind in ("full", *kinds)}
    left: dict[Kind, set[str]] = {kind: set() for kind in kinds}
    possible = dict.fromkeys(kinds, False)
    alone = heard = False
    has_inserted = any(not placed.takes_over for placed in inserted(model).values())

    def run(batch: Batch, kind: Kind, choose: Substitute, switch: bool = False) -> None:
        with substituted(model, choose) as report, switched_off(model) if switch else nullcontext():
            found[kind].append(predict(batch).detach().cpu())
        left[kind] |= set(report.left)
        possible[kind] |= bool(report.replaced) or (switch and has_inserted)

    with undisturbed(model):
        for batch in batches:
            with recorded(model) as maps:
                found["full"].append(predict(batch).detach().cpu())
            layout = Layout.of(_rows(batch) if items is None else items(batch))
            heard |= bool(maps)
            if "mean" in kinds:
                means.add(maps, layout)
            if "removed" in kinds:
                run(batch, "removed", uniform, switch=True)
            if "resampled" in kinds:
                source = layout.others(generator)
                alone |= source is None
                if source is not None:
                    run(batch, "resampled", _resampler(maps, layout, source))
        if not found["full"]:
            raise UserError("there is no batch to ablate attention on: give at least one")
        if "mean" in kinds and heard:
            for batch in batches:
                layout = Layout.of(_rows(batch) if items is None else items(batch))
                run(batch, "mean", means.substitute(layout))
            if sum(map(len, found["mean"])) != sum(map(len, found["full"])):
                raise UserError("the batches can be gone through once, and are needed twice: give a list or a loader")
    if alone:
        possible["resampled"] = False
        left["resampled"] = {"a batch holds a single item, so that there is no other one whose weights it could get"}
    predictions = {kind: torch.cat(found[kind]) for kind in ("full", *(kind for kind in kinds if possible[kind]))}
    return Ablations(**predictions, left={kind: sorted(lines) for kind, lines in left.items() if lines})


@contextmanager
def recorded(model: nn.Module) -> Iterator[Recording]:
    """Keep all maps that a model computes in one forward pass inside the block; what it gives is unchanged."""
    paths, queries = _mechanisms(model)
    calls: dict[tuple[str, str], int] = {}
    maps: dict[Key, Recorded] = {}

    def hear(offer: Offer) -> None:
        if id(offer.module) in paths:
            key = _key(offer, paths, calls)
            maps[key] = _of(offer, queries)

    with _masks_known(model), offering.listen(hear):
        yield maps


class Substituted:
    """What happened while maps were replaced: the paths and labels of those that were, and of those that stayed."""

    def __init__(self) -> None:
        self.replaced: set[str] = set()
        self.left: set[str] = set()


@contextmanager
def substituted(model: nn.Module, choose: Substitute) -> Iterator[Substituted]:
    """Give the mechanisms of a model other weights in one forward pass inside the block.

    A backward pass through modules under gradient checkpointing runs them again, and must be inside the block, too.

    What `choose` gives is brought to the form of the map: entries that do not take part are zero, and where the weights
    sum to one they do so again over those that do.

    Args:
        model: holds mechanisms of regard.
        choose: the weights instead of each map. Maps that cannot be replaced (`MapFact.fixed`) are not asked for.
    """
    paths, queries = _mechanisms(model)
    calls: dict[tuple[str, str], int] = {}
    report = Substituted()

    def replace(offer: Offer) -> Tensor | None:
        if id(offer.module) not in paths or offer.fact.fixed:
            return None
        key = _key(offer, paths, calls)
        name = f"{key.path} {key.label}".strip()
        own = _of(offer, queries)
        values = choose(key, own)
        if isinstance(values, str):
            report.left.add(f"{name}: {values}")
            return None
        report.replaced.add(name)
        return in_form(values.to(own.values.dtype), own)

    def name_fixed(offer: Offer) -> None:
        if id(offer.module) in paths and offer.fact.fixed:
            name = f"{paths[id(offer.module)]} {offer.fact.label}".strip()
            report.left.add(f"{name}: {offer.fact.fixed}")

    with _masks_known(model), offering.replacing(replace), offering.listen(name_fixed):
        yield report


@contextmanager
def removed(model: nn.Module) -> Iterator[Substituted]:
    """Remove a model's attention inside the block: what was inserted passes its input through, reads are uniform.

    Weights that sum to one become uniform over what takes part. Gates that are part of the model itself stay, since
    a model has no neutral value for them.
    """
    with substituted(model, uniform) as report, switched_off(model):
        yield report


@dataclass(frozen=True)
class Layout:
    """How the items of a batch lie in its rows.

    Attributes:
        rows: how many rows the batch has.
        queries: how many items stand in a row, in the axis `query` of a mechanism that reads; 1 for one item a row.
        groups: the number of each item, row by row; -1 for padding.
    """

    rows: int
    queries: int
    groups: Int[Tensor, " items"]

    @classmethod
    def of(cls, groups: Tensor) -> "Layout":
        """From the number of each item, `(rows)` or `(rows, queries)`."""
        return cls(groups.shape[0], groups.shape[1] if groups.ndim == 2 else 1, groups.flatten().cpu())

    def items_of(self, one: Recorded) -> Literal["row", "item", "query", "asked"] | None:
        """What a map has one of: a set of weights a row, an item, an item in its axis `query`, an item asked.

        None for a map whose batch axis is none of these.
        """
        batch = one.values.shape[0] if one.axes[:1] == ("batch",) else 0
        if batch == self.rows:
            summed = one.fact.normalized(one.values.ndim)
            reads = one.per_query and self.queries > 1 and "query" in one.axes and "query" not in summed
            return "query" if reads and one.values.shape[one.axes.index("query")] == self.queries else "row"
        if batch == self.rows * self.queries:
            return "item"
        return "asked" if batch == int((self.groups >= 0).sum()) else None

    def others(self, generator: torch.Generator) -> Int[Tensor, " items"] | None:
        """For each item a randomly drawn one of another group, and for padding itself; None where there is none."""
        there = self.groups >= 0
        different = (self.groups[:, None] != self.groups) & there  # (items, items)
        if not bool(different[there].any(1).all()):
            return None
        chance = torch.where(different, 1.0, 0.0)
        chance[~there] = torch.eye(len(self.groups))[~there]
        return torch.multinomial(chance, 1, generator=generator)[:, 0]

    def split(self, one: Recorded, values: Tensor) -> Tensor:
        """The values item by item (or row by row) along the first axis, without padding."""
        kind = self.items_of(one)
        if kind == "query":
            at = one.axes.index("query")
            values = values.movedim(at, 1).flatten(0, 1)
        if kind in ("query", "item"):
            values = values[(self.groups >= 0).to(values.device)]
        return values

    def taken(self, one: Recorded, source: Int[Tensor, " items"]) -> Tensor | None:
        """The values of a map as those of other items, `source`; None if it has no items."""
        kind, values = self.items_of(one), one.values
        if kind is None:
            return None
        if kind == "row":
            # A row is given the weights of the row of its first item's source.
            there = (self.groups >= 0).view(self.rows, -1)
            first = torch.arange(self.rows) * self.queries + there.int().argmax(1)
            return values[(source[first] // self.queries).to(values.device)]
        if kind == "item":
            return values[source.to(values.device)]
        if kind == "asked":
            there = self.groups >= 0
            number = there.long().cumsum(0) - 1
            return values[number[source[there]].to(values.device)]
        at = one.axes.index("query")
        flat = values.movedim(at, 1).flatten(0, 1)
        return flat[source.to(values.device)].unflatten(0, (self.rows, self.queries)).movedim(1, at)


def uniform(key: Key, one: Recorded) -> Tensor | str:
    """Uniform weights over what takes part in a map whose weights sum to one."""
    over = [one.axes.index(name) for name in one.fact.normalized(one.values.ndim)]
    if not over:
        return "its weights do not sum to one, so that there are no uniform ones"
    ones = torch.ones_like(one.values) if one.valid is None else one.valid.expand_as(one.values).to(one.values)
    return ones / ones.sum(over, keepdim=True).clamp(min=1)


class Means:
    """The mean of each map over a data set.

    Maps of one place that differ in size between batches, because questions are padded to the longest one, are aligned
    at their first entries, and each entry is the mean over the items that have it. Those over another grid have means
    of their own.
    """

    def __init__(self) -> None:
        self.maps: dict[object, tuple[Tensor, Tensor]] = {}
        """The sum of each map over the items, and how many items each entry is of."""

    def add(self, maps: Recording, layout: Layout) -> None:
        """Add the maps of one batch."""
        for key, one in maps.items():
            if layout.items_of(one) is None or one.fact.fixed:
                continue
            values = layout.split(one, one.values)
            exact = torch.float32 if values.device.type == "mps" else torch.float64
            there = torch.ones_like(one.values, dtype=torch.bool) if one.valid is None else one.valid
            there = layout.split(one, there.expand_as(one.values))
            new = torch.where(there, values, 0.0).sum(0, dtype=exact), there.sum(0).to(exact)
            place = _place(key, one)
            old = self.maps.get(place)
            self.maps[place] = new if old is None else (_sum(old[0], new[0]), _sum(old[1], new[1]))

    def substitute(self, layout: Layout) -> Substitute:
        """The mean in place of each map of a batch."""

        def mean(key: Key, one: Recorded) -> Tensor | str:
            kind, known = layout.items_of(one), self.maps.get(_place(key, one))
            if kind is None:
                return NO_ITEMS
            if known is None:
                return "it was computed otherwise than in the full model"
            total, count = known
            mean = (total / count.clamp(min=1)).to(one.values)  # without the axes of items
            axes = [axis for axis in range(1, one.values.ndim) if kind != "query" or one.axes[axis] != "query"]
            mean = mean[tuple(slice(one.values.shape[axis]) for axis in axes)][None]
            if kind == "query":
                mean = mean.unsqueeze(one.axes.index("query"))
            if over := [one.axes.index(name) for name in one.fact.normalized(one.values.ndim)]:
                sums = mean.sum(over, keepdim=True)  # not one where entries are means over differing items
                mean = torch.where(sums > 0, mean / sums.clamp(min=torch.finfo(mean.dtype).tiny), mean)
            return mean.expand_as(one.values)

        return mean


def in_form(values: Tensor, own: Recorded) -> Tensor:
    """Weights in the form of a map: zero where it has nothing, and summing to one where it does.

    Args:
        values: other weights, of its shape.
        own: the map.
    """
    if own.valid is None:
        return values
    valid = own.valid.expand_as(values)
    values = values.masked_fill(~valid, 0.0)
    over = [own.axes.index(name) for name in own.fact.normalized(values.ndim)]
    if not over:
        return values
    total = values.sum(over, keepdim=True)
    uniform = valid.to(values.dtype)
    uniform = uniform / uniform.sum(over, keepdim=True).clamp(min=1)
    return torch.where(total > 0, values / total.clamp(min=torch.finfo(values.dtype).tiny), uniform)


def strengths(model: nn.Module) -> dict[str, Tensor]:
    """Return the factor of what each inserted attention changes, a number or one a channel, by its path.

    Attention that starts as its paper has it has none.

    Raises:
        UserError: inserted attention is no longer run, since its module was replaced.
    """
    values = {path: placed.strength for path, placed in inserted(model).items()}
    return {path: value.detach().float().cpu().flatten() for path, value in values.items() if value is not None}


def _resampler(maps: Recording, layout: Layout, source: Int[Tensor, " items"]) -> Substitute:
    """The weights of other items, as they were when nothing was replaced."""

    def other(key: Key, one: Recorded) -> Tensor | str:
        known = maps.get(key)
        if known is None or known.values.shape != one.values.shape:
            return "it was computed otherwise than in the full model"
        taken = layout.taken(known, source)
        return NO_ITEMS if taken is None else taken

    return other


_arguments: ContextVar[dict[int, list[Tensor]] | None] = ContextVar("arguments", default=None)
"""The boolean tensors among the arguments of each running mechanism, by its identity, while somebody needs them."""


@contextmanager
def _masks_known(model: nn.Module) -> Iterator[None]:
    """Keep the masks that mechanisms are called with inside the block, in this context."""

    # `Any`: the signature of torch's hooks.
    def keep(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        known = _arguments.get()
        if known is not None:
            masks = [one for one in (*given, *named.values()) if isinstance(one, Tensor) and one.dtype == torch.bool]
            known[id(module)] = masks

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, Attention):
                stack.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        token = _arguments.set({})
        stack.callback(_arguments.reset, token)
        yield


def _valid(module: nn.Module, fact: MapFact, values: Tensor) -> Bool[Tensor, "..."] | None:
    """Which entries of a map take part by the masks that its mechanism was called with; None: all."""
    axes, over = fact.named(values.ndim), fact.normalized(values.ndim)
    valid: Tensor | None = None
    for name in over:
        axis = axes.index(name)
        masks = [one for one in (_arguments.get() or {}).get(id(module), ()) if _masks(one, values, axes, axis)]
        if not masks:
            continue
        # Of queries that read each other and then a memory, the first mask is theirs and the last one the memory's.
        mask = masks[-1] if name == "key" else masks[0]
        shape = [1] * values.ndim
        shape[0], shape[axis] = values.shape[0], values.shape[axis]
        if mask.ndim == 3 and "query" in axes:
            shape[axes.index("query")] = mask.shape[1]
        one = mask.to(values.device).reshape(shape)
        valid = one if valid is None else valid & one
    return valid


def _masks(mask: Tensor, values: Tensor, axes: Sequence[str], axis: int) -> bool:
    """Whether a mask is one of that axis."""
    if mask.ndim not in (2, 3) or mask.shape[0] != values.shape[0] or mask.shape[-1] != values.shape[axis]:
        return False
    if mask.ndim == 2 or mask.shape[1] == 1:
        return True
    return "query" in axes and axes.index("query") < axis and mask.shape[1] == values.shape[axes.index("query")]


def _mechanisms(model: nn.Module) -> tuple[dict[int, str], set[int]]:
    """The path of each mechanism by its identity, and which of them read: their queries may be items."""
    found = {path: module for path, module in model.named_modules() if isinstance(module, Attention)}
    reads = {id(module) for module in found.values() if not isinstance(module, Refine)}
    return {id(module): path for path, module in found.items()}, reads


def _key(offer: Offer, paths: Mapping[int, str], calls: dict[tuple[str, str], int]) -> Key:
    name = paths[id(offer.module)], offer.fact.label
    calls[name] = calls.get(name, -1) + 1
    return Key(*name, calls[name])


def _of(offer: Offer, queries: set[int]) -> Recorded:
    weights = offer.weights
    values = weights if isinstance(weights, Tensor) else weights(Request())
    valid = _valid(offer.module, offer.fact, values)
    return Recorded(values.detach(), offer.fact, valid, offer.grid, id(offer.module) in queries)


def _place(key: Key, one: Recorded) -> object:
    """What maps have in common that have one mean: the place, and the grid."""
    spatial = {name for names in SPATIAL_NAMES.values() for name in names}
    sizes = tuple(size for name, size in zip(one.axes, one.values.shape, strict=True) if name in spatial)
    return key, one.grid, sizes


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two tensors aligned at their first entries, of the larger size in every axis."""
    size = [max(sizes) for sizes in zip(one.shape, other.shape, strict=True)]
    total = one.new_zeros(size)
    for part in (one, other):
        total[tuple(map(slice, part.shape))] += part
    return total


def _rows(batch: object) -> Tensor:
    """A number for each row of a batch: of its first tensor."""
    first = next(tensors(batch), None)
    if first is None:
        raise UserError("a batch without a tensor: say with items= what its items are")
    return torch.arange(first.shape[0])
