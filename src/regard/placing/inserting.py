"""Putting attention into a model that is already there, and taking it out again."""

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from regard.attention import OnTokens
from regard.errors import UserError
from regard.placing.building import Makers, build, wanted
from regard.placing.effect import without_effect
from regard.placing.place import CONTAINER, LAYOUTS, Place, PlaceLayout, Slot, Where
from regard.placing.placed import RECORD, Insertions, Placed, Record, Start, inserted, living
from regard.placing.places import read_places
from regard.running import Example, Inputs, inputs_of, undisturbed

Calls = Literal["shared", "separate"]


# `Any`: the arguments of somebody's class.
def insert(
    model: nn.Module,
    attention: Makers | Mapping[Where, Makers],
    at: Where | Sequence[Where] | None = None,
    *,
    start: Start = "identity",
    calls: Calls = "shared",
    layout: Literal["auto"] | PlaceLayout = "auto",
    example: Example = None,
    **arguments: Any,
) -> nn.Module:
    """Put attention into a model, in place, without touching what the model has and knows.

    The model's modules, parameter names and values stay. What is new lies in the modules that it refines, each under a
    child `regard` of its own, and goes where they go when the model is taken apart. A checkpoint of the plain model
    loads into the attended one, strictly; the plain model loads an attended checkpoint with `strict=False`.

        insert(timm.create_model("resnet50", pretrained=True), "se")
        insert(model, "cbam", at="stage", reduction=4)
        insert(model, ["se", ("multi_head_self", {"heads": 4})], at=["layer3.*.conv2", "stage4"], example=image)
        insert(model, {"stage3": "cbam", "stage4": "multi_head_self"}, example=image)
        insert(unet, "attention_gate", example=image)
        insert(model, "dynamic_convolution", at="layer4.*.conv2", start="paper", example=image)

    With `start="identity"` attention enters as `y + strength · (attention(y) - y)`, one strength a channel that starts
    at 0: right after insertion the model gives exactly what it gave before. The strength is 32 times its parameter
    (`raw_strength`), so that it grows within an epoch of fine-tuning. In the first step the strengths alone have a
    gradient, from then on all new parameters. This is the start for models that are trained already; a network that is
    trained from scratch starts with `start="paper"`.

    What a mechanism does at a place follows from its contract. A `Refine` refines the tensor; one of tokens and one of
    maps go to either through `OnMap` and `OnTokens`. A `Convolve` stands in for the `nn.Conv2d` there, with its
    channels, kernel size, stride and groups; with `start="paper"` that convolution is then not computed any more. A
    `Merge` takes the skip and the coarser tensor that it meets and gives the skip (`at="skip"`), or takes over from a
    module that is given several tensors.

    Args:
        model: any module.
        attention: a mechanism's name, its class (or `functools.partial` of it), either with arguments
            (`("cbam", {"reduction": 4})`), or a function from the channel count to a module; a list is applied in
            order at each place; a mapping gives each place its own, without `at`.
        at: a role (see `Place`), one stage, skip or decoder block (`"stage3"`, counted from 1), `"last_stage"`,
            `"convolution"` (the convolutions larger than 1 x 1 of the blocks), a path, a glob of paths
            (`"layer3.*.conv2"`, `"bn?"` at any depth; see `regard.paths.matches`), or a test of a `Place`; a list is
            the union. Default: where the mechanism's paper puts it (its attribute `place`), and where the model has no
            such place, `"block"` or `"stage"`.
        start: `"identity"`, as above, or, for the published initialisation, `"paper"`: `attention(y)` alone.
        calls: of a module that one forward calls several times, whether all calls have the same attention (`"shared"`)
            or each its own (`"separate"`). Separate calls are counted from the start of a forward of this model: a part
            of it that is called on its own, as by `model.forward_features`, raises a `UserError`.
        layout: the layout of the places' tensors where it cannot be found.
        example: what to run the model on to see its tensors; see `places`.
        arguments: for the constructors of all mechanisms given.

    Returns:
        The same model.

    Raises:
        UserError: no such mechanism, argument or place, a mechanism that cannot stand there or that nothing after it
            reads, or attention is there already. The model is then as it was.

    Warns:
        UserWarning: of several places, some were left out, since nothing after them reads what is refined there.
    """
    _refuse_wrapped(model)
    if start not in ("identity", "paper"):
        raise UserError(f"unknown start {start!r}: it is 'identity' or 'paper'")
    if calls not in ("shared", "separate"):
        raise UserError(f"unknown calls {calls!r}: it is 'shared' or 'separate'")
    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: it is 'auto', {', '.join(map(repr, LAYOUTS))}")
    occupied = {(placed.place, placed.slot) for placed in inserted(model).values()}
    inputs = inputs_of(model, example)
    table = read_places(model, inputs, layout)
    modules = dict(model.named_modules())
    groups: list[list[tuple[Place, Placed]]] = []
    for chosen, makers in wanted(attention, at, arguments, table):
        group: list[tuple[Place, Placed]] = []
        for place in chosen:
            if (place.path, place.slot) in occupied:
                raise UserError(
                    f"{str(place)!r} has attention already: remove(model) first, or give all mechanisms of a place in "
                    "one list"
                )
            occupied.add((place.path, place.slot))
            turns = range(place.calls) if calls == "separate" and place.calls > 1 else (None,)
            group += [(place, build(place, makers, modules[place.path], start, turn)) for turn in turns]
        groups.append(group)

    hosts = _hosts(model, inputs, modules, [pair for group in groups for pair in group])
    attached: list[Placed] = []
    known = vars(model).get(RECORD)
    record = Record() if known is None else known
    if known is None:
        record.join(model)
    try:
        for placed, (path, spot) in hosts.items():
            placed.attach(modules[path], path, spot)
            attached.append(placed)
            record.placed.append(placed)
        for placed in _without_effect(model, inputs, groups):
            record.placed.remove(placed)
            attached.remove(placed)
            placed.detach(modules[placed.host])
    except BaseException:
        for placed in attached:
            record.placed.remove(placed)
            placed.detach(modules[placed.host])
        if known is None:
            record.leave(model)
        raise
    if known is None:
        record.learned = _learns(model)
    return model


