"""What an attention map is: values, and what each of their axes means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.attention.offering import SPATIAL_NAMES
from regard.errors import UserError


class NoMapError(UserError, LookupError):
    """A map that cannot be had. The message says why, and what there is instead."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The weights that one mechanism computed in one of its calls.

    Attributes:
        values: the weights, detached from the graph.
        axes: the name of each axis of `values` (`("batch", "heads", "query", "key")`, `("batch", "channel")`, ...).
        module: the path of the mechanism in the model.
        mechanism: its short name.
        label: which of its maps this is (`"attention"`, `"channel"`, `"spatial"`).
        call: which of its calls since the watch was opened, from 0.
        grid: where the axis `key` runs over the cells of a map, that map's size, row by row.
        extra_tokens: how many keys come before the cells of the grid (a class token, registers).
        sums_to_one: the axes over which, together, the weights sum to one.
    """

    values: Tensor
    axes: tuple[str, ...]
    module: str
    mechanism: str
    label: str
    call: int = 0
    grid: tuple[int, ...] | None = None
    extra_tokens: int = 0
    sums_to_one: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.axes) != self.values.ndim:
            raise ValueError(f"{self.values.ndim} axes of values got the names {self.axes}: name each axis once")

    def select(self, **axes: int | slice | Sequence[int]) -> "AttentionMap":
        """A part of the map, by the names of axes: an index takes the axis away, a slice or several indices shorten it.

            map.select(batch=0, heads=3)

        Raises:
            UserError: there is no such axis, or the index lies outside it.
        """
        values, names, sums, grid = self.values, list(self.axes), self.sums_to_one, self.grid
        for name, index in axes.items():
            at = self._axis(name, names)
            size = values.shape[at]
            indices = range(size)[index] if isinstance(index, slice) else index
            wanted = [indices] if isinstance(indices, int) else list(indices)
            if any(not -size <= one < size for one in wanted):
                raise UserError(f"{index} lies outside the axis {name!r} of {self!r}: it has 0 to {size - 1}")
            if isinstance(indices, int):
                values = values.select(at, indices)
                names.pop(at)
            else:
                values = values.index_select(at, torch.tensor([one % size for one in wanted], device=values.device))
            sums = () if name in sums else sums
            grid = None if name == "key" else grid
        extra = self.extra_tokens if grid is not None or ("key" in names and "key" not in axes) else 0
        return replace(self, values=values, axes=tuple(names), sums_to_one=sums, grid=grid, extra_tokens=extra)

    def mean(self, axis: str) -> "AttentionMap":
        """The map without one axis: the mean over it.

        Raises:
            UserError: there is no such axis.
        """
        at = self._axis(axis, list(self.axes))
        gone = axis == "key"
        return replace(
            self,
            values=self.values.mean(dim=at),
            axes=self.axes[:at] + self.axes[at + 1 :],
            sums_to_one=() if axis in self.sums_to_one else self.sums_to_one,
            grid=None if gone else self.grid,
            extra_tokens=0 if gone else self.extra_tokens,
        )

    def on_grid(self) -> "AttentionMap":
        """The map with its keys laid out as the map they come from; extra tokens are left out.

        The axis `key` becomes `height, width` (or `length`, or `depth, height, width`). A map that has these axes
        already stays as it is.

        Raises:
            UserError: the map has neither, or its grid is not known.
        """
        if "key" not in self.axes:
            if any(set(names) <= set(self.axes) for names in SPATIAL_NAMES.values()):
                return self
            raise UserError(f"{self!r} lies on no grid: it has neither the axis 'key' nor 'height' and 'width'")
        if self.grid is None:
            raise UserError(f"{self!r} lies on no grid: its keys are tokens, and nobody said which positions they are")
        at = self.axes.index("key")
        names = SPATIAL_NAMES[len(self.grid)]
        values = self.values.narrow(at, self.extra_tokens, self.values.shape[at] - self.extra_tokens)
        sums = tuple(name for axis in self.sums_to_one for name in (names if axis == "key" else (axis,)))
        return replace(
            self,
            values=values.unflatten(at, self.grid),
            axes=(*self.axes[:at], *names, *self.axes[at + 1 :]),
            sums_to_one=() if "key" in self.sums_to_one and self.extra_tokens else sums,
            grid=None,
            extra_tokens=0,
        )

    def _axis(self, name: str, names: list[str]) -> int:
        if name not in names:
            raise UserError(f"{self!r} has no axis {name!r}: it has {', '.join(names)}")
        return names.index(name)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in zip(self.axes, self.values.shape, strict=True))
        return f"AttentionMap({self.module} · {self.mechanism} · {self.label}: {sizes})"
