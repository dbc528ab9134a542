"""What an attention map is: values, and what each of their axes means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

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

    def on_grid(self, grid: Sequence[int] | None = None, *, extra_tokens: int | None = None) -> "AttentionMap":
        """The map with its keys laid out as the map they come from; extra tokens are left out.

        The axis `key` becomes `height, width` (or `length`, or `depth, height, width`). A map that has these axes
        already stays as it is.

            map.on_grid((4, 8))

        Args:
            grid: the sizes of the grid over whose cells the keys run, row by row; default None: that of the map.
            extra_tokens: how many keys come before the cells; default None: those of the map.

        Raises:
            UserError: the map lies on no grid, its grid is not known, or the grid that is given does not fit.
        """
        sizes = self.grid if grid is None else self._checked(grid)
        if "key" not in self.axes:
            names = next((names for names in SPATIAL_NAMES.values() if set(names) <= set(self.axes)), None)
            if names is None:
                raise UserError(f"{self!r} lies on no grid: it has neither the axis 'key' nor 'height' and 'width'")
            own = tuple(self.values.shape[self.axes.index(name)] for name in names)
            if sizes not in (None, own):
                raise UserError(f"{self!r} lies on a grid of {_times(own)} already, not of {_times(sizes)}")
            return self
        keys = self.values.shape[self.axes.index("key")]
        extra = self.extra_tokens if extra_tokens is None else extra_tokens
        if sizes is None:
            raise UserError(
                f"the grid of {self!r} is not known: its keys are {keys} tokens, of which {extra} come before the "
                "cells; say which grid the others are, as in on_grid((4, 8))"
            )
        if extra < 0 or prod(sizes) + extra != keys:
            raise UserError(
                f"a grid of {_times(sizes)} and {extra} extra tokens are {prod(sizes) + extra} keys, and {self!r} has "
                f"{keys}: give the grid of its cells, and extra_tokens= if other keys come before them"
            )
        at = self.axes.index("key")
        names = SPATIAL_NAMES[len(sizes)]
        values = self.values.narrow(at, extra, keys - extra)
        sums = tuple(name for axis in self.sums_to_one for name in (names if axis == "key" else (axis,)))
        return replace(
            self,
            values=values.unflatten(at, sizes),
            axes=(*self.axes[:at], *names, *self.axes[at + 1 :]),
            sums_to_one=() if "key" in self.sums_to_one and extra else sums,
            grid=None,
            extra_tokens=0,
        )

    def _checked(self, grid: Sequence[int]) -> tuple[int, ...]:
        """The sizes of a grid that is given."""
        whole = isinstance(grid, (tuple, list)) and all(isinstance(size, int) and size > 0 for size in grid)
        if not whole or len(grid) not in SPATIAL_NAMES:
            raise UserError(f"{grid!r} is no grid: give one to three sizes of at least 1, such as (4, 8)")
        return tuple(grid)

    def _axis(self, name: str, names: list[str]) -> int:
        if name not in names:
            raise UserError(f"{self!r} has no axis {name!r}: it has {', '.join(names)}")
        return names.index(name)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in zip(self.axes, self.values.shape, strict=True))
        return f"AttentionMap({self.module} · {self.mechanism} · {self.label}: {sizes})"


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
