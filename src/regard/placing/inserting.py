"""Putting attention into a model that is already there, and taking it out again."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from regard.attention import OnMap, mechanisms
from regard.attention.catalogue import get
from regard.attention.contract import Attention, Refine
from regard.errors import UserError
from regard.paths import is_pattern, matches, nearest
from regard.placing.places import CONTAINER, LAYOUTS, ROLES, Place, PlaceLayout, PlaceTable, Role, places
from regard.running import Example

Maker = str | type[nn.Module] | Callable[[int], nn.Module]
"""A mechanism: its name, its class, or a function from the channel count to one."""

Where = str | Callable[[Place], bool]
"""Where to put it: a role, `"stage3"`, a path, a glob of paths, or a test of a `Place`."""

Start = Literal["identity", "paper"]


class Placed(nn.Module):
    """The attention at one place of a model: `y + strength · (attention(y) - y)`, or `attention(y)` without a strength.

    Args:
        place: the place that it refines.
        attention: the mechanisms that are applied in order.
        start: `"identity"` for a learned `strength` that starts at zero, `"paper"` for none.

    Attributes:
        place: the path of the module whose output (or, with `side` `"input"`, input) it refines.
        extra_tokens: how many tokens at the front are no positions.
    """

    strength: Tensor | None

    def __init__(self, place: Place, attention: nn.Sequential, start: Start) -> None:
        super().__init__()
        self.place = place.path
        self.side = place.side
        self.extra_tokens = place.extra_tokens
        self.channels_at_end = place.layout == "BHWC"
        self.attention = attention
        strength = nn.Parameter(torch.zeros((), dtype=place.dtype, device=place.device))
        self.register_parameter("strength", strength if start == "identity" else None)

    def forward(self, y: Tensor) -> Tensor:
        x = y.movedim(-1, 1) if self.channels_at_end else y
        x = self.attention(x)
        x = (x.movedim(1, -1) if self.channels_at_end else x).to(y.dtype)
        return x if self.strength is None else y + self.strength * (x - y)

    # `Any`: the signatures of torch's hooks.
    def after(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        """Forward hook of the host: refine its output."""
        return self(output)

    def before(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook of the host: refine its first input."""
        return (self(given[0]), *given[1:])

    def extra_repr(self) -> str:
        return f"{self.side} of {self.place}"


