"""One run of a model, told as calls of its modules, with which axis of each tensor holds the channels.

Names of modules say little and differ from model to model; what a forward does with its tensors is the same
everywhere. While the model runs once, every module call is noted, and every tensor carries a `Mark`: where its channels
are, how many layers lie between it and the input, and which tensors it came from. A residual addition is then the
addition of two tensors that come from the input through different numbers of layers; the deeper one is the branch.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from regard.attention.offering import eagerly
from regard.errors import UserError
from regard.running import Inputs, uncompiled, undisturbed

_QUERIES = frozenset(
    {"dim", "ndimension", "size", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "__len__"}
)
"""What is asked of a tensor without reading its values: `nn.BatchNorm2d` asks for the number of axes."""

_CHANNELS_SECOND = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("batch_norm", "group_norm", "instance_norm"),
}
_CHANNELS_LAST = {"linear", "layer_norm", "rms_norm", "embedding", "multi_head_attention_forward"}
_MOVES_AXES = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}
_MIXES_AXES = {"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
_ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_JOINS = {"cat", "concat", "concatenate"}
_RAISES = {
    *("interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "pixel_shuffle", "grid_sample"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "repeat_interleave", "max_unpool2d"),
}

Key = tuple[int | str, ...]
"""Where a tensor stands in the arguments of a call, `(0,)`, `("skip",)`, `(0, 2)`, or in what it gives, `()`."""


@dataclass(eq=False)
class Mark:
    """What is known of one tensor.

    Attributes:
        shape, dtype, device: of the tensor.
        channel: the axis that holds the channels, None where that cannot be told.
        depth: the layers (convolutions, linear layers, normalisations) between the input and it, None if it does not
            come from the input.
        sources: the marks of the tensors that it was computed from.
        raised: the result of the last operation on the way that raised its resolution, as a decoder does.
        grid: the sizes of the map that it was, spatial axes only, None if it never was one.
        uses: how many operations took it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    channel: int | None = None
    depth: int | None = None
    sources: tuple["Mark", ...] = ()
    raised: "Mark | None" = None
    grid: tuple[int, ...] | None = None
    uses: int = 0

    def origins(self, among: Iterable["Mark"]) -> set[int]:
        """Which of these tensors it was computed from at the last, by `id`: the search ends at each of them."""
        ends = {id(mark) for mark in among}
        seen: set[int] = set()
        found: set[int] = set()
        waiting: list[Mark] = [self]
        while waiting:
            mark = waiting.pop()
            if id(mark) in ends:
                found.add(id(mark))
            elif id(mark) not in seen:
                seen.add(id(mark))
                waiting.extend(mark.sources)
        return found


