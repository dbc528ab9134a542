"""One run of a model, told as calls of its modules, with which axis of each tensor holds the channels.

Names of modules say little and differ from model to model; what a forward does with its tensors is the same
everywhere. While the model runs once, every module call is noted, and every tensor carries a `Mark`: where its channels
are, how many layers lie between it and the input, and which tensors it came from. A residual addition is then the
addition of two tensors that come from the input through different numbers of layers; the deeper one is the branch.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from regard.running import Inputs, undisturbed

_CHANNELS_SECOND = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("batch_norm", "group_norm", "instance_norm"),
}
_CHANNELS_LAST = {"linear", "layer_norm", "rms_norm", "embedding", "multi_head_attention_forward"}
_MOVES_AXES = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}
_MIXES_AXES = {"matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
_ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


@dataclass(eq=False)
class Mark:
    """What is known of one tensor.

    Attributes:
        shape, dtype, device: of the tensor.
        channel: the axis that holds the channels, None where that cannot be told.
        depth: the layers (convolutions, linear layers, normalisations) between the input and it, None if it does not
            come from the input.
        sources: the marks of the tensors that it was computed from.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    channel: int | None = None
    depth: int | None = None
    sources: tuple["Mark", ...] = ()


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        path: the module's path.
        began, ended: when, counted in events.
        parent: the call inside which it happened.
        given: its first positional argument, if that is a tensor.
        output: what it returned, if that is a tensor.
        branches: the deeper operand of each residual addition that its own forward makes.
    """

    path: str
    began: int
    parent: "Call | None"
    given: Mark | None
    ended: int = -1
    output: Mark | None = None
    branches: list[Mark] = field(default_factory=list)


class _Marker(TorchFunctionMode):
    """Marks the result of every operation, and tells of additions."""

    def __init__(self, on_addition: Callable[[Mark, Mark], None]) -> None:
        super().__init__()
        self.marks = WeakTensorKeyDictionary()
        self.on_addition = on_addition

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
        if name in _ADDS and len(inputs) == 2 and inputs[0].shape == inputs[1].shape:
            self.on_addition(inputs[0], inputs[1])
        if inputs and inputs[0].channel is None and name in _CHANNELS_SECOND:
            inputs[0].channel = 1  # a layer knows where the channels of what it takes are
        elif inputs and inputs[0].channel is None and name in ("linear", "layer_norm", "rms_norm"):
            inputs[0].channel = len(inputs[0].shape) - 1
        in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
        for tensor in _tensors(result if isinstance(result, (tuple, list)) else (result,)):
            if not in_place and any(self.marks.get(tensor) is mark for mark in inputs):
                continue  # dropout in evaluation, `contiguous` and their like give back what they got
            depths = [mark.depth for mark in inputs if mark.depth is not None]
            shape = tuple(tensor.shape)
            self.marks[tensor] = Mark(
                shape=shape,
                dtype=tensor.dtype,
                device=tensor.device,
                channel=_channel(func, name, args, kwargs, inputs, weighted, shape),
                depth=max(depths) + layer if depths else None,
                sources=tuple(inputs),
            )
        return result


def trace(model: nn.Module, inputs: Inputs) -> list[Call]:
    """Every call that one forward of the model in evaluation mode makes, in the order in which they end."""
    calls: list[Call] = []
    stack: list[Call] = []
    clock = iter(range(1 << 62))

    def on_addition(first: Mark, second: Mark) -> None:
        if not stack or len(first.shape) < 3 or first.depth is None or second.depth is None:
            return
        if first.depth != second.depth:
            stack[-1].branches.append(first if first.depth > second.depth else second)

    marker = _Marker(on_addition)
    for tensor in inputs.tensors():
        mark = marker.mark(tensor)
        mark.depth, mark.channel = 0, 1 if tensor.ndim in (4, 5) else None

    def enter(path: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, given: Any) -> None:
            first = given[0] if given and isinstance(given[0], Tensor) else None
            parent = stack[-1] if stack else None
            stack.append(Call(path, next(clock), parent, None if first is None else marker.mark(first)))

        return hook

    def leave(module: nn.Module, given: Any, output: Any) -> None:
        call = stack.pop()
        call.ended = next(clock)
        if isinstance(output, Tensor):
            call.output = marker.mark(output)
        calls.append(call)

    with ExitStack() as cleanup:
        for path, module in model.named_modules():
            cleanup.callback(module.register_forward_pre_hook(enter(path)).remove)
            cleanup.callback(module.register_forward_hook(leave).remove)
        cleanup.enter_context(undisturbed(model))
        cleanup.enter_context(marker)
        inputs.run(model)
    return calls


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