class Insertions(nn.Module):
    """All attention that was inserted into a model. Its forward is the identity: a root `nn.Sequential` runs it too."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def placed(self) -> list[Placed]:
        """The attention at each place, in the order of insertion."""
        return [module for module in self.children() if isinstance(module, Placed)]

    # `Any`: the signature of torch's own method.
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any) -> None:
        if not any(key.startswith(prefix) for key in state_dict):  # a checkpoint of the plain model
            state_dict.update({prefix + key: value for key, value in self.state_dict(keep_vars=True).items()})
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)


def insert(
    model: nn.Module,
    attention: Maker | Sequence[Maker],
    at: Where | Sequence[Where] = "block",
    *,
    start: Start = "identity",
    layout: Literal["auto"] | PlaceLayout = "auto",
    example: Example = None,
) -> nn.Module:
    """Put attention into a model, in place, without touching what the model has and knows.

    The model's modules, parameter names and values stay; everything new lies under `model.regard`. A checkpoint of the
    plain model loads into the attended one, strictly; the plain model loads an attended checkpoint with `strict=False`.

        insert(timm.create_model("resnet50", pretrained=True), "se", at="branch")
        insert(model, ["se", partial(MultiHeadSelfAttention, heads=4)], at=["layer3.*.conv2", "stage4"], example=image)

    With `start="identity"` attention enters as `y + strength · (attention(y) - y)`, one scalar `strength` a place that
    starts at zero: right after insertion the model gives exactly what it gave before. The first training step has a
    gradient for `strength` alone; from the second on all new parameters have one.

    Args:
        model: any module; with several places that share a module, all its calls share the attention.
        attention: a mechanism's name, its class, or a function from the channel count to a module; a list is applied in
            order at each place. In this version a `Refine`.
        at: a role (`"stem"`, `"stage"`, `"block"`, `"branch"`, `"pool"`), one stage (`"stage3"`, counted from 1), a
            path, a glob of paths (`"layer3.*.conv2"`, `"bn?"` at any depth; see `regard.paths.matches`), or a test of a
            `Place`; a list is the union.
        start: `"identity"` or, for the published initialisation, `"paper"`: `attention(y)` alone.
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
    if layout != "auto" and layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}: it is 'auto', {', '.join(map(repr, LAYOUTS))}")
    makers = list(attention) if isinstance(attention, (list, tuple)) else [cast(Maker, attention)]
    if not makers:
        raise UserError("no attention was given: give a mechanism's name, or a list of at least one")
    resolved = [_resolve(maker) for maker in makers]
    held = getattr(model, CONTAINER, None)
    if held is not None and not isinstance(held, Insertions):
        raise UserError(
            f"{type(model).__name__} has an attribute {CONTAINER!r} of its own, where inserted attention would live: "
            "rename it"
        )
    chosen = _choose(places(model, example, layout=layout), at)
    occupied = {(placed.place, placed.side) for placed in held.placed()} if held else set()
    for place in chosen:
        if (place.path, place.side) in occupied:
            raise UserError(
                f"{place.path!r} has attention already: remove(model) first, or give all mechanisms of a place in one "
                "list"
            )
    built = [Placed(place, _build(place, resolved), start) for place in chosen]

    container = held or Insertions()
    container.train(model.training)
    taken = {name for name, _ in container.named_children()}
    modules = dict(model.named_modules())
    for place, placed in zip(chosen, built, strict=True):
        host = modules[place.path]
        name = _unique(place.path.replace(".", "_") + ("_input" if place.side == "input" else ""), taken)
        container.add_module(name, placed.train(host.training))
        if place.side == "input":
            host.register_forward_pre_hook(placed.before)
        else:
            host.register_forward_hook(placed.after)
    if held is None:
        model.add_module(CONTAINER, container)
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take all inserted attention out of a model, in place: it is then what it was before the first insertion.

    Returns:
        The same model.

    Raises:
        UserError: nothing was inserted.
    """
    placed = {id(module) for module in _insertions(model).placed()}
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if id(getattr(hook, "__self__", None)) in placed]:
                del hooks[key]
    delattr(model, CONTAINER)
    return model


def parameter_groups(model: nn.Module, lr: float, new_lr: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: what the model had, and what was inserted, each with its learning rate.

        torch.optim.AdamW(parameter_groups(model, lr=1e-5, new_lr=1e-3))

    Raises:
        UserError: nothing was inserted.
    """
    inserted = list(_insertions(model).parameters())
    new = {id(parameter) for parameter in inserted}
    backbone = [parameter for parameter in model.parameters() if id(parameter) not in new]
    return [
        {"name": "backbone", "params": backbone, "lr": lr},
        {"name": "inserted", "params": inserted, "lr": new_lr},
    ]


def _insertions(model: nn.Module) -> Insertions:
    container = getattr(model, CONTAINER, None)
    if not isinstance(container, Insertions):
        raise UserError(f"{type(model).__name__} has no inserted attention: put some in with regard.insert")
    return container


def _refuse_wrapped(model: nn.Module) -> None:
    if hasattr(model, "_orig_mod"):
        raise UserError("the model is compiled, which ignores hooks added afterwards: insert first, then torch.compile")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise UserError(f"the model is wrapped in {type(model).__name__}: insert into the model first, then wrap it")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("the model is TorchScript, which takes no hooks: insert into the Python model first")


def _refinements() -> str:
    return ", ".join(sorted(name for name, kind in mechanisms.items() if issubclass(kind, Refine)))


