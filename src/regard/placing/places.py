"""Where attention can go in a model, found by its structure."""

from collections import Counter
from collections.abc import Iterable
from math import inf, prod
from typing import Literal, cast

from torch import nn

from regard.placing.place import CONTAINER, LAYOUTS, Place, PlaceLayout, PlaceTable, Role, Slot
from regard.placing.tracing import Call, Join, Key, Mark, Trace, trace
from regard.running import Example, Inputs, inputs_of, uncompiled

_MOST_EXTRA_TOKENS = 16
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def places(model: nn.Module, example: Example = None, *, layout: Literal["auto"] | PlaceLayout = "auto") -> PlaceTable:
    """Where attention can go in a model: runs it once and tells which tensors can be refined.

    The model is run in evaluation mode without gradients; its modes, hooks and buffers and the random state are
    afterwards as before. Roles are found by what the forward does, not by names: a residual block is a module that adds
    two tensors which come through different numbers of layers; its branch is the deeper of the two. A skip connection
    is where a tensor whose resolution was raised meets a shallower one; it is a place where a module is given the two,
    where a module takes their concatenation, or where a module of its own makes the shallower one.

    Args:
        model: any module.
        example: what to run it on: a tensor, a tuple of inputs, a dict of named inputs, a shape; None for the input
            size that a timm model knows.
        layout: the layout of all tensors of its rank, where the model's operations do not show it; default: found.

    Raises:
        UserError: there is no example and the model knows no input size.
    """
    model = uncompiled(model)
    return read_places(model, inputs_of(model, example), layout)


def read_places(model: nn.Module, inputs: Inputs, layout: str = "auto") -> PlaceTable:
    """Return where attention can go in a model, as `places`, by running it on these inputs."""
    return _Reader(model, trace(model, inputs), layout).read()


def _inserted(path: str) -> bool:
    return CONTAINER in path.split(".")


def _inside(path: str, outer: str) -> bool:
    return path.startswith(outer + ".")


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _ancestors(marks: Iterable[Mark]) -> set[int]:
    """What these were computed from, by `id`, with themselves; nothing if that does not lead back to the input."""
    found: set[int] = set()
    waiting = list(marks)
    reaches_input = False
    while waiting:
        mark = waiting.pop()
        if id(mark) not in found:
            found.add(id(mark))
            waiting.extend(mark.sources)
            reaches_input = reaches_input or mark.depth == 0
    return found if reaches_input else set()


