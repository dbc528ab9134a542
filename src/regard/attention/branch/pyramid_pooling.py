"""Spatial pyramid attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact

POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class SpatialPyramidAttention(Refine):
    """Spatial pyramid attention: one gate a channel, from means over the whole map, its quarters and sixteenths.

        s = [mean over every cell of a grid of n by n cells, for n in sizes]     (B, C·P)
        g = sigmoid(W2 relu(W1 s))                                               (B, C)
        y = g · x

    with P = 1 + 4 + 16 cells a channel. It is squeeze-and-excitation that still sees where.

    Paper: Guo, Ma, Cui, Wang, Chen, "SPANet: Spatial Pyramid Attention Network for Enhanced Image Recognition", ICME
    2020, equations 1 to 3. Where n does not divide the size of an axis, a cell is the mean of all positions it touches.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`, the paper's r; default 16, the paper's choice. The bottleneck has at least one channel.
        sizes: how many cells an axis has in each grid; default (4, 2, 1), the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.
        bias: whether the two linear layers have biases; default False, the paper has none.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one; `dims` is not 1, 2 or 3, or a grid has no cells.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "pyramid_pooling"
    aliases: ClassVar[tuple[str, ...]] = ("spa", "spanet")
    paper: ClassVar[Paper] = Paper(
        "SPANet: Spatial Pyramid Attention Network for Enhanced Image Recognition", "Guo et al.", "ICME", 2020
    )
    formula: ClassVar[str] = "y = x · sigmoid(W2 relu(W1 [means over grids of 4x4, 2x2 and 1x1 cells]))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "P*C*d + d*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels", "P": "grid_cells"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: linear layers with biases, as in squeeze-and-excitation",)
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        sizes: tuple[int, ...] = (4, 2, 1),
        dims: int = 2,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.sizes = tuple(sizes)
        self.grid_cells = sum(size**dims for size in sizes)
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.squeeze = nn.Linear(self.grid_cells * channels, self.hidden_channels, bias=bias)
        self.excite = nn.Linear(self.hidden_channels, channels, bias=bias)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        pool = POOLS[x.ndim - 2]
        means = torch.cat([pool(x, size).flatten(1) for size in self.sizes], 1)  # (B, C·P), grid by grid
        gate = self.excite(self.squeeze(means).relu()).sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