def _learns(model: nn.Module) -> bool:
    """Return whether anything can learn that the model had, other than what attention stands in place of."""
    new = {parameter for placed in living(model).values() for parameter in placed.parameters()}
    return any(parameter.requires_grad for parameter in model.parameters() if parameter not in new)


def _hosts(
    model: nn.Module, inputs: Inputs, modules: Mapping[str, nn.Module], built: Sequence[tuple[Place, Placed]]
) -> dict[Placed, tuple[str, Slot]]:
    """Return in which module each is to live, and where at that one the tensor stands.

    A module that goes through its children in its own forward would call the attention as one of them. So the model is
    run once with a child that only notes its calls.

    Raises:
        UserError: all modules that have the tensor do so, or have an attribute of the child's name.
    """
    unfit: dict[str, str] = {
        path: f"has an attribute {CONTAINER!r} of its own"
        for path, module in modules.items()
        if hasattr(module, CONTAINER) and not isinstance(getattr(module, CONTAINER), Insertions)
    }
    while True:
        hosts: dict[Placed, tuple[str, Slot]] = {}
        for place, placed in built:
            candidates = place.hosts
            if any((source.side, source.key) != (place.side, place.slot.key) for source in placed.sources):
                candidates = ((place.path, place.slot),)  # only there are the other tensors that it takes
            fit = [(path, spot) for path, spot in candidates if path not in unfit]
            if not fit:
                reasons = "; ".join(dict.fromkeys(f"{path or 'the model'} {unfit[path]}" for path, _ in candidates))
                raise UserError(
                    f"no attention can live at {str(place)!r}: {reasons}. Choose a module inside it, or the one that "
                    "takes its output; regard.places lists them"
                )
            hosts[placed] = fit[0]
        new = _iterating(model, inputs, {path: modules[path] for path, _ in hosts.values()})
        if not new:
            return hosts
        unfit |= dict.fromkeys(new, "goes through its children in its forward")