class _Reader:
    """Reads roles from the calls of one run."""

    def __init__(self, model: nn.Module, told: Trace, layout: str) -> None:
        self.calls = [call for call in told.calls if not _inserted(call.path)]
        self.joins = told.joins
        self.modules = dict(model.named_modules())
        self.layout = layout
        self.by_path: dict[str, list[Call]] = {}
        for call in self.calls:
            self.by_path.setdefault(call.path, []).append(call)
        self.whole = self.by_path[""][-1]
        self.feature_paths = self._feature_paths(model)
        self.used = _ancestors(self.whole.outputs.values())
        prefix = getattr(model, "num_prefix_tokens", 0)
        self.extra_tokens = prefix if isinstance(prefix, int) else 0

    def read(self) -> PlaceTable:
        blocks = self.block_paths = self.blocks()
        stages = self.stages(blocks)
        roles: dict[str, Role] = {}
        stem = self.stem(stages) or self.stem(blocks)
        inner = [*blocks, stem or ""]  # what holds all of them is no stage but the trunk
        stages = [path for path in stages if not all(_inside(one, path) for one in inner)]
        if stem:
            roles[stem] = "stem"
        roles |= dict.fromkeys(self.branches(blocks), "branch")
        roles |= dict.fromkeys(blocks, "block")
        ends = self.last_of_each_resolution(blocks or self.layers()) if len(stages) < 2 else []
        roles |= dict.fromkeys([] if ends else stages, "stage")
        spots: dict[str, list[tuple[Role, Slot, Slot | None]]] = {}
        for path in ends:
            spots.setdefault(path, []).append(("stage", Slot(), None))
        for path, slot, partner, decoder in self.skips():
            spots.setdefault(path, []).append(("skip", slot, partner))
            if decoder and roles.get(decoder) != "stage":
                roles[decoder] = "decoder"
        for key, mark in self.whole.arguments.items():
            if self.layout_of(mark) and mark.dtype.is_floating_point:
                spots.setdefault("", []).append(("input", Slot("input", key), None))
        gives_map = self.whole.output is not None and self.layout_of(self.whole.output) not in (None, "BNC")
        if self._gives_vector() and (pool := self.pool(blocks)):
            spots.setdefault(pool[0], []).append(("pool", pool[1], None))
        found: list[Place] = []
        refused: dict[str, str] = {}
        for path in self.modules:
            if _inserted(path):
                continue
            spotted = [self.place(path, *spot) for spot in spots.get(path, [])]
            found += [place for place in spotted if isinstance(place, Place)]
            if path:
                place = self.place(path, roles.get(path), Slot())
                if not isinstance(place, Place):
                    refused[path] = place
                # What a module gives may have two roles: the last stage is also what enters pooling.
                elif place.role or not any(isinstance(one, Place) and one.side == "output" for one in spotted):
                    found.append(place)
        if gives_map and isinstance(output := self.place("", "output", Slot()), Place):
            found.append(output)
        return PlaceTable(found, refused, {path: role for path, role in roles.items() if path in refused})

    def place(self, path: str, role: Role | None, slot: Slot, partner: Slot | None = None) -> Place | str:
        """The place at a module, or why it is none."""
        calls = self.by_path.get(path, [])
        if not calls:
            return "is never called in one forward of the model"
        if slot.side == "output":
            keys = {call.output_key for call in calls}
            marks = [call.output for call in calls]
            slot = Slot("output", calls[0].output_key or (), slot.span)
        else:
            keys = {slot.key}
            marks = [call.arguments.get(slot.key) for call in calls]
        first = marks[0]
        if first is None or any(mark is None for mark in marks):
            several = [mark for mark in calls[0].outputs.values() if len(mark.shape) > 2]
            return f"gives {len(several)} tensors, not one" if len(several) > 1 else "does not give one tensor"
        if len(keys) > 1:
            return "gives its tensor in another place in each of its calls"
        if role and slot.side == "output" and not any(self._is_used(call) for call in calls):
            return "gives a tensor that no output of the model is computed from"
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
        axis = LAYOUTS[layout][1]
        channels = {mark.shape[axis] for mark in marks if mark}
        if len(channels) > 1:
            return f"gives {', '.join(map(str, sorted(channels)))} channels in its several calls, not one number"
        shape = list(first.shape)
        if slot.span:
            shape[axis] = slot.span[1] - slot.span[0]
        extra_tokens, grid = self._positions(first, layout)
        return Place(
            path=path,
            role=role,
            shape=tuple(shape),
            layout=layout,
            channels=shape[axis],
            calls=len(calls),
            slot=slot,
            partner=partner,
            hosts=self._hosts(path, slot),
            inputs=tuple((key, mark.shape) for key, mark in calls[0].arguments.items()),
            extra_tokens=extra_tokens,
            grid=grid,
            dtype=first.dtype,
            device=first.device,
            reaches=slot.side == "input" or any(self._is_used(call) for call in calls),
            convolution=self._is_replaceable(path),
        )

    def _is_replaceable(self, path: str) -> bool:
        """Return whether a module is a square convolution, larger than 1 x 1 and not dilated, inside a block."""
        module = self.modules[path]
        return (
            isinstance(module, nn.Conv2d)
            and len({*module.kernel_size}) == len({*module.stride}) == 1
            and module.kernel_size[0] > 1
            and module.dilation == (1, 1)
            and any(_inside(path, block) for block in self.block_paths)
        )

    def _is_used(self, call: Call) -> bool:
        """Whether what it gives is taken by an operation afterwards, and by way of it comes into an output."""
        mark = call.output
        if mark is None or not self.used:
            return True
        given = any(mark is other for other in self.whole.outputs.values())
        return id(mark) in self.used and (given or mark.uses > call.uses)

    def _hosts(self, path: str, slot: Slot) -> tuple[tuple[str, Slot], ...]:
        """Return the modules whose hooks reach the tensor at a slot, the preferred one first."""
        calls = self.by_path[path]
        if slot.side == "output":
            found = [(self._last_child(path), slot)]
            if len(calls) == 1 and (mark := calls[0].output):
                if path == "":  # what the model gives is also what a module of it gives
                    found = [*self._producers(mark, mark.uses), *found]
                found += self._consumers(mark, slot)
        else:
            found = [(path, slot)]
            if len(calls) == 1 and (mark := calls[0].arguments.get(slot.key)):
                inner = self._consumers(mark, slot)
                if (first := self._first_child(path, mark)) != path:
                    inner.append((first, Slot("input", (0,), slot.span)))
                found = [*inner, *found] if path == "" else [*found, *inner]
        return tuple(dict.fromkeys(found))

    def _producers(self, mark: Mark, uses: int) -> list[tuple[str, Slot]]:
        """Return the modules that give this very tensor, the innermost first, if nothing has taken it before `uses`."""
        after = max((call.began for call in self._passing(mark)), default=-1)
        makers = [
            call
            for call in self.calls
            if call.path and call.output is mark and len(self.by_path[call.path]) == 1 and call.ended > after
        ]
        return [(call.path, Slot("output", call.output_key or ())) for call in makers if call.uses == uses]

    def _consumers(self, mark: Mark, slot: Slot) -> list[tuple[str, Slot]]:
        """Return the modules that are given this very tensor, the innermost first, if it is used only once."""
        if mark.uses != 1:
            return []
        before = min((call.ended for call in self._passing(mark)), default=inf)
        return [
            (call.path, Slot("input", key, slot.span))
            for call in sorted(self.calls, key=lambda call: -call.began)
            for key, other in call.arguments.items()
            if other is mark
            and call.path
            and len(key) == 1
            and len(self.by_path[call.path]) == 1
            and call.began < before
        ]

    def _passing(self, mark: Mark) -> list[Call]:
        """Return the calls that give back the very tensor that they are given: in training they may change it."""
        return [
            call for call in self.calls if call.output is mark and any(one is mark for one in call.arguments.values())
        ]

    def _first_child(self, path: str, mark: Mark) -> str:
        """Return the innermost first child of a `nn.Sequential` that is given the very tensor that it is given."""
        module = self.modules[path]
        while type(module).forward is nn.Sequential.forward and len(list(module.children())):
            name, module = next(module.named_children())
            child = f"{path}.{name}" if path else name
            if [call.given for call in self.by_path.get(child, [])] != [mark]:
                break
            path = child
        return path

    def _last_child(self, path: str) -> str:
        """Return the innermost last child of a `nn.Sequential` that gives the very tensor that it gives."""
        module = self.modules[path]
        while type(module).forward is nn.Sequential.forward and len(list(module.children())):
            *_, (name, module) = module.named_children()
            child = f"{path}.{name}" if path else name
            given = [call.output for call in self.by_path.get(child, [])]
            if len(given) != len(self.by_path[path]) or any(
                mark is not call.output for mark, call in zip(given, self.by_path[path], strict=True)
            ):
                break
            path = child
        return path

    def _positions(self, mark: Mark, layout: PlaceLayout) -> tuple[int, tuple[int, ...] | None]:
        """The extra tokens and the grid: tokens are as many as the positions of the map that they were, and a few."""
        if layout != "BNC":
            axis = LAYOUTS[layout][1]
            return 0, tuple(size for index, size in enumerate(mark.shape) if index not in (0, axis))
        extra = mark.shape[1] - prod(mark.grid) if mark.grid else -1
        if mark.grid and 0 <= extra <= min(_MOST_EXTRA_TOKENS, prod(mark.grid)):
            return extra, mark.grid
        return min(self.extra_tokens, mark.shape[1]), None

    def _gives_vector(self) -> bool:
        """Whether the model gives one vector an image, or a map of one position."""
        return any(len(mark.shape) == 2 or set(mark.shape[2:]) == {1} for mark in self.whole.outputs.values())

    def skips(self) -> list[tuple[str, Slot, Slot | None, str | None]]:
        """Of each skip connection the module and slot, its partner's slot, and the module of the decoder's block."""
        found: dict[tuple[str, Slot], tuple[str, Slot, Slot | None, str | None]] = {}
        for join in self.joins:
            skip = (
                self._skip_argument(join, 1)
                or self._skip_channels(join)
                or self._skip_output(join)
                or self._skip_argument(join, 2)
            )
            if skip:
                found.setdefault(skip[:2], skip)
        return list(found.values())

    def _skip_argument(self, join: Join, depth: int) -> tuple[str, Slot, Slot, str] | None:
        """A module that is given the skip and the coarser tensor, as arguments or (`depth` 2) in a list of them."""
        call: Call | None = join.call
        while call and call.path and not _inserted(call.path):
            keys = {id(mark): key for key, mark in call.arguments.items() if len(key) <= depth}
            marks = {id(mark): mark for mark in call.arguments.values() if id(mark) in keys}
            skip = join.skip.origins(marks.values())
            coarse = join.coarse.origins(marks.values())
            if len(skip) == 1 and coarse and not skip & coarse:
                deepest = max(coarse, key=lambda one: marks[one].depth or 0)
                return call.path, Slot("input", keys[skip.pop()]), Slot("input", keys[deepest]), call.path
            call = call.parent
        return None

    def _skip_channels(self, join: Join) -> tuple[str, Slot, Slot, str] | None:
        """The module that takes the concatenation of the two."""
        consumer = self._consumer(join)
        if consumer is None or join.spans is None:
            return None
        path, key = consumer
        skip, coarse = join.spans
        return path, Slot("input", key, skip), Slot("input", key, coarse), path

    def _skip_output(self, join: Join) -> tuple[str, Slot, None, str | None] | None:
        """The module that makes the skip for this alone, as the lateral convolution of a feature pyramid."""
        makers = [call for call in self.calls if call.path and call.output is join.skip]
        consumer = self._consumer(join)
        if not makers or join.skip.uses != 1:
            return None
        return makers[-1].path, Slot(), None, consumer[0] if consumer else None

    def _consumer(self, join: Join) -> tuple[str, Key] | None:
        """The outermost module that is given the result, and where."""
        takers = [
            (call.began, call.path, key)
            for call in self.calls
            for key, mark in call.arguments.items()
            if mark is join.result and call.path
        ]
        return min(takers)[1:] if takers else None

    def layout_of(self, mark: Mark | None) -> PlaceLayout | None:
        if mark is None:
            return None
        rank = len(mark.shape)
        if self.layout in LAYOUTS and LAYOUTS[cast(PlaceLayout, self.layout)][0] == rank:
            return cast(PlaceLayout, self.layout)
        return next((name for name, facts in LAYOUTS.items() if facts == (rank, mark.channel)), None)

    def blocks(self) -> list[str]:
        """Residual modules and others of their types; in a model without any, repeated composite children."""
        adding = {call.path for call in self.calls if call.branches and call.path}
        groups = {path for path in adding if self._holds_groups_of(adding, path)}
        residual = {self._climbed(path, adding - groups) for path in adding - groups}
        types = {type(self.modules[path]) for path in residual} - {nn.Sequential}
        chosen = residual | {path for path in self.by_path if path and type(self.modules[path]) in types}
        chosen -= groups
        if not chosen:
            chosen = self._repeated()
        outermost = {path for path in chosen if not any(_inside(path, other) for other in chosen)}
        return [path for path in self.modules if path in outermost]

    def _holds_groups_of(self, residual: set[str], path: str) -> bool:
        inner = [other for other in residual if _inside(other, path)]
        return sum(self._is_listed(other) for other in inner) > 1

    def _is_listed(self, path: str) -> bool:
        return isinstance(self.modules[_parent(path)], _LISTS)

    def _climbed(self, path: str, adding: set[str]) -> str:
        """The block that a module which adds is a part of, as BERT's output layers are: of these it has one a type."""
        block = path
        while block and not self._is_listed(block):
            block = _parent(block)
        parts = [type(self.modules[other]) for other in adding if other == block or _inside(other, block)]
        return block if block and len(parts) == len(set(parts)) > 1 else path

    def _repeated(self) -> set[str]:
        """Composite modules of one type: children of one module, the larger ones of these; else anywhere."""
        return self._repeated_children() or self._repeated_anywhere()

    def _repeated_children(self) -> set[str]:
        chosen: set[str] = set()
        for path, module in self.modules.items():
            children = {f"{path}.{name}" if path else name: type(child) for name, child in module.named_children()}
            sizes = {child: self._layers(child) for child in children if self._gives_map(child)}
            counts = Counter(children[child] for child in sizes)
            sizes = {child: size for child, size in sizes.items() if size > 1 and counts[children[child]] > 1}
            chosen |= {child for child, size in sizes.items() if 2 * size >= max(sizes.values())}
        return chosen

    def _gives_map(self, path: str) -> bool:
        calls = self.by_path.get(path, [])
        return bool(calls) and self.layout_of(calls[0].output) is not None

    def _repeated_anywhere(self) -> set[str]:
        called = {path: type(self.modules[path]) for path in self.by_path if path and self._layers(path) > 1}
        counts = Counter(called.values())
        return {path for path, kind in called.items() if counts[kind] > 1 and kind not in _LISTS}

    def _layers(self, path: str) -> int:
        return sum(any(True for _ in inner.parameters(recurse=False)) for inner in self.modules[path].modules())

    def stages(self, blocks: list[str]) -> list[str]:
        """The feature modules that a timm model names, else the innermost called modules that hold blocks."""
        holding = [path for path in self.feature_paths if any(_inside(block, path) for block in blocks)]
        if holding:
            alike = {(_parent(path), type(self.modules[path])) for path in holding}
            chosen = {path for path in self.feature_paths if (_parent(path), type(self.modules[path])) in alike}
        else:
            chosen = {self._called_parent(block) for block in blocks} - {""}
        return [path for path in self.modules if path in chosen]

    def layers(self) -> list[str]:
        """In a model without blocks, the layers that make maps, in the order of calls, up to the global pooling."""
        leaves = [call for call in self.calls if call.path and not any(self.modules[call.path].children())]
        pools = [call.began for call in leaves if self._pools(call)]
        maps = {
            call.path: call.output.shape[2:]
            for call in leaves
            if call.output and prod(call.output.shape[2:]) > 1 and call.ended < min(pools, default=inf)
        }
        weighted = {sizes for path, sizes in maps.items() if any(True for _ in self.modules[path].parameters())}
        return [path for path, sizes in maps.items() if sizes in weighted]

    def _called_parent(self, path: str) -> str:
        path = _parent(path)
        while path and path not in self.by_path:
            path = _parent(path)
        return path

    def last_of_each_resolution(self, blocks: list[str]) -> list[str]:
        """The last block (or layer) of each resolution, of a trunk that holds all in one list; none of a single one."""
        last: dict[tuple[int, ...], str] = {}
        for path in blocks:
            mark = self.by_path[path][0].output
            if mark is not None and (layout := self.layout_of(mark)):
                last[self._positions(mark, layout)[1] or ()] = path
        return list(last.values()) if len(last) > 1 else []

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
            own = [call for call in self.by_path.get(path, []) if call.branches]
            for block in own or [call for call in self.calls if call.branches and _inside(call.path, path)]:
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

    def pool(self, blocks: list[str]) -> tuple[str, Slot] | None:
        """The module that pools globally, by its input; without one, the last map or tokens before the first vector."""
        inner = [call for path in blocks for call in self.by_path.get(path, [])]
        last_block = max((call.ended for call in inner), default=-1)
        pools = [call for call in self.calls if call.path and call.began > last_block and self._pools(call)]
        outermost = [call for call in pools if call.parent is None or not self._pools(call.parent)]
        reducing = [call for call in outermost if call.given and max(call.given.shape[2:]) > 1] or outermost
        if reducing:
            pooling = reducing[0 if blocks else -1]
            return pooling.path, Slot("input", next(iter(pooling.arguments)))
        seen = [mark for call in self.calls for mark in (*call.arguments.values(), *call.outputs.values())]
        vectors = list({id(mark): mark for mark in seen if len(mark.shape) == 2}.values())
        maps = [call for call in self.calls if call.path and self._becomes_one_of(vectors, call.output)]
        if not maps:
            return None
        last = maps[-1]
        same = [call for call in maps if call.output is last.output]
        while last.parent and last.parent.path and last.parent in same:
            last = last.parent
        return last.path, Slot()

    def _becomes_one_of(self, vectors: list[Mark], mark: Mark | None) -> bool:
        """Whether a vector of as many samples and channels comes from a map or tokens, with at most a norm between."""
        layout = self.layout_of(mark)
        if mark is None or layout is None:
            return False
        same = (mark.shape[0], mark.shape[LAYOUTS[layout][1]])
        depths = (mark.depth, (mark.depth or 0) + 1)
        return any(one.shape == same and one.depth in depths and one.origins([mark]) for one in vectors)

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
