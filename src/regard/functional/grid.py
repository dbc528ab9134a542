"""Where a sampling grid reads its map."""

import torch
from jaxtyping import Float
from torch import Tensor


def affine_grid(transform: Float[Tensor, "B 2 3"], height: int, width: int) -> Float[Tensor, "B height width 2"]:
    """Where each cell of an output reads its map: the transform of the cell's centre, x before y.

    As `torch.nn.functional.affine_grid(align_corners=False)`, whose gradient does not compile for sizes that change.
    """
    x = (2 * torch.arange(width, device=transform.device) + 1).to(transform.dtype) / width - 1  # (width,)
    y = (2 * torch.arange(height, device=transform.device) + 1).to(transform.dtype) / height - 1  # (height,)
    along_x, along_y, shift = transform[:, None, None].unbind(-1)  # (B, 1, 1, 2) each
    return along_x * x[:, None] + along_y * y[:, None, None] + shift  # (B, height, width, 2)


def footprint(grid: Float[Tensor, "B h w 2"], height: int, width: int) -> Float[Tensor, "B height width"]:
    """The share of each position of a map in what bilinear sampling on this grid reads.

    It is the adjoint of `grid_sample(align_corners=False, padding_mode="zeros")`, applied to `1 / (h·w)`: over all
    positions the shares sum to one, less what is read outside of the map.

    Args:
        grid: where each output position reads, x before y, in the coordinates of `grid_sample`: -1 and 1 are the
            outer edges of the map.
        height: rows of the map.
        width: columns of the map.
    """
    x = ((grid[..., 0] + 1) * width - 1).flatten(1) / 2  # (B, h·w), in columns
    y = ((grid[..., 1] + 1) * height - 1).flatten(1) / 2  # (B, h·w), in rows
    total = grid.new_zeros(grid.shape[0], height * width)
    for row, row_weight in ((y.floor(), 1 - (y - y.floor())), (y.floor() + 1, y - y.floor())):
        for column, column_weight in ((x.floor(), 1 - (x - x.floor())), (x.floor() + 1, x - x.floor())):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)  # (B, h·w)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()  # (B, h·w)
            total = total.scatter_add(1, index, row_weight * column_weight * inside)
    return total.unflatten(1, (height, width)) / x.shape[1]


def box_transform(centre: Float[Tensor, "*#boxes 2"], half: Float[Tensor, "*#boxes 2"]) -> Float[Tensor, "*boxes 2 3"]:
    """The affine maps from upright boxes to the whole map, as `affine_grid` takes them.

    Args:
        centre: of each box, x before y, in coordinates from -1 to 1.
        half: half of each box's width and height, in the same.
    """
    scale = half.diag_embed()  # (*boxes, 2, 2)
    shape = torch.broadcast_shapes(centre.shape, half.shape)
    return torch.cat((scale.expand(*shape, 2), centre.expand(shape)[..., None]), -1)


def linear_shares(places: Float[Tensor, "*shape"], size: int) -> Float[Tensor, "*shape {size}"]:
    """The share of each of `size` positions of an axis in what is read there linearly; nothing is outside of the axis.

    Args:
        places: in the coordinates of `grid_sample(align_corners=False)`: -1 and 1 are the outer edges of the axis.
    """
    position = ((places + 1) * size - 1) / 2
    return (1 - (position[..., None] - torch.arange(size, device=places.device)).abs()).clamp_min(0)
