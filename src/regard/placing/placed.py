"""What stands in a model at a place: the attention, and how it reaches the tensor that it refines."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.attention import Convolve, offering
from regard.errors import UserError
from regard.placing.place import LAYOUTS, Place, Slot
from regard.placing.tracing import Key

Start = Literal["identity", "paper"]

_off: ContextVar[frozenset[int]] = ContextVar("off", default=frozenset())
"""The inserted attention, by identity, that this context has switched off; see `switched_off`."""


class InOrder(nn.Sequential):
    """Mechanisms one after the other; the first may take several tensors."""

    def forward(self, input: Tensor, *others: Tensor) -> Tensor:
        first, *rest = self
        x = first(input, *others)
        for module in rest:
            x = module(x)
        return x


class Placed(nn.Module):
    """The attention at one place of a model: `y + strength · (attention(y) - y)`, or `attention(y)` without a strength.

    Args:
        place: the place whose tensor `y` it refines.
        attention: the mechanisms that are applied in order.
        start: `"identity"` for a learned `strength` that starts at one unit of rounding, `"paper"` for none.
        sources: what the attention takes, if that is not `y`: the input of the convolution that it replaces, the
            tensors that it merges.
        turn: which of the several calls of its module in one forward it belongs to; None for all.

    Attributes:
        place: the path of the module at which it is.
        host: the path of the module whose hook it is.
        frozen: the parameters of a convolution that it replaces which were trainable; nothing is computed from them.
        extra_tokens: how many tokens at the front are no positions.
    """

    strength: Tensor | None

    def __init__(
        self,
        place: Place,
        attention: InOrder,
        start: Start,
        sources: Sequence[Slot] = (),
        turn: int | None = None,
    ) -> None:
        super().__init__()
        self.place = place.path
        self.host = place.host
        self.frozen: tuple[str, ...] = ()
        self.slot = place.slot
        self.sources = tuple(sources)
        self.extra_tokens = place.extra_tokens
        self.channel_axis = LAYOUTS[place.layout][1]
        self.channels_at_end = place.layout in ("BHWC", "BDHWC")
        self.turn = turn
        self.calls = place.calls
        self.called = 0
        self.attention = attention
        # Not zero: with zero the mechanism's own parameters would have no gradient in the first step. As it is, the
        # output changes by no more than what rounding does.
        rounding = min(torch.finfo(place.dtype).eps, torch.finfo(torch.float32).eps)
        strength = nn.Parameter(torch.full((), rounding, dtype=place.dtype, device=place.device))
        self.register_parameter("strength", strength if start == "identity" else None)

    @property
    def takes_over(self) -> bool:
        """Whether it stands in place of a convolution that is not computed any more, so that nothing is left of it."""
        return self.strength is None and isinstance(self.attention[0], Convolve)

    def strength_value(self) -> Tensor | None:
        """The factor of what the attention changes; None where it has none and the attention's output is taken."""
        return self.strength

    def forward(self, y: Tensor, *given: Tensor) -> Tensor:
        # While attention is switched off somebody replaces offers, so that compiled models run eagerly.
        if offering.listening() and id(self) in _off.get():
            return y
        taken = given or (y,)
        if self.channels_at_end:
            taken = tuple(x.movedim(-1, 1) for x in taken)
        x = self.attention(*taken)
        x = (x.movedim(1, -1) if self.channels_at_end else x).to(y.dtype)
        return x if self.strength is None else y + self.strength * (x - y)

    # `Any`: the signatures of torch's hooks.
    def after(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """Forward hook of the host: refine its output."""
        if not self._due():
            return output
        taken = [self._read(_at(given, named, source.key), source) for source in self.sources]
        if not _has(output, self.slot.key):
            key = ".".join(map(str, self.slot.key))
            raise UserError(
                f"{self.place!r} gave its tensor under {key!r} of several outputs when attention was inserted, and now "
                f"gives a {type(output).__name__} without that, as some models do in training: choose another place"
            )
        return _changed(output, self.slot.key, lambda y: self(y, *taken))

    def before(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """Forward pre-hook of the host: refine one of its inputs."""
        if not self._due():
            return given, named
        taken = [self._read(_at(given, named, source.key), source) for source in self.sources]
        first, *_ = self.slot.key

        def change(whole: Tensor) -> Tensor:
            y = self(self._read(whole, self.slot), *taken)
            if self.slot.span is None:
                return y
            start, stop = self.slot.span
            rest = whole.shape[self.channel_axis] - stop
            parts = (whole.narrow(self.channel_axis, 0, start), y, whole.narrow(self.channel_axis, stop, rest))
            return torch.cat(parts, self.channel_axis)

        if isinstance(first, int):
            return _changed(given, self.slot.key, change), named
        return given, _changed(named, self.slot.key, change)

    def instead(self, x: Tensor) -> Tensor:
        """Forward of the host that it replaces."""
        return self(x, x)

    def attach(self, host: nn.Module) -> None:
        """Stand at the host from now on."""
        if self.slot.side == "input":
            host.register_forward_pre_hook(self.before, with_kwargs=True)
        elif self.takes_over:
            host.forward = self.instead
            self.frozen = tuple(name for name, value in host.named_parameters() if value.requires_grad)
            for name in self.frozen:
                host.get_parameter(name).requires_grad_(False)
        else:
            host.register_forward_hook(self.after, with_kwargs=True)
            # What the host itself gives comes before what a Sequential gives, whose last child it is.
            hooks = host._forward_hooks
            ours = {key: owner for key, hook in hooks.items() if isinstance(owner := _owner(hook), Placed)}
            inner_first = sorted(ours, key=lambda key: -ours[key].place.count("."))
            hooks.update(zip(ours, [hooks[key] for key in inner_first], strict=True))

    def detach(self, host: nn.Module) -> None:
        """Leave the host as it was."""
        _unhook(host, self)
        if _owner(vars(host).get("forward")) is self:
            del host.forward
            for name in self.frozen:
                host.get_parameter(name).requires_grad_(True)

    def is_attached(self, host: nn.Module) -> bool:
        """Whether it stands there."""
        hooks = (*host._forward_hooks.values(), *host._forward_pre_hooks.values(), vars(host).get("forward"))
        return any(_owner(hook) is self for hook in hooks)

    def _due(self) -> bool:
        """Whether this call of the host is the one that it belongs to."""
        if self.turn is None:
            return True
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            raise UserError(
                f"{self.place!r} has separate attention for each of its {self.calls} calls and is run again by "
                "gradient checkpointing, where its calls cannot be told apart: insert with calls='shared', or leave "
                "it out of checkpointing"
            )
        turn = self.called % self.calls
        self.called = turn + 1
        return turn == self.turn

    def _read(self, whole: Tensor, slot: Slot) -> Tensor:
        if slot.span is None:
            return whole
        start, stop = slot.span
        return whole.narrow(self.channel_axis, start, stop - start)

    def extra_repr(self) -> str:
        return f"at {self.place!r}, {self.slot.side}" + ("" if self.turn is None else f", call {self.turn + 1}")


class Insertions(nn.Module):
    """All attention that was inserted into a model. Its forward is the identity: a root `nn.Sequential` runs it too."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def placed(self) -> list[Placed]:
        """The attention at each place, in the order of insertion."""
        return [module for module in self.children() if isinstance(module, Placed)]

    def begin(self, model: nn.Module, given: tuple[Any, ...]) -> None:
        """Forward pre-hook of the model: calls are counted from here, and what was inserted must still be there.

        Raises:
            UserError: a module with attention was replaced by another one.
        """
        for placed in self.placed():
            if placed.turn is not None:
                placed.called = 0
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        lost = [placed.place for placed in self.placed() if not self._find(model, placed)]
        if lost:
            raise UserError(
                f"{', '.join(map(repr, lost))} was replaced after attention was inserted there, which would no longer "
                "be run: call regard.remove first, change the model (convert its norms, reset its classifier, copy it "
                "to several devices), and insert again"
            )

    def leave(self, model: nn.Module) -> None:
        """Leave the model as it was."""
        _unhook(model, self)

    def _find(self, model: nn.Module, placed: Placed) -> bool:
        module = model
        for name in placed.host.split(".") if placed.host else ():
            inner = module._modules.get(name)
            if inner is None:
                break
            module = inner
        # A wrapper on the way to the host (of sharding, of checkpointing) leaves the hook on what it wraps.
        return any(map(placed.is_attached, module.modules()))

    # `Any`: the signature of torch's own method.
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any) -> None:
        if not any(key.startswith(prefix) for key in state_dict):  # a checkpoint of the plain model
            state_dict.update({prefix + key: value for key, value in self.state_dict(keep_vars=True).items()})
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)


@contextmanager
def switched_off(model: nn.Module) -> Iterator[list[Placed]]:
    """Let every inserted attention of a model pass its input through unchanged inside the block, in this context.

    A mechanism that stands in place of a convolution stays: without it nothing computes that place.

    Returns:
        The attention that is switched off.
    """
    placed = [module for module in model.modules() if isinstance(module, Placed) and not module.takes_over]
    token = _off.set(_off.get() | {id(module) for module in placed})
    try:
        with offering.replacing(lambda offer: None):
            yield placed
    finally:
        with suppress(ValueError):  # another context closes it
            _off.reset(token)


def _owner(hook: object) -> object:
    """Whose method it is."""
    return getattr(hook, "__self__", None)


def _unhook(module: nn.Module, owner: nn.Module) -> None:
    """Take the hooks out that are methods of `owner`."""
    after = (module._forward_hooks, module._forward_hooks_with_kwargs)
    before = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
    for hooks, with_kwargs in (after, before):
        for key in [key for key, hook in hooks.items() if _owner(hook) is owner]:
            del hooks[key]
            with_kwargs.pop(key, None)


# `Any` below: arguments and outputs of somebody's module.
def _at(given: tuple[Any, ...], named: Mapping[str, Any], key: Key) -> Any:
    """What stands there in the arguments."""
    first, *rest = key
    value = given[first] if isinstance(first, int) else named[first]
    for step in rest:
        value = value[step]
    return value


def _has(values: Any, key: Key) -> bool:
    """Whether there is something at `key` of a nest of tuples, lists and mappings."""
    for step in key:
        try:
            values = values[step]
        except (LookupError, TypeError):
            return False
    return True


def _changed(values: Any, key: Key, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a nest of tuples, lists and mappings in which the tensor at `key` is changed."""
    if not key:
        return change(values)
    step, *rest = key
    new = _changed(values[step], tuple(rest), change)
    if isinstance(values, tuple):
        items = [new if index == step else value for index, value in enumerate(values)]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    copied = copy.copy(values)
    copied[step] = new
    return copied
