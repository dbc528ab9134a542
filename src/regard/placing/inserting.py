"""Putting attention into a model that is already there, and taking it out again."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from regard.errors import UserError
from regard.placing.building import Makers, build, unique, wanted
from regard.placing.place import CONTAINER, LAYOUTS, PlaceLayout, Where
from regard.placing.placed import Insertions, Placed, Start
from regard.placing.places import places
from regard.running import Example

Calls = Literal["shared", "separate"]


def insert(
    model: nn.Module,
    attention: Makers | Mapping[Where, Makers],
    at: Where | Sequence[Where] | None = None,
    *,
    start: Start = "identity",
    calls: Calls = "shared",
    layout: Literal["auto"] | PlaceLayout = "auto",
    example: Example = None,
) -> nn.Module:
    """Put attention into a model, in place, without touching what the model has and knows.

    The model's modules, parameter names and values stay; everything new lies under `model.regard`. A checkpoint of the
    plain model loads into the attended one, strictly; the plain model loads an attended checkpoint with `strict=False`.

        insert(timm.create_model("resnet50", pretrained=True), "se", at="branch")
        insert(model, ["se", partial(MultiHeadSelfAttention, heads=4)], at=["layer3.*.conv2", "stage4"], example=image)
        insert(model, {"stage3": "cbam", "stage4": "multi_head_self"}, example=image)
        insert(unet, "attention_gate", at="skip", example=image)
        insert(model, "dynamic_convolution", at="layer4.*.conv2", start="paper", example=image)

    With `start="identity"` attention enters as `y + strength · (attention(y) - y)`, one scalar `strength` a place that
    starts at one unit of rounding, 1.2e-7: right after insertion the model gives what it gave before, to float
    tolerance. All new parameters have a gradient from the first step on; that of the mechanism grows with `strength`.
    A mechanism whose published initialisation is the identity already, by a gain of zero, keeps it and has no strength.

    What a mechanism does at a place follows from its contract. A `Refine` refines the tensor; one of tokens and one of
    maps go to either through `OnMap` and `OnTokens`. A `Convolve` stands in for the `nn.Conv2d` there, with its
    channels, kernel size, stride and groups; with `start="paper"` that convolution is then not computed any more. A
    `Merge` takes the skip and the coarser tensor that it meets and gives the skip (`at="skip"`), or takes over from a
    module that is given several tensors.

    Args:
        model: any module.
        attention: a mechanism's name, its class (or `functools.partial` of it), or a function from the channel count to
            a module; a list is applied in order at each place; a mapping gives each place its own, without `at`.
        at: a role (see `Place`), one stage, skip or decoder block (`"stage3"`, counted from 1), a path, a glob of paths
            (`"layer3.*.conv2"`, `"bn?"` at any depth; see `regard.paths.matches`), or a test of a `Place`; a list is
            the union. Default: `"block"`.
        start: `"identity"`, as above, or, for the published initialisation, `"paper"`: `attention(y)` alone.
        calls: of a module that one forward calls several times, whether all calls have the same attention (`"shared"`)
            or each its own (`"separate"`).
        layout: the layout of the places' tensors where it cannot be found.
        example: what to run the model on once to see its tensors; see `places`.

    Returns:
        The same model.

    Raises:
        UserError: no such mechanism or place, a mechanism that cannot stand there, or attention is there already. The
            model is then as it was.
    """
    _refuse_wrapped(model)
    if start not in ("identity", "paper"):
        raise UserError(f"unknown start {start!r}: it is 'identity' or 'paper'")
    if calls not in ("shared", "separate"):
        raise UserError(f"unknown calls {calls!r}: it is 'shared' or 'separate'")
    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: it is 'auto', {', '.join(map(repr, LAYOUTS))}")
    pairs = wanted(attention, at)
    held = getattr(model, CONTAINER, None)
    if held is not None and not isinstance(held, Insertions):
        raise UserError(
            f"{type(model).__name__} has an attribute {CONTAINER!r} of its own, where inserted attention would live: "
            "rename it"
        )
    table = places(model, example, layout=layout)
    occupied = {(placed.place, placed.slot) for placed in held.placed()} if held else set()
    modules = dict(model.named_modules())
    built: list[Placed] = []
    for where, makers in pairs:
        chosen = table.choose(where)
        for place in chosen:
            if (place.path, place.slot) in occupied:
                raise UserError(
                    f"{str(place)!r} has attention already: remove(model) first, or give all mechanisms of a place in "
                    "one list"
                )
            occupied.add((place.path, place.slot))
            turns = range(place.calls) if calls == "separate" and place.calls > 1 else (None,)
            built += [build(place, makers, modules[place.path], start, turn) for turn in turns]

    container = held or Insertions()
    container.train(model.training)
    taken = {name for name, _ in container.named_children()}
    for placed in built:
        host = modules[placed.host]
        container.add_module(unique(_name(placed), taken), placed.train(host.training))
        placed.attach(host)
    if held is None:
        model.add_module(CONTAINER, container)
        model.register_forward_pre_hook(container.begin)
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take all inserted attention out of a model, in place: it is then what it was before the first insertion.

    Returns:
        The same model.

    Raises:
        UserError: nothing was inserted.
    """
    insertions = _insertions(model)
    for placed in insertions.placed():
        for module in model.modules():
            if placed.is_attached(module):
                placed.detach(module)
    insertions.leave(model)
    delattr(model, CONTAINER)
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
        UserError: nothing was inserted.
    """
    inserted = list(_insertions(model).parameters())
    new = {id(parameter) for parameter in inserted}
    backbone = [parameter for parameter in model.parameters() if id(parameter) not in new]
    groups: list[dict[str, Any]] = [{"name": "inserted", "params": inserted, "lr": new_lr}]
    if lr is None:
        for parameter in backbone:
            parameter.requires_grad_(False)
        return groups
    return [{"name": "backbone", "params": backbone, "lr": lr}, *groups]


def _name(placed: Placed) -> str:
    parts = [placed.place.replace(".", "_") or "model"]
    if placed.slot.side == "input":
        parts += ["input", *(str(step) for step in placed.slot.key if step != 0)]
    if placed.turn is not None:
        parts.append(f"call{placed.turn + 1}")
    return "_".join(parts)


def _insertions(model: nn.Module) -> Insertions:
    container = getattr(model, CONTAINER, None)
    if not isinstance(container, Insertions):
        raise UserError(f"{type(model).__name__} has no inserted attention: put some in with regard.insert")
    return container


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
