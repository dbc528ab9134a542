"""What stands in a model at a place: the attention, and how it reaches the tensor that it refines.

The attention lives in its host: a module through which the tensor passes, whose child `regard` (`Insertions`) holds it
and whose hooks run it. A model may so be taken apart, and its parts take their attention with them.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from regard.attention import Convolve, offering
from regard.errors import UserError
from regard.placing.place import CONTAINER, LAYOUTS, Place, Slot
from regard.placing.tracing import Key

Start = Literal["identity", "paper"]

SCALE = 32
"""How many times as fast as other parameters a strength moves.

Moved by the learning rate alone, attention that starts at a strength of 0 is still hardly there after ten epochs of
fine-tuning: removing it then changes 0.1 to 0.5 % of the predictions, with this factor 4 to 40 % after one epoch.
"""

_off: ContextVar[frozenset[int]] = ContextVar("off", default=frozenset())
"""The inserted attention, by identity, that this context has switched off; see `switched_off`."""

_stand_ins: ContextVar[Mapping[int, nn.Module]] = ContextVar("stand_ins", default=MappingProxyType({}))
"""What this context runs in place of inserted attention, by the identity of its `Placed`; see `standing_in`."""


@contextmanager
def switched_off(model: nn.Module) -> Iterator[list["Placed"]]:
    """Let every inserted attention of a model pass its input through unchanged inside the block, in this context.

    A mechanism that stands in place of a convolution stays: without it nothing computes that place.

    Returns:
        The attention that is switched off.
    """
    placed = [one for one in inserted(model).values() if not one.takes_over]
    token = _off.set(_off.get() | {id(one) for one in placed})
    try:
        with offering.replacing(lambda offer: None):  # compiled models run eagerly
            yield placed
    finally:
        with suppress(ValueError):  # another context closes it
            _off.reset(token)


@contextmanager
def standing_in(modules: Mapping["Placed", nn.Module]) -> Iterator[None]:
    """Run other modules in place of inserted attention inside the block, in this context."""
    token = _stand_ins.set({**_stand_ins.get(), **{id(placed): module for placed, module in modules.items()}})
    try:
        with offering.replacing(lambda offer: None):  # compiled models run eagerly
            yield
    finally:
        _stand_ins.reset(token)


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
        start: `"identity"` for a learned strength of each channel that starts at 0, `"paper"` for none.
        sources: what the attention takes, if that is not `y`: the input of the convolution that it replaces, the
            tensors that it merges.
        turn: which of the several calls of its module in one forward it belongs to; None for all.

    Attributes:
        place: the path of the module at which it is.
        slot: where at that module the tensor stands.
        host, spot: the path of the module whose hook it is, and where at that one the tensor stands.
        frozen: the parameters of a convolution that it replaces which were trainable; nothing is computed from them.
        extra_tokens: how many tokens at the front are no positions.
        grid: the spatial sizes of the positions in the example, None if they are not known.
        raw_strength: the parameter behind the strength, `(C,)`, None without one.
    """

    raw_strength: Tensor | None

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
        self.slot = place.slot
        self.host, self.spot = place.path, place.slot
        self.frozen: tuple[str, ...] = ()
        self.patched: Any = None  # a forward of the host's own, which another library put there
        self.sources = tuple(sources)
        self.extra_tokens = place.extra_tokens
        self.grid = place.grid
        self.channel_axis = LAYOUTS[place.layout][1]
        self.channels_at_end = place.layout in ("BHWC", "BDHWC")
        self.turn = turn
        self.calls = place.calls
        self.called = 0
        self.attention = attention
        raw = nn.Parameter(torch.zeros(place.channels, dtype=place.dtype, device=place.device))
        self.register_parameter("raw_strength", raw if start == "identity" else None)

    @property
    def takes_over(self) -> bool:
        """Whether it stands in place of a convolution that is not computed any more, so that nothing is left of it."""
        return self.raw_strength is None and isinstance(self.attention[0], Convolve)

    @property
    def strength(self) -> Tensor | None:
        """The weight of what the attention changes, `(C,)`; None where it has none.

        It is `SCALE` times its parameter, and its gradient is that parameter's: so every optimizer moves it `SCALE`
        times as far as another parameter. Were the gradient multiplied too, SGD would move it by the square of that.
        """
        if self.raw_strength is None:
            return None
        return self.raw_strength + (SCALE - 1) * self.raw_strength.detach()

    def forward(self, y: Tensor, *given: Tensor) -> Tensor:
        taken = given or (y,)
        if self.channels_at_end:
            taken = tuple(x.movedim(-1, 1) for x in taken)
        attention = _stand_ins.get().get(id(self), self.attention) if offering.listening() else self.attention
        x = attention(*taken)
        x = (x.movedim(1, -1) if self.channels_at_end else x).to(y.dtype)
        strength = self.strength
        if strength is None:
            return x
        strength = strength.to(y.dtype).unflatten(0, (-1, *(1,) * (y.ndim - 1 - self.channel_axis)))  # (C, 1, ...)
        return y + strength * (x - y)

    # `Any`: the signatures of torch's hooks.
    def after(self, module: nn.Module, given: tuple[Any, ...], *rest: Any) -> Any:
        """Forward hook of the host: refine its output.

        Args:
            module, given: the host and its arguments.
            rest: its named arguments and its output; the output alone, should another thread call the host at the
                moment at which torch has registered the hook and has not yet noted that it takes named arguments.
        """
        named, output = rest if len(rest) == 2 else ({}, *rest)
        if not self._due():
            return output
        taken = [self._read(_at(given, named, source.key), source) for source in self.sources]
        if not _has(output, self.spot.key):
            key = ".".join(map(str, self.spot.key))
            raise UserError(
                f"{self.place!r} gave its tensor under {key!r} of several outputs when attention was inserted, and now "
                f"gives a {type(output).__name__} without that, as some models do in training: choose another place"
            )
        return _changed(output, self.spot.key, lambda y: self(y, *taken))

    def before(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any] | None = None) -> Any:
        """Forward pre-hook of the host: refine one of its inputs; `named` may lack as in `after`."""
        if named is None:
            changed, _ = self.before(module, given, {})
            return changed
        if not self._due():
            return given, named
        taken = [self._read(_at(given, named, source.key), source) for source in self.sources]
        first, *_ = self.spot.key

        def change(whole: Tensor) -> Tensor:
            y = self(self._read(whole, self.spot), *taken)
            if self.spot.span is None:
                return y
            start, stop = self.spot.span
            rest = whole.shape[self.channel_axis] - stop
            parts = (whole.narrow(self.channel_axis, 0, start), y, whole.narrow(self.channel_axis, stop, rest))
            return torch.cat(parts, self.channel_axis)

        if isinstance(first, int):
            return _changed(given, self.spot.key, change), named
        return given, _changed(named, self.spot.key, change)

    def instead(self, x: Tensor) -> Tensor:
        """Forward of the host that it replaces."""
        return self(x, x)

    def attach(self, host: nn.Module, path: str, spot: Slot) -> None:
        """Live in a host and run there from now on.

        Args:
            host: the module.
            path: its path in the model.
            spot: where at it the tensor stands.
        """
        self.host, self.spot = path, spot
        if spot.side == self.slot.side == "input":
            # Parts of the tensor that it refines are found where that stands at the host.
            self.sources = tuple(
                Slot("input", spot.key, source.span) if source.key == self.slot.key else source
                for source in self.sources
            )
        container = host._modules.get(CONTAINER)
        if container is None:
            container = Insertions()
            container.train(host.training)
            host.add_module(CONTAINER, container)
        name = "_".join([spot.side, *(str(step) for step in spot.key if step != 0)])
        if self.turn is not None:
            name += f"_call{self.turn + 1}"
        container.add_module(unique(name, {name for name, _ in container.named_children()}), self.train(host.training))
        if spot.side == "input":
            host.register_forward_pre_hook(self.before, with_kwargs=True)
        elif self.takes_over:
            self.patched = vars(host).get("forward")
            host.forward = self.instead
            self.frozen = tuple(name for name, value in host.named_parameters(recurse=False) if value.requires_grad)
            for name in self.frozen:
                host.get_parameter(name).requires_grad_(False)
        else:
            host.register_forward_hook(self.after, with_kwargs=True)
            # What the host itself gives comes before what a Sequential gives, whose last child it is.
            hooks = host._forward_hooks
            ours = {key: owner for key, hook in hooks.items() if isinstance(owner := _owner(hook), Placed)}
            inner_first = sorted(ours, key=lambda key: -len(ours[key].place.split(".") if ours[key].place else ()))
            hooks.update(zip(ours, [hooks[key] for key in inner_first], strict=True))

    def detach(self, host: nn.Module) -> None:
        """Leave the host as it was."""
        _unhook(host, self)
        if _owner(vars(host).get("forward")) is self:
            del host.forward
            if self.patched is not None:
                host.forward = self.patched
            for name in self.frozen:
                host.get_parameter(name).requires_grad_(True)
        container = host._modules.get(CONTAINER)
        if isinstance(container, Insertions):
            for name, inner in list(container.named_children()):
                if inner is self:
                    delattr(container, name)
            if not any(container.children()):
                delattr(host, CONTAINER)

    def is_attached(self, host: nn.Module) -> bool:
        """Whether it stands there."""
        hooks = (*host._forward_hooks.values(), *host._forward_pre_hooks.values(), vars(host).get("forward"))
        return any(_owner(hook) is self for hook in hooks)

    def _due(self) -> bool:
        """Return whether this call of the host is the one that it belongs to, and it is not switched off."""
        if offering.listening() and id(self) in _off.get():
            return False
        if self.turn is None:
            return True
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            raise UserError(
                f"{self.place!r} has separate attention for each of its {self.calls} calls and is run again by "
                "gradient checkpointing, where its calls cannot be told apart: insert with calls='shared', or leave "
                "it out of checkpointing"
            )
        if torch.compiler.is_compiling():
            turn = self.called % self.calls
            self.called = turn + 1
        else:  # each thread counts for itself
            counts = _counts()
            if self not in counts:
                raise UserError(
                    f"{self.place!r} has separate attention for each of its {self.calls} calls in one forward of the "
                    "model that it was inserted into, and was called outside of one, where its calls cannot be told "
                    "apart: call that model, or insert with calls='shared'"
                )
            turn = counts[self] % self.calls
            counts[self] = turn + 1
        return turn == self.turn

    def _read(self, whole: Tensor, slot: Slot) -> Tensor:
        if slot.span is None:
            return whole
        start, stop = slot.span
        return whole.narrow(self.channel_axis, start, stop - start)

    def extra_repr(self) -> str:
        return f"at {self.place!r}, {self.slot.side}" + ("" if self.turn is None else f", call {self.turn + 1}")


