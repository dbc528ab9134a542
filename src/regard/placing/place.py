"""A place of a model where attention can go, and the table of all of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast, get_args, overload

import torch

from regard.attention.contract import Role
from regard.errors import UserError
from regard.paths import is_pattern, matches, nearest
from regard.placing.tracing import Key

CONTAINER = "regard"
"""The name under which a model holds its inserted attention."""

ROLES: tuple[Role, ...] = get_args(Role)

CONVOLUTION, LAST_STAGE = "convolution", "last_stage"
"""Further names of places, beside the roles: the convolutions that a `Convolve` replaces by default, the last stage."""

_COUNTED: tuple[Role, ...] = ("stage", "skip", "decoder")

PlaceLayout = Literal["BCL", "BCHW", "BHWC", "BCDHW", "BDHWC", "BNC"]
LAYOUTS: dict[PlaceLayout, tuple[int, int]] = {
    "BCL": (3, 1),
    "BCHW": (4, 1),
    "BHWC": (4, 3),
    "BCDHW": (5, 1),
    "BDHWC": (5, 4),
    "BNC": (3, 2),
}
"""The layouts of a place, each with its number of axes and the one that holds the channels."""


@dataclass(frozen=True)
class Slot:
    """Where at a module a tensor stands.

    Attributes:
        side: among what the module is given (`"input"`) or what it gives (`"output"`).
        key: which of it: `()` for an output that is one tensor, `(0,)` or `("skip",)` for an argument, `(0, 2)` for
            what stands in a list.
        span: which of its channels, from and up to; None for all.
    """

    side: Literal["output", "input"] = "output"
    key: Key = ()
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Place:
    """One tensor of a model that attention can refine.

    Attributes:
        path: the module at which it is, `""` for the model itself.
        role: `"input"` of the model, `"stem"`, `"stage"`, `"block"` (after the addition), `"branch"` (inside a residual
            block, before the addition), `"skip"` (from encoder to decoder), `"decoder"` (a block of it), `"pool"` (what
            enters global pooling), `"output"` of the model where that is a map or tokens, or None for any other module.
        shape: its shape in the run on the example.
        layout: `"BCHW"`, `"BHWC"`, `"BCL"`, `"BCDHW"`, `"BDHWC"` or `"BNC"` (tokens).
        channels: its channel count.
        calls: how often one forward of the model calls the module.
        slot: where at the module it stands; its output, if nothing else is said.
        partner: of a skip, where the coarser tensor stands that it meets, None where the module is not given it.
        hosts: the modules whose hooks reach it, the preferred one first, each with the slot at which it has the tensor:
            the last one of a `nn.Sequential`, which gives the same tensor, since some callers (gradient checkpointing)
            call the children alone; else the module of `path`; then others through which the same tensor passes.
        inputs: the shapes of the tensors that the module is given, and where each stands.
        extra_tokens: of tokens, how many at the front are no positions (a class token, registers).
        grid: of a map its spatial sizes, of tokens those of the map that they are, None if that cannot be told.
        dtype, device: of the tensor.
        reaches: whether an output of the model is computed from it, as far as the operations show.
        convolution: whether the module is a square two-dimensional convolution larger than 1 x 1, without dilation, in
            a block: those that a `Convolve` replaces by default.
    """

    path: str
    role: Role | None
    shape: tuple[int, ...]
    layout: PlaceLayout
    channels: int
    calls: int = 1
    slot: Slot = Slot()
    partner: Slot | None = None
    hosts: tuple[tuple[str, Slot], ...] = ()
    inputs: tuple[tuple[Key, tuple[int, ...]], ...] = ()
    extra_tokens: int = 0
    grid: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    reaches: bool = True
    convolution: bool = False

    @property
    def side(self) -> Literal["output", "input"]:
        """Whether it is among what the module is given, or what it gives."""
        return self.slot.side

    @property
    def resolution(self) -> str:
        """Its grid and, of tokens, what there is beside it: `"14×14"`, `"14×14 + 1"`."""
        positions = "×".join(map(str, self.grid)) if self.grid else str(self.shape[1] - self.extra_tokens)
        return f"{positions} + {self.extra_tokens}" if self.extra_tokens else positions

    def __str__(self) -> str:
        name = self.path or "the model"
        what = "" if self.slot.key in ((), (0,)) else " " + ".".join(map(str, self.slot.key))
        span = "" if self.slot.span is None else " channels {}..{}".format(*self.slot.span)
        return f"{name} (input{what}{span})" if self.side == "input" else name


Where = str | Callable[[Place], bool]
"""Where to put attention: a role, `"stage3"` or `"skip1"`, a path, a glob of paths, or a test of a `Place`."""


class PlaceTable(Sequence[Place]):
    """All places of a model, in its order. Printed, it shows those that have a role.

    Attributes:
        refused: the modules that are no place, each with the reason.
        roles_refused: of them, those that a role was meant for.
    """

    def __init__(
        self, places: Sequence[Place], refused: dict[str, str], roles_refused: Mapping[str, Role] | None = None
    ) -> None:
        self._places = tuple(places)
        self.refused = refused
        self.roles_refused = dict(roles_refused or {})

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

    def has(self, role: str) -> bool:
        """Return whether there is a place with this role."""
        return bool(self._of_role(role))

    def choose(self, at: Where | Sequence[Where]) -> list[Place]:
        """The places that are meant, in the table's order; one tensor is one place, whatever its roles.

        Raises:
            UserError: there is no such place; the message names the nearest paths, or says why it is none.
        """
        wanted = list(at) if isinstance(at, (list, tuple)) else [cast(Where, at)]
        if not wanted:
            raise UserError("no place was given: give a role, a path, a glob of paths, or a test of a Place")
        chosen = {id(place) for where in wanted for place in self._matching(where)}
        unique: dict[tuple[str, Slot], Place] = {}
        for place in self:
            if id(place) in chosen:
                unique.setdefault((place.path, place.slot), place)
        return list(unique.values())

    def _matching(self, where: Where) -> list[Place]:
        if not isinstance(where, str):
            if not callable(where):
                raise UserError(f"{where!r} is no place: give a role, a path, a glob of paths, or a test of a Place")
            found = [place for place in self if where(place)]
        else:
            found = self._of_role(where) or [
                place
                for place in self
                if place.path
                and place.side == "output"
                and (place.path == where or (is_pattern(where) and matches(place.path, where)))
            ]
        if not found:
            raise UserError(self._missing(where))
        return found

    def _of_role(self, where: str) -> list[Place]:
        if where in ROLES:
            return self.of(cast(Role, where))
        if where == CONVOLUTION:
            return [place for place in self if place.convolution]
        if where == LAST_STAGE:
            return self.of("stage")[-1:]
        for role in _COUNTED:
            number = where.removeprefix(role)
            if number != where and number.isdigit() and int(number) > 0:
                return self.of(role)[int(number) - 1 : int(number)]
        return []

    def _missing(self, where: Where) -> str:
        roles = (
            ", ".join(f"{role} ({count})" for role, count in self.roles().items()) or "no roles that were recognised"
        )
        if not isinstance(where, str):
            return f"no place passes the test that was given: the model has {roles}, and {len(self)} places in all"
        if where in self.refused:
            return f"no attention can go to {where!r}: it {self.refused[where]}"
        meant = [path for path, role in self.roles_refused.items() if role == where]
        if meant:
            listed = ", ".join(meant[:3]) + (f" and {len(meant) - 3} more" if len(meant) > 3 else "")
            return f"no attention can go to {where!r} in this model, which is {listed}: each {self.refused[meant[0]]}"
        paths = nearest(where, dict.fromkeys(place.path for place in self if place.path))
        close = f"; the nearest paths are {', '.join(paths)}" if paths else ""
        return f"no place {where!r} in this model: it has {roles}{close}"

    def __str__(self) -> str:
        shown = [place for place in self._places if place.role]
        rows = [("path", "role", "layout", "channels", "resolution", "calls")]
        for place in shown:
            rows.append(
                (str(place), str(place.role), place.layout, str(place.channels), place.resolution, str(place.calls))
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(f"and {len(self._places) - len(shown)} more modules by path")
        return "\n".join(lines)

    def __repr__(self) -> str:
        roles = ", ".join(f"{count} {role}" for role, count in self.roles().items())
        return f"PlaceTable({len(self._places)} places: {roles or 'none with a role'})"