@dataclass(eq=False)
class Join:
    """A skip connection: where what was raised in resolution meets a shallower tensor, by addition or concatenation.

    Attributes:
        call: in whose own forward they meet.
        skip: the shallower tensor.
        coarse: the raised one.
        result: what comes of it.
        spans: in a concatenation the channels of the result that are the skip, and those that are the raised tensor.
    """

    call: "Call"
    skip: Mark
    coarse: Mark
    result: Mark
    spans: tuple[tuple[int, int], tuple[int, int]] | None


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        path: the module's path.
        began, ended: when, counted in events.
        parent: the call inside which it happened.
        arguments: the tensors among its arguments, and where each stands.
        outputs: the tensors that it returned, and where each stands.
        uses: how many operations had taken its output when it ended.
        branches: the deeper operand of each residual addition that its own forward makes.
    """

    path: str
    began: int
    parent: "Call | None"
    arguments: dict[Key, Mark]
    ended: int = -1
    outputs: dict[Key, Mark] = field(default_factory=dict)
    uses: int = 0
    branches: list[Mark] = field(default_factory=list)

    @property
    def given(self) -> Mark | None:
        """Its first argument, if that is a tensor."""
        key = next(iter(self.arguments), None)
        return self.arguments[key] if key is not None and len(key) == 1 else None

    @property
    def output(self) -> Mark | None:
        """What it gives: a tensor, or the one of its rank that leads a tuple or a mapping."""
        key = self.output_key
        return None if key is None else self.outputs[key]

    @property
    def output_key(self) -> Key | None:
        """Where that stands."""
        first = next(iter(self.outputs), None)
        if first is None or first == ():
            return first
        rank = len(self.outputs[first].shape)
        alone = sum(len(mark.shape) == rank for mark in self.outputs.values()) == 1
        return first if alone and rank > 2 and len(first) == 1 else None


class _Marker(TorchFunctionMode):
    """Marks the result of every operation, and tells of additions."""

    def __init__(self, on_join: Callable[[list[Mark], Mark, bool], None]) -> None:
        super().__init__()
        self.marks = WeakTensorKeyDictionary()
        self.on_join = on_join

    def mark(self, tensor: Tensor) -> Mark:
        """The mark of a tensor, a blank one at first sight."""
        if tensor not in self.marks:
            self.marks[tensor] = Mark(tuple(tensor.shape), tensor.dtype, tensor.device)
        return self.marks[tensor]

    # `Any`: the signature of torch's own method.
    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        inputs = [self.mark(tensor) for tensor in _tensors((*args, *kwargs.values()))] if name != "__get__" else []
        weighted = any(isinstance(tensor, nn.Parameter) for tensor in _tensors((*args, *kwargs.values())))
        layer = name in _CHANNELS_SECOND or name in _CHANNELS_LAST or (name in _MIXES_AXES and weighted)
        result = func(*args, **kwargs)
        if name in ("__get__", "__set__"):
            return result
        for mark in inputs:
            mark.uses += name not in _QUERIES
        if inputs and inputs[0].channel is None and name in _CHANNELS_SECOND:
            inputs[0].channel = 1  # a layer knows where the channels of what it takes are
        elif inputs and inputs[0].channel is None and name in ("linear", "layer_norm", "rms_norm"):
            inputs[0].channel = len(inputs[0].shape) - 1
        in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
        if (in_place or name == "__setitem__") and inputs:
            _written(inputs[0], max((mark.depth for mark in inputs if mark.depth is not None), default=None))
        for tensor in _tensors(result if isinstance(result, (tuple, list)) else (result,)):
            if not in_place and any(self.marks.get(tensor) is mark for mark in inputs):
                continue  # dropout in evaluation, `contiguous` and their like give back what they got
            depths = [mark.depth for mark in inputs if mark.depth is not None]
            shape = tuple(tensor.shape)
            channel = _channel(func, name, args, kwargs, inputs, weighted, shape)
            is_map = channel is not None and len(shape) > 3
            grid = tuple(size for axis, size in enumerate(shape) if axis not in (0, channel)) if is_map else None
            self.marks[tensor] = Mark(
                shape=shape,
                dtype=tensor.dtype,
                device=tensor.device,
                channel=channel,
                depth=max(depths) + layer if depths else None,
                sources=tuple(inputs),
                raised=max(inputs, key=lambda mark: mark.depth or 0).raised if inputs else None,
                grid=grid or next((mark.grid for mark in inputs if mark.grid), None),
            )
            if name in _RAISES and max(depths, default=0) > 0:
                self.marks[tensor].raised = self.marks[tensor]
        joined = (name in _ADDS and len(inputs) == 2 and inputs[0].shape == inputs[1].shape) or name in _JOINS
        if joined and isinstance(result, Tensor):
            self.on_join(inputs, self.marks[result], name in _JOINS)
        return result


@dataclass
class Trace:
    """What one forward of a model did.

    Attributes:
        calls: every call of a module, in the order in which they ended.
        joins: every skip connection, in the order in which they were made.
    """

    calls: list[Call] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)


def trace(model: nn.Module, inputs: Inputs) -> Trace:
    """What one forward of the model in evaluation mode does.

    What is compiled runs as plain Python, and calls that other threads make meanwhile are left out.

    Raises:
        UserError: the model holds TorchScript, which takes no hooks, or lazy layers, which the run would initialize.
    """
    _refuse_opaque(model)
    told = Trace()
    thread = threading.get_ident()
    stack: list[Call] = []
    clock = iter(range(1 << 62))

    def on_join(operands: list[Mark], result: Mark, concatenation: bool) -> None:
        if not stack or len(result.shape) < 3 or any(mark.depth is None for mark in operands):
            return
        *others, coarse = sorted(operands, key=lambda mark: mark.depth or 0)
        # A skip is shallower than what it meets and was not raised with it. Branches of a pyramid pooling are as deep
        # as each other; what was raised together makes a residual block, or a dense one, of the decoder.
        skips = [mark for mark in others if mark.raised is not coarse.raised and mark.depth != coarse.depth]
        beside = any(mark.raised and mark.depth == coarse.depth for mark in others)
        spans = _spans(operands, result) if concatenation else {}
        if coarse.raised and skips and not beside and (spans or not concatenation):
            for mark in skips:
                both = (spans[id(mark)], spans[id(coarse)]) if spans else None
                told.joins.append(Join(stack[-1], mark, coarse, result, both))
        elif not concatenation and operands[0].depth != operands[1].depth:
            stack[-1].branches.append(max(operands, key=lambda mark: mark.depth or 0))

    marker = _Marker(on_join)
    for tensor in inputs.tensors():
        mark = marker.mark(tensor)
        mark.depth, mark.channel = 0, 1 if tensor.ndim in (4, 5) else None
        mark.grid = tuple(tensor.shape[2:]) if tensor.ndim in (4, 5) else None

    # Another thread may call a hook before it is marked, or after it is no longer marked, as one with named arguments.
    def enter(
        path: str, module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        if threading.get_ident() != thread:
            return
        arguments = {key: marker.mark(tensor) for key, tensor in _keyed(given, named)}
        stack.append(Call(path, next(clock), stack[-1] if stack else None, arguments))

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        if threading.get_ident() != thread:
            return
        call = stack.pop()
        call.ended = next(clock)
        if isinstance(output, Tensor):
            call.outputs = {(): marker.mark(output)}
        else:
            call.outputs = {key: marker.mark(tensor) for key, tensor in _keyed(output)}
        call.uses = call.output.uses if call.output else 0
        told.calls.append(call)

    with ExitStack() as cleanup:
        for path, module in model.named_modules():
            if path and uncompiled(module) is not module:
                continue  # around a module that is compiled, whose call is told
            cleanup.callback(module.register_forward_pre_hook(partial(enter, path), with_kwargs=True).remove)
            cleanup.callback(module.register_forward_hook(leave).remove)
        cleanup.enter_context(undisturbed(model))
        cleanup.enter_context(eagerly())
        cleanup.enter_context(marker)
        inputs.run(model)
    return told


def _refuse_opaque(model: nn.Module) -> None:
    """Refuse modules whose run cannot be followed, or would change them."""
    for path, module in model.named_modules():
        where = f"{path!r} in the model is" if path else "the model is"
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(f"{where} TorchScript, which takes no hooks: use the Python module that it was made of")
        if any(map(nn.parameter.is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
            raise UserError(
                f"{where} a {type(module).__name__} without parameters yet: run the model on an example once first"
            )


def _spans(operands: list[Mark], result: Mark) -> dict[int, tuple[int, int]]:
    """The channels of a concatenation that each operand is, by `id`; none if it is over another axis."""
    spans: dict[int, tuple[int, int]] = {}
    axis, start = result.channel, 0
    if axis is None or any(mark.shape[:axis] != result.shape[:axis] for mark in operands):
        return {}
    for mark in operands:
        spans[id(mark)] = (start, start + mark.shape[axis])
        start += mark.shape[axis]
    return spans if start == result.shape[axis] else {}


def _keyed(*collections: Any, depth: int = 2) -> Iterator[tuple[Key, Tensor]]:
    """The tensors in tuples, lists and mappings, and in those that stand directly in them."""
    for collection in collections:
        if isinstance(collection, Mapping):
            items: Iterable[tuple[int | str, Any]] = collection.items()
        elif isinstance(collection, (tuple, list)):
            items = enumerate(collection)
        else:
            continue
        for key, value in items:
            if isinstance(value, Tensor):
                yield (key,), value
            elif depth > 1:
                for inner, tensor in _keyed(value, depth=depth - 1):
                    yield (key, *inner), tensor


def _written(mark: Mark, depth: int | None) -> None:
    """What is written into a tensor is written into what that is a view of: batches are filled in this way."""
    if depth is not None and mark.depth is None:
        mark.depth = depth
        for source in mark.sources:
            _written(source, depth)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


def _channel(
    func: Any,
    name: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    inputs: list[Mark],
    weighted: bool,
    shape: tuple[int, ...],
) -> int | None:
    rank = len(shape)
    if name in _CHANNELS_SECOND:
        return 1
    if name in _CHANNELS_LAST or (name in _MIXES_AXES and weighted and name != "einsum"):
        return rank - 1
    if name in _MIXES_AXES or not inputs:
        return None
    first = inputs[0]
    if name in _MOVES_AXES:
        if first.channel is None:
            return None
        probe = torch.empty([2 if axis == first.channel else 1 for axis in range(len(first.shape))])
        return list(func(probe, *args[1:], **kwargs).shape).index(2)
    known = {mark.channel for mark in inputs if mark.channel is not None and len(mark.shape) == rank}
    if len(known) == 1 and name not in ("view", "reshape"):
        return known.pop()
    if len(inputs) == 1 and first.channel is not None and prod(first.shape) == prod(shape):
        return _reshaped(first.shape, first.channel, shape)
    return None


def _reshaped(old: tuple[int, ...], channel: int, new: tuple[int, ...]) -> int | None:
    """Where the axis `channel` lies after a reshape: the axis of the same size with as many elements before it."""
    before = prod(old[:channel])
    for axis, size in enumerate(new):
        if size == old[channel] and prod(new[:axis]) == before:
            return axis
    return None