def _resolve(maker: Maker) -> Callable[[int], nn.Module]:
    if isinstance(maker, str):
        maker = get(maker)
    if isinstance(maker, nn.Module):
        raise UserError(
            f"a {type(maker).__name__} that is built already cannot be inserted, since each place has its own "
            "channels: give its name, its class, or a function from the channel count to a module"
        )
    if not callable(maker):
        raise UserError(
            f"{maker!r} is no mechanism: give a name, a class, or a function from the channel count to a module"
        )
    if isinstance(maker, type):
        _require_refine(maker)
    return maker


def _require_refine(kind: type) -> None:
    if not issubclass(kind, Refine):
        what = f"a {kind.contract}" if issubclass(kind, Attention) else "no mechanism of regard"
        raise UserError(
            f"{getattr(kind, 'name', kind.__name__)!r} cannot be inserted: it is {what}, and only a Refine gives the "
            f"shape that it takes; those are {_refinements()}"
        )


def _build(place: Place, makers: list[Callable[[int], nn.Module]]) -> nn.Sequential:
    attention = nn.Sequential()
    taken: set[str] = set()
    for maker in makers:
        made = maker(place.channels)
        refine = made.refine if isinstance(made, OnMap) else made
        _require_refine(type(refine))
        refine = cast(Refine, refine)
        attention.add_module(_unique(refine.name, taken), _fit(refine, place))
    return attention.to(device=place.device, dtype=place.dtype)


def _fit(module: Refine, place: Place) -> nn.Module:
    """The module as it can stand at that place."""
    where = (
        f"{place.path!r} gives {'tokens' if place.layout == 'BNC' else 'a map'} of shape {place.shape} ({place.layout})"
    )
    if module.channels != place.channels:
        raise UserError(
            f"{where}, and {module.name!r} was built for {module.channels} channels: use the count that is given"
        )
    if module.layout == "tokens":
        return module if place.layout == "BNC" else OnMap(module)
    if place.layout == "BNC":
        raise UserError(
            f"{where}, and {module.name!r} refines maps (batch, channels, *spatial): place it where a map is"
        )
    if len(place.shape) - 2 not in module.spatial_ranks:
        ranks = " or ".join(map(str, module.spatial_ranks))
        raise UserError(f"{where}, and {module.name!r} takes {ranks} spatial axes")
    return module


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _choose(table: PlaceTable, at: Where | Sequence[Where]) -> list[Place]:
    wanted = list(at) if isinstance(at, (list, tuple)) else [cast(Where, at)]
    if not wanted:
        raise UserError("no place was given: give a role, a path, a glob of paths, or a test of a Place")
    chosen = {id(place) for where in wanted for place in _matching(table, where)}
    unique: dict[tuple[str, str], Place] = {}
    for place in table:
        if id(place) in chosen:
            unique.setdefault((place.path, place.side), place)
    return list(unique.values())


def _matching(table: PlaceTable, where: Where) -> list[Place]:
    if not isinstance(where, str):
        if not callable(where):
            raise UserError(f"{where!r} is no place: give a role, a path, a glob of paths, or a test of a Place")
        found = [place for place in table if where(place)]
    else:
        found = _of_role(table, where) or [
            place
            for place in table
            if place.side == "output" and (place.path == where or (is_pattern(where) and matches(place.path, where)))
        ]
    if not found:
        raise UserError(_no_place(table, where))
    return found


def _of_role(table: PlaceTable, where: str) -> list[Place]:
    if where in ROLES:
        return table.of(cast(Role, where))
    if where.startswith("stage") and where[5:].isdigit() and int(where[5:]) > 0:
        return table.of("stage")[int(where[5:]) - 1 : int(where[5:])]
    return []


def _no_place(table: PlaceTable, where: Where) -> str:
    roles = ", ".join(f"{role} ({count})" for role, count in table.roles().items()) or "no roles that were recognised"
    if not isinstance(where, str):
        return f"no place passes the test that was given: the model has {roles}, and {len(table)} places in all"
    if where in table.refused:
        return f"no attention can go to {where!r}: it {table.refused[where]}"
    paths = nearest(where, dict.fromkeys(place.path for place in table))
    close = f"; the nearest paths are {', '.join(paths)}" if paths else ""
    return f"no place {where!r} in this model: it has {roles}{close}"
