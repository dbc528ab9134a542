"""Where attention can go in a model, found by its structure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Literal, cast, overload

import torch
from torch import nn

from regard.placing.tracing import Call, Mark, trace
from regard.running import Example, inputs_of

CONTAINER = "regard"
"""The name under which a model holds its inserted attention."""

Role = Literal["stem", "stage", "block", "branch", "pool"]
ROLES: tuple[Role, ...] = ("stem", "stage", "block", "branch", "pool")

PlaceLayout = Literal["BCL", "BCHW", "BHWC", "BCDHW", "BNC"]
LAYOUTS: dict[PlaceLayout, tuple[int, int]] = {
    "BCL": (3, 1),
    "BCHW": (4, 1),
    "BHWC": (4, 3),
    "BCDHW": (5, 1),
    "BNC": (3, 2),
}
"""The layouts of a place, each with its number of axes and the one that holds the channels."""


@dataclass(frozen=True)
class Place:
    """One tensor of a model that attention can refine.

    Attributes:
        path: the module whose output it is (or whose input, see `side`).
        role: `"stem"`, `"stage"`, `"block"` (after the addition), `"branch"` (inside a residual block, before the
            addition), `"pool"` (what enters global pooling), or None for any other module.
        shape: its shape in the run on the example.
        layout: `"BCHW"`, `"BHWC"`, `"BCL"`, `"BCDHW"` or `"BNC"` (tokens).
        channels: its channel count.
        calls: how often one forward of the model calls the module; all its calls share what is inserted.
        side: `"output"`, or `"input"` of the module, which is where global pooling takes its map from.
        extra_tokens: of tokens, how many at the front are no positions (a class token, registers).
        dtype, device: of the tensor.
    """

    path: str
    role: Role | None
    shape: tuple[int, ...]
    layout: PlaceLayout
    channels: int
    calls: int = 1
    side: Literal["output", "input"] = "output"
    extra_tokens: int = 0
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))


class PlaceTable(Sequence[Place]):
    """All places of a model, in its order. Printed, it shows those that have a role.

    Attributes:
        refused: the modules that are no place, each with the reason.
    """

    def __init__(self, places: Sequence[Place], refused: dict[str, str]) -> None:
        self._places = tuple(places)
        self.refused = refused

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | Sequence[Place]:
        return self._places[index]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def of(self, role: Role) -> list[Place]:
        """The places with this role."""
        return [place for place in self._places if place.role == role]

    def roles(self) -> dict[Role, int]:
        """The roles that this model has, each with how many places have it."""
        counts = Counter(place.role for place in self._places)
        return {role: counts[role] for role in ROLES if counts[role]}

    def __str__(self) -> str:
        shown = [place for place in self._places if place.role]
        rows = [("path", "role", "shape", "layout", "channels", "calls")]
        for place in shown:
            path = place.path if place.side == "output" else f"{place.path} (input)"
            shape = "×".join(map(str, place.shape))
            rows.append((path, str(place.role), shape, place.layout, str(place.channels), str(place.calls)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(f"and {len(self._places) - len(shown)} more modules by path")
        return "\n".join(lines)

    def __repr__(self) -> str:
        roles = ", ".join(f"{count} {role}" for role, count in self.roles().items())
        return f"PlaceTable({len(self._places)} places: {roles or 'none with a role'})"


def places(model: nn.Module, example: Example = None, *, layout: Literal["auto"] | PlaceLayout = "auto") -> PlaceTable:
    """Where attention can go in a model: runs it once and tells which tensors can be refined.

    The model is run in evaluation mode without gradients; its modes, hooks and buffers and the random state are
    afterwards as before. Roles are found by what the forward does, not by names: a residual block is a module that adds
    two tensors which come through different numbers of layers; its branch is the deeper of the two.

    Args:
        model: any module.
        example: what to run it on: a tensor, a tuple of inputs, a dict of named inputs, a shape; None for the input
            size that a timm model knows.
        layout: the layout of all tensors of its rank, where the model's operations do not show it; default: found.

    Raises:
        UserError: there is no example and the model knows no input size.
    """
    calls = [call for call in trace(model, inputs_of(model, example)) if not _inserted(call.path)]
    return _Reader(model, calls, layout).read()


def _inserted(path: str) -> bool:
    return path == CONTAINER or path.startswith(CONTAINER + ".")


def _inside(path: str, outer: str) -> bool:
    return path.startswith(outer + ".")


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


class _Reader:
    """Reads roles from the calls of one run."""

    def __init__(self, model: nn.Module, calls: list[Call], layout: str) -> None:
        self.calls = calls
        self.modules = dict(model.named_modules())
        self.layout = layout
        self.by_path: dict[str, list[Call]] = {}
        for call in calls:
            self.by_path.setdefault(call.path, []).append(call)
        self.feature_paths = self._feature_paths(model)
        prefix = getattr(model, "num_prefix_tokens", 0)
        self.extra_tokens = prefix if isinstance(prefix, int) else 0

    def read(self) -> PlaceTable:
        blocks = self.blocks()
        stages = self.stages(blocks)
        roles: dict[tuple[str, Literal["output", "input"]], Role] = {}
        stem = self.stem(stages) or self.stem(blocks)
        if stem:
            roles[stem, "output"] = "stem"
        for path in self.branches(blocks):
            roles[path, "output"] = "branch"
        for path in blocks:
            roles[path, "output"] = "block"
        for path in stages:
            roles[path, "output"] = "stage"
        pool = self.pool(blocks)
        if pool and pool not in roles:
            roles[pool] = "pool"
        found: list[Place] = []
        refused: dict[str, str] = {}
        for path in self.modules:
            if path == "" or _inserted(path):
                continue
            for side in ("input", "output"):
                role = roles.get((path, side))
                if side == "input" and role is None:
                    continue
                place = self.place(path, role, side)
                if isinstance(place, Place):
                    found.append(place)
                else:
                    refused[path] = place
        if pool and roles.get(pool) != "pool":  # the last stage or block is what enters pooling: one tensor, two roles
            place = self.place(pool[0], "pool", pool[1])
            if isinstance(place, Place):
                found.append(place)
        return PlaceTable(found, refused)

    def place(self, path: str, role: Role | None, side: Literal["output", "input"]) -> Place | str:
        """The place at a module, or why it is none."""
        calls = self.by_path.get(path, [])
        if not calls:
            return "is never called in one forward of the model"
        marks = [call.output if side == "output" else call.given for call in calls]
        first = marks[0]
        if first is None or any(mark is None for mark in marks):
            return "does not give one tensor"
        if not first.dtype.is_floating_point:
            return f"gives a tensor of {first.dtype}, which attention cannot refine"
        layouts: set[PlaceLayout | None] = {self.layout_of(mark) for mark in marks if mark}
        layout = layouts.pop()
        if layouts:
            return "gives tensors of another layout in each of its calls"
        if layout is None and len(first.shape) in (3, 4, 5):
            return (
                f"gives a tensor of shape {first.shape} whose channels could not be told apart; "
                "say which axis they are with layout=, one of " + ", ".join(LAYOUTS)
            )
        if layout is None:
            return f"gives a tensor of shape {first.shape}, neither a map nor tokens"
        channels = {mark.shape[LAYOUTS[layout][1]] for mark in marks if mark}
        if len(channels) > 1:
            return f"gives {', '.join(map(str, sorted(channels)))} channels in its several calls, not one number"
        return Place(
            path=path,
            role=role,
            shape=first.shape,
            layout=layout,
            channels=channels.pop(),
            calls=len(calls),
            side=side,
            extra_tokens=self.extra_tokens if layout == "BNC" else 0,
            dtype=first.dtype,
            device=first.device,
        )

    def layout_of(self, mark: Mark | None) -> PlaceLayout | None:
        if mark is None:
            return None
        rank = len(mark.shape)
        if self.layout in LAYOUTS and LAYOUTS[cast(PlaceLayout, self.layout)][0] == rank:
            return cast(PlaceLayout, self.layout)
        return next((name for name, facts in LAYOUTS.items() if facts == (rank, mark.channel)), None)

    def blocks(self) -> list[str]:
        """Residual modules and others of their types; in a model without any, repeated composite children."""
        residual = {call.path for call in self.calls if call.branches and call.path}
        groups = {path for path in residual if self._holds_groups_of(residual, path)}
        residual -= groups
        types = {type(self.modules[path]) for path in residual} - {nn.Sequential}
        chosen = residual | {path for path in self.by_path if path and type(self.modules[path]) in types}
        chosen -= groups
        if not chosen:
            chosen = self._repeated()
        outermost = {path for path in chosen if not any(_inside(path, other) for other in chosen)}
        return [path for path in self.modules if path in outermost]

    def _holds_groups_of(self, residual: set[str], path: str) -> bool:
        inner = [other for other in residual if _inside(other, path)]
        return sum(isinstance(self.modules[_parent(other)], (nn.Sequential, nn.ModuleList)) for other in inner) > 1

    def _repeated(self) -> set[str]:
        chosen: set[str] = set()
        for path, module in self.modules.items():
            if not isinstance(module, (nn.Sequential, nn.ModuleList)) or _inserted(path):
                continue
            children = {f"{path}.{name}" if path else name: child for name, child in module.named_children()}
            called = {p: child for p, child in children.items() if p in self.by_path and not _inserted(p)}
            counts = Counter(type(child) for child in called.values())
            for child_path, child in called.items():
                layers = sum(any(True for _ in inner.parameters(recurse=False)) for inner in child.modules())
                if layers > 1 and counts[type(child)] > 1:
                    chosen.add(child_path)
        return chosen

    def stages(self, blocks: list[str]) -> list[str]:
        """The feature modules that a timm model names, else the modules that directly hold blocks."""
        holding = [path for path in self.feature_paths if any(_inside(block, path) for block in blocks)]
        if holding:
            alike = {(_parent(path), type(self.modules[path])) for path in holding}
            chosen = {path for path in self.feature_paths if (_parent(path), type(self.modules[path])) in alike}
        else:
            chosen = {_parent(block) for block in blocks} & self.by_path.keys() - {""}
        return [path for path in self.modules if path in chosen]

    def _feature_paths(self, model: nn.Module) -> list[str]:
        info = getattr(model, "feature_info", None)
        listed = getattr(info, "info", info)
        if not isinstance(listed, (list, tuple)):
            return []
        named = [entry.get("module") for entry in listed if isinstance(entry, dict)]
        return [path for path in named if path in self.by_path]

    def stem(self, later: list[str]) -> str | None:
        """The last module that has ended when the first stage begins."""
        starts = [call.began for path in later for call in self.by_path[path]]
        if not starts:
            return None
        first = min(starts)
        before = [call for call in self.calls if call.ended < first and self.layout_of(call.output)]
        return before[-1].path if before else None

    def branches(self, blocks: list[str]) -> list[str]:
        """In each block, the modules whose output enters an addition as the deeper operand."""
        found: list[str] = []
        for path in blocks:
            for block in self.by_path.get(path, []):
                children = [call for call in self.calls if call.parent is block and call.output]
                for operand in block.branches:
                    if block.output is None or prod(operand.shape) != prod(block.output.shape):
                        continue  # an addition among the parts of a split, as in Res2Net
                    branch = self._producer(operand, children)
                    if branch and branch not in found:
                        found.append(branch)
        return found

    def _producer(self, operand: Mark, children: list[Call]) -> str | None:
        """The child with parameters that an operand comes from; stochastic depth and its like have none.

        Only what is no layer (a scale, a permutation, dropout) may lie between the two.
        """
        fallback: str | None = None
        mark: Mark | None = operand
        while mark is not None and mark.depth == operand.depth:
            for child in children:
                if child.output is mark and self.layout_of(mark) and mark.shape[0] == operand.shape[0]:
                    if any(True for _ in self.modules[child.path].parameters()):
                        return child.path
                    fallback = fallback or child.path
            mark = max(mark.sources, key=lambda source: -1 if source.depth is None else source.depth, default=None)
        return fallback

    def pool(self, blocks: list[str]) -> tuple[str, Literal["output", "input"]] | None:
        """The module that pools globally, by its input; without one, the last map or tokens before the first vector."""
        inner = [call for path in blocks for call in self.by_path.get(path, [])]
        last_block = max((call.ended for call in inner), default=-1)
        pools = [call for call in self.calls if call.path and call.began > last_block and self._pools(call)]
        outermost = [call for call in pools if call.parent is None or not self._pools(call.parent)]
        reducing = [call for call in outermost if call.given and max(call.given.shape[2:]) > 1] or outermost
        if reducing:
            return reducing[0 if blocks else -1].path, "input"
        vectors = [call for call in self.calls if call.output and len(call.output.shape) == 2]
        if not vectors:
            return None
        maps = [
            call
            for call in self.calls
            if call.path and call.ended < vectors[0].began and self.layout_of(call.output) is not None
        ]
        if not maps:
            return None
        last = maps[-1]
        same = [call for call in maps if call.output is last.output]
        while last.parent and last.parent.path and last.parent in same:
            last = last.parent
        return last.path, "output"

    def _pools(self, call: Call) -> bool:
        module = self.modules[call.path]
        given, output = call.given, call.output
        if any(True for _ in module.parameters()) or given is None or output is None or not self.layout_of(given):
            return False
        if len(output.shape) == 2:
            return True
        if len(output.shape) != len(given.shape) or any(size != 1 for size in output.shape[2:]):
            return False
        adaptive = any("Adaptive" in type(inner).__name__ for inner in module.modules())
        return adaptive or any(size > 1 for size in given.shape[2:])