class _Probe(nn.Module):
    """A child that notes whether it is called by the thread that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.called = False

    # `Any`: whatever a caller takes it for.
    def forward(self, *given: Any, **named: Any) -> Any:
        self.called = self.called or threading.get_ident() == self.thread
        return given[0] if given else None


def _iterating(model: nn.Module, inputs: Inputs, hosts: Mapping[str, nn.Module]) -> list[str]:
    """Return which of these modules call a further child when the model is run."""
    probes = {
        path: _Probe()
        for path, host in hosts.items()
        if (isinstance(host, CONTAINERS) or any(True for _ in host.children()))
        and not isinstance(host._modules.get(CONTAINER), Insertions)
    }
    if not probes:
        return []
    try:
        for path, probe in probes.items():
            hosts[path].add_module(CONTAINER, probe)
        with undisturbed(model):
            inputs.run(model)
    except Exception:
        # The model ran without them: something went wrong in a module that counts its children or calls the probe.
        called = [path for path, probe in probes.items() if probe.called]
        return called or [path for path in probes if isinstance(hosts[path], CONTAINERS)] or list(probes)
    finally:
        for path in probes:
            delattr(hosts[path], CONTAINER)
    return [path for path, probe in probes.items() if probe.called]


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _without_effect(model: nn.Module, inputs: Inputs, groups: Sequence[Sequence[tuple[Place, Placed]]]) -> list[Placed]:
    """Return the attention that changes no output of the model, and warn of it.

    Raises:
        UserError: all attention that was put somewhere changes no output.
    """
    suspects = [
        placed
        for group in groups
        for place, placed in group
        # Where the refined tensor holds tokens that pass unchanged, it may be these alone that are read later on.
        if not placed.sources and (not place.reaches or any(isinstance(one, OnTokens) for one in placed.attention))
    ]
    lost = without_effect(model, inputs, suspects)
    for group in groups:
        names = list(dict.fromkeys(str(place) for place, placed in group if placed in lost))
        if not names:
            continue
        what = (
            f"attention at {', '.join(map(repr, names))} cannot change an output of the model: nothing after it reads "
            "what it refines"
        )
        if all(placed in lost for _, placed in group):
            raise UserError(
                f"{what} (a classifier that reads the class token alone does not see the other tokens). Choose an "
                "earlier place, or a mechanism of tokens, which refines the class token too"
            )
        warnings.warn(f"{what}. It was left out", UserWarning, stacklevel=3)
    return lost


def remove(model: nn.Module) -> nn.Module:
    """Take all inserted attention out of a model, in place: it is then what it was before the first insertion.

    A convolution in whose place attention stood could not learn meanwhile. It can again if it could before, unless all
    that the model had was frozen after the insertion.

    Returns:
        The same model.

    Raises:
        UserError: nothing was inserted.
    """
    record = vars(model).get(RECORD)
    found = list(living(model).values()) + (record.placed if record is not None else [])
    if not found:
        raise UserError(f"{type(model).__name__} has no inserted attention: put some in with regard.insert")
    if record is not None and record.learned and not _learns(model):
        _keep_frozen(found)
    if record is not None:  # first: a forward of another thread is not to miss what is being taken out
        record.leave(model)
    hosts = list(model.modules())
    for placed in dict.fromkeys(found):
        for module in hosts:
            if placed.is_attached(module) or isinstance(module._modules.get(CONTAINER), Insertions):
                placed.detach(module)
    return model


def parameter_groups(model: nn.Module, lr: float | None, new_lr: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: what the model had, and what was inserted, each with its learning rate.

        torch.optim.AdamW(parameter_groups(model, lr=1e-5, new_lr=1e-3))

    Args:
        model: a model with inserted attention.
        lr: the learning rate of what the model had; None freezes that (`requires_grad` becomes False) and leaves its
            group out.
        new_lr: the learning rate of what was inserted.

    Raises:
        UserError: nothing was inserted, or what was is no longer run since its module was replaced.
    """
    found = inserted(model)
    if not found:
        raise UserError(f"{type(model).__name__} has no inserted attention: put some in with regard.insert")
    new = list(dict.fromkeys(parameter for placed in found.values() for parameter in placed.parameters()))
    among = set(new)
    backbone = [parameter for parameter in model.parameters() if parameter not in among]
    groups: list[dict[str, Any]] = [{"name": "inserted", "params": new, "lr": new_lr}]
    if lr is None:
        for parameter in backbone:
            parameter.requires_grad_(False)
        _keep_frozen(list(found.values()))
        return groups
    return [{"name": "backbone", "params": backbone, "lr": lr}, *groups]


def _keep_frozen(found: Sequence[Placed]) -> None:
    """Let the convolutions that attention replaces stay frozen when it is taken out."""
    for placed in found:
        placed.frozen = ()


def _refuse_wrapped(model: nn.Module) -> None:
    compiled = [name for name, module in model.named_modules() if _is_compiled(module)]
    if compiled:
        what = "the model is" if compiled[0] == "" else f"{', '.join(map(repr, compiled))} in the model is"
        raise UserError(f"{what} compiled, which ignores hooks added afterwards: insert first, then torch.compile")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"the model is wrapped in {type(model).__name__}: insert into the model first, then wrap it")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("the model is TorchScript, which takes no hooks: insert into the Python model first")


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
