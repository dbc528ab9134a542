"""The attention of an inserted mechanism over one picture, as the report draws it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from regard.placing import Placed
from regard.watching import AttentionMap


def entries(maps: Sequence[AttentionMap], placed: Placed, grid: tuple[int, int] | None) -> list[dict[str, Any]]:
    """The maps of one place for the first picture of the batch; of a module that is called several times, the last.

    Args:
        maps: what was watched there.
        placed: the place.
        grid: the size of the grid whose cells the tokens of the model are, if they are that.
    """
    last = {(one.module, one.label): one.select(batch=0) for one in maps}
    several = len({one.mechanism for one in last.values()}) > 1
    found: list[dict[str, Any]] = []
    for one in _joined(list(last.values())):
        label = f"{placed.place} {one.mechanism} {one.label}" if several else f"{placed.place} {one.label}"
        found.append({"label": label, **_entry(one, grid)})
    return found


def token_grid(model: nn.Module) -> tuple[int, int] | None:
    """The grid of patches that a transformer of timm says its tokens are."""
    size = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    return (int(size[0]), int(size[1])) if size is not None and len(size) == 2 else None


def _joined(maps: list[AttentionMap]) -> list[AttentionMap]:
    """Coordinate attention multiplies a gate for each row by one for each column: their product is its map."""
    by_axes = {(one.module, one.axes): one for one in maps if one.mechanism == "coordinate"}
    joined: list[AttentionMap] = []
    for one in maps:
        other = by_axes.get((one.module, ("channel", "width")))
        if one.mechanism != "coordinate" or other is None:
            joined.append(one)
        elif one.axes == ("channel", "height"):
            values = one.values[:, :, None] * other.values[:, None]
            joined.append(replace(one, values=values, axes=("channel", "height", "width"), label="height and width"))
    return joined


def _entry(one: AttentionMap, grid: tuple[int, int] | None) -> dict[str, Any]:
    """Rows of weights where the map has places in the picture, otherwise a flat list of values.

    Axes besides these (heads, queries, channels, ...) are averaged: of a map from queries to keys this leaves how much
    each position is read from.
    """
    if "key" in one.axes:
        keys = one.values.shape[one.axes.index("key")]
        if one.grid is None and grid is not None and grid[0] * grid[1] + one.extra_tokens == keys:
            one = replace(one, grid=grid)
        one = _mean(one, {"key"})
        if one.grid is None or len(one.grid) != 2:
            return {"values": _numbers(one.values.tolist())}
        one = one.on_grid()
    if {"height", "width"} <= set(one.axes):
        one = _mean(one, {"height", "width"})
        rows = one.values if one.axes == ("height", "width") else one.values.T
        sums = set(one.sums_to_one) == {"height", "width"}
        return {"weights": [_numbers(row) for row in rows.tolist()], "sums_to_one": sums}
    return {"values": _numbers(_mean(one, set(one.axes[-1:])).values.reshape(-1).tolist())}


def _mean(one: AttentionMap, kept: set[str]) -> AttentionMap:
    for axis in set(one.axes) - kept:
        one = one.mean(axis)
    return one


def _numbers(values: list[float]) -> list[float]:
    """Five digits, which is more than anybody sees, to keep the files small."""
    return [float(f"{value:.5g}") for value in values]
