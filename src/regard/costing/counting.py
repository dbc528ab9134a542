"""What one forward computes, moves and keeps, counted operator by operator: alike on a quiet and a busy machine."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from regard.attention import Attention, OnMap, OnTokens, ReadMap
from regard.running import Inputs

# They allocate and write nothing.
_ALLOCATE = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")
# What they change they do not read.
_OVERWRITE = ("copy_", "fill_", "zero_")
# They read as much of their first argument as they give, and not all of it.
_GATHER = ("embedding", "gather", "index", "index_select", "take")


@dataclass(frozen=True)
class Counts:
    """What one forward needs, whatever machine it runs on; the whole batch of the example.

    Attributes:
        macs: multiply-accumulates. One of them is two FLOPs. Convolutions, linear layers and all matrix products
            count, those inside attention too; elementwise operations, biases, activations, normalisation and pooling
            do not.
        bytes_moved: every operator of PyTorch reads each tensor that it takes once and writes each that it gives once.
            Views are free, an expanded axis is read once, a lookup reads what it finds; what happens within one
            operator, such as fused attention, stays in it. So this is the least that has to move when nothing else is
            fused; caches and compilers can save some of it.
        activation_bytes: the storage that one forward with gradients keeps until backward, without parameters and
            buffers. Evaluation mode: masks of dropout come on top in training. The input of a mechanism counts as a
            tensor that needs a gradient, as within a network; that of a whole model as it was given. A model whose
            parameters are all frozen keeps nothing.
    """

    macs: int
    bytes_moved: int
    activation_bytes: int

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.macs - other.macs,
            self.bytes_moved - other.bytes_moved,
            self.activation_bytes - other.activation_bytes,
        )


def count(model: nn.Module, inputs: Inputs) -> Counts:
    """Count what one forward of a model needs; run it within `regard.running.undisturbed`."""
    model = getattr(model, "_orig_mod", model)  # what a compiled model was made from
    return Counts(_macs(model, inputs), _bytes_moved(model, inputs), _activation_bytes(model, inputs))


def _macs(model: nn.Module, inputs: Inputs) -> int:
    # PyTorch's counter asks what requires a gradient for its history, which without gradients a parameter that is
    # handed from one module to another has not.
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _taken_apart(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            inputs.run(model)
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)
    return counter.get_total_flops() // 2


def _bytes_moved(model: nn.Module, inputs: Inputs) -> int:
    with _taken_apart(model), _Traffic() as traffic:
        inputs.run(model)
    return traffic.total


def _activation_bytes(model: nn.Module, inputs: Inputs) -> int:
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    def needing_gradient(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_(tensor.is_floating_point())

    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
        saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        if isinstance(model, (Attention, OnMap, OnTokens, ReadMap)):
            inputs = Inputs(*tree_map_only(Tensor, needing_gradient, (inputs.positional, dict(inputs.named))))
        inputs.run(model)
    return sum(storage.nbytes() for storage in kept.values())


@contextmanager
def _taken_apart(model: nn.Module) -> Iterator[None]:
    """Whole layers in one kernel, of transformers and recurrent cells, are taken apart: counters see only operators."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            mkldnn, *_ = torch.backends.mkldnn.set_flags(_enabled=False)
            stack.callback(torch.backends.mkldnn.set_flags, _enabled=mkldnn)
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


class _Traffic(TorchDispatchMode):
    """Adds up what every operator reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    # `Any`: the signature of torch's own method.
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if name in _ALLOCATE:
            return result
        given = set(Inputs(tuple(args), kwargs).tensors())  # by identity: what is taken twice is read once
        changed = _changed(func, args, kwargs)
        storages = {tensor.untyped_storage()._cdata for tensor in given}
        new = {tensor for tensor in Inputs((result,)).tensors() if tensor.untyped_storage()._cdata not in storages}
        written = sum(map(_size, changed | new))
        if written:  # else it is a view
            unread = changed if name in _OVERWRITE or func._overloadname == "out" else set()
            source = args[0] if name in _GATHER else None
            self.total += written + sum(
                min(_size(tensor), written) if tensor is source else _size(tensor) for tensor in given - unread
            )
        return result


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> set[Tensor]:
    """The arguments that an operator writes into."""
    changed = [
        args[position] if position < len(args) else kwargs.get(argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return set(Inputs(tuple(changed)).tensors())


def _size(tensor: Tensor) -> int:
    """Bytes of the tensor; what is expanded lies in memory once."""
    return tensor.element_size() * prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size
    )