class Insertions(nn.Module):
    """All attention that lives in one host, as its child `regard`; the host's hooks run it."""

    # `Any`: whatever a caller takes it for.
    def forward(self, *given: Any, **named: Any) -> NoReturn:
        placed = next(iter(self.placed()), None)
        where = "" if placed is None else f" at {placed.place or 'the model'!r}"
        raise UserError(
            f"attention that was inserted{where} was called as a layer, as if it were the last child of its host: the "
            "hooks of the host run it. Leave the child 'regard' out where you go through the children of a module, or "
            "call regard.remove first"
        )

    def placed(self) -> list[Placed]:
        """Return the attention that lives here, in the order of insertion."""
        return [module for module in self.children() if isinstance(module, Placed)]


class Record:
    """What was inserted into a model, as that model knows it: a plain attribute, three hooks and no parameters.

    Attributes:
        placed: the attention at each place, in the order of insertion.
        learned: whether anything of the model could learn when the first attention was inserted, other than what that
            replaced.
    """

    def __init__(self) -> None:
        self.placed: list[Placed] = []
        self.learned = False

    def join(self, model: nn.Module) -> None:
        """Be the record of a model from now on."""
        vars(model)[RECORD] = self
        model.register_forward_pre_hook(self.begin)
        model.register_forward_hook(self.end, always_call=True)
        model.register_load_state_dict_pre_hook(self.fill)

    def leave(self, model: nn.Module) -> None:
        """Leave the model as it was."""
        _unhook(model, self)
        hooks = model._load_state_dict_pre_hooks
        for key in [key for key, wrapped in hooks.items() if _owner(getattr(wrapped, "hook", wrapped)) is self]:
            del hooks[key]
        del vars(model)[RECORD]

    def begin(self, model: nn.Module, given: tuple[Any, ...]) -> None:
        """Forward pre-hook of the model: calls are counted from here, and what was inserted must still be there.

        Raises:
            UserError: a module with attention was replaced by another one.
        """
        everything = tuple(self.placed)
        for placed in everything:
            if placed.turn is not None:
                if torch.compiler.is_compiling():
                    placed.called = 0
                else:
                    _counts()[placed] = 0
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        _refuse_lost(self.lost(model))

    # `Any`: the signature of torch's own hook.
    def end(self, model: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the model, run after an error too: calls from here on belong to no forward of it."""
        if not torch.compiler.is_compiling():
            for placed in tuple(self.placed):
                _counts().pop(placed, None)

    def lost(self, model: nn.Module) -> list[Placed]:
        """Return the attention whose module is no longer in the model."""
        return [placed for placed in tuple(self.placed) if not self._find(model, placed)]

    # `Any`: the signature of torch's own hook.
    def fill(self, model: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Pre-hook of loading: a checkpoint of the plain model, which knows no attention, leaves it as it is."""
        if not any(CONTAINER in key.split(".") for key in state_dict if key.startswith(prefix)):
            own = model.state_dict(keep_vars=True)
            state_dict.update({prefix + key: value for key, value in own.items() if CONTAINER in key.split(".")})

    def _find(self, model: nn.Module, placed: Placed) -> bool:
        module = model
        for name in placed.host.split(".") if placed.host else ():
            inner = module._modules.get(name)
            if inner is None:
                break
            module = inner
        # A wrapper on the way to the host (of sharding, of checkpointing) leaves the hook on what it wraps.
        return any(map(placed.is_attached, module.modules()))


RECORD = "_regard_record"
"""The attribute under which a model keeps its `Record`."""


def inserted(model: nn.Module) -> dict[str, Placed]:
    """Return all inserted attention that lives in a model or a part of one, by the path of its module.

    Args:
        model: the model, or a part that was taken out of it.

    Raises:
        UserError: a module with attention was replaced, so that the attention is no longer run. The whole model knows
            of each one; a part only of what the new module was given, as by `SyncBatchNorm.convert_sync_batchnorm`.
    """
    lost: list[Placed] = []
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # takes no hooks
        container, record = module._modules.get(CONTAINER), vars(module).get(RECORD)
        if isinstance(container, Insertions):
            lost += [placed for placed in container.placed() if not placed.is_attached(module)]
        if isinstance(record, Record):
            lost += record.lost(module)
    _refuse_lost(lost)
    return living(model)


def living(model: nn.Module) -> dict[str, Placed]:
    """Return all inserted attention in a model or a part of one, by its path, whether it is run or not."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Placed)}


def _refuse_lost(lost: Sequence[Placed]) -> None:
    """Refuse a model in which some attention is no longer run."""
    if lost:
        places = dict.fromkeys(placed.place or "the model" for placed in lost)
        raise UserError(
            f"{', '.join(map(repr, places))} was replaced after attention was inserted there, which would no longer "
            "be run: call regard.remove first, change the model (convert its norms, reset its classifier, copy it "
            "to several devices), and insert again"
        )


def unique(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


_thread = threading.local()


def _counts() -> WeakKeyDictionary[Placed, int]:
    """Return how often each host of separate attention was called in the forward that this thread runs."""
    if not hasattr(_thread, "counts"):
        _thread.counts = WeakKeyDictionary()
    return _thread.counts


def _owner(hook: object) -> object:
    """Whose method it is."""
    return getattr(hook, "__self__", None)


def _unhook(module: nn.Module, owner: object) -> None:
    """Take the hooks out that are methods of `owner`."""
    after = (module._forward_hooks, module._forward_hooks_with_kwargs)
    before = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
    for hooks, with_kwargs in (after, before):
        for key in [key for key, hook in hooks.items() if _owner(hook) is owner]:
            del hooks[key]
            with_kwargs.pop(key, None)
            module._forward_hooks_always_called.pop(key, None)


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
