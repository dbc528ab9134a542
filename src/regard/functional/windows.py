"""Cutting a map into groups of positions that attend to each other, and putting it together again."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F


def cut_windows(
    x: Shaped[Tensor, "B C H W"], size: int, shift: tuple[int, int] = (0, 0), strided: bool = False, fill: int = 0
) -> Shaped[Tensor, "B G P C"]:
    """Cut a map into `G` groups of `P = size²` positions, padded at its end to multiples of `size`.

    Args:
        size: positions of a group along each axis.
        shift: by how many rows and columns the map is rolled up and left, cyclically, before it is cut.
        strided: False, a group is a window of neighbours; True, a regular grid over the whole map.
        fill: what the padding holds.
    """
    H, W = x.shape[2:]
    if H % size or W % size:
        x = F.pad(x, (0, -W % size, 0, -H % size), value=fill)
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (2, 3))
    parts = (size, -1) if strided else (-1, size)
    cells = x.unflatten(3, parts).unflatten(2, parts)  # (B, C, rows, rows, columns, columns)
    order = (0, 3, 5, 2, 4, 1) if strided else (0, 2, 4, 3, 5, 1)
    return cells.permute(order).flatten(3, 4).flatten(1, 2)


def join_windows(
    windows: Float[Tensor, "B G P C"],
    size: int,
    spatial: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
    strided: bool = False,
) -> Float[Tensor, "B C H W"]:
    """The inverse of `cut_windows`, without the padding; channels-last in memory."""
    H, W = spatial
    cells = windows.unflatten(2, (size, size)).unflatten(1, (-(-H // size), -(-W // size)))
    order = (0, 3, 1, 4, 2, 5) if strided else (0, 1, 3, 2, 4, 5)
    x = cells.permute(order).flatten(3, 4).flatten(1, 2)  # (B, H and W padded, C)
    if any(shift):
        x = x.roll(shift, (1, 2))
    return x[:, :H, :W].contiguous().permute(0, 3, 1, 2)


def window_positions(
    spatial: tuple[int, int],
    size: int,
    shift: tuple[int, int] = (0, 0),
    strided: bool = False,
    device: torch.device | None = None,
) -> Int[Tensor, "G P"]:
    """Which position of the map each place of each group holds, counted row by row; -1 is padding."""
    positions = torch.arange(spatial[0] * spatial[1], device=device).reshape(1, 1, *spatial)
    return cut_windows(positions, size, shift, strided, fill=-1)[0, :, :, 0]


def shifted_window_mask(
    positions: Int[Tensor, "G P"], columns: int, size: int, shift: tuple[int, int]
) -> Bool[Tensor, "G P P"]:
    """Which pairs of a cyclically shifted window attend to each other: those that the shift did not bring together.

    Args:
        positions: of `window_positions`, -1 is padding, which nobody attends to.
        columns: of the map.
        size: of a window.
        shift: of rows and columns.
    """
    row = (positions.div(columns, rounding_mode="floor") + size - shift[0]).div(size, rounding_mode="floor")
    column = (positions.remainder(columns) + size - shift[1]).div(size, rounding_mode="floor")
    together = (row[:, :, None] == row[:, None]) & (column[:, :, None] == column[:, None])
    return together & (positions >= 0)[:, None]


def relative_positions(size: int, device: torch.device | None = None) -> Int[Tensor, "P P"]:
    """Which of the `(2·size - 1)²` offsets, query less key, counted row by row, each pair of a window has."""
    place = torch.arange(size, device=device)
    offset = place[:, None] - place + size - 1  # (size, size) of query and key
    pairs = offset[:, None, :, None] * (2 * size - 1) + offset[None, :, None]  # (row, column, row, column)
    return pairs.flatten(2).flatten(0, 1)
