"""Spatial transformer."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Select, Selection
from regard.attention.offering import MapFact, Request

CELLS = 4
"""Rows and columns to which the localisation network pools: enough to tell where, whatever the size of the map."""


class SpatialTransformer(Select):
    """Spatial transformer: a small network chooses an affine window of the map, and bilinear sampling reads it.

        θ      = localisation network of x                                           (2, 3)
        (x, y) = θ (x', y', 1)       where the output position (x', y') reads
        v      = Σ over positions (m, n) of x_mn · max(0, 1 - |x - m|) · max(0, 1 - |y - n|)

    Paper: Jaderberg, Simonyan, Zisserman, Kavukcuoglu, "Spatial Transformer Networks", NeurIPS 2015, equations 1 and 5.
    The paper leaves the localisation network open. Here it is two convolutions, a mean over 4 by 4 cells, and two
    linear layers with a tanh between them; the last starts at the identity transform, so that at first the output is
    the input. Coordinates go from -1 to 1 between the outer edges of the map (`align_corners=False`), what lies outside
    reads as zero, and grid and sampling are computed in single precision at least.

    Args:
        channels: channels `C` of the map.
        size: height and width of the output, or one number for both; default that of the input.
        hidden_channels: width `d` of the localisation network; default 32.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives a `Selection` of one region (`K` = 1), `(B, 1, C, h, w)`, and its transform.

    Maps:
        footprint: `(batch, height, width)`, the share of each position of the input in what was read. All positions
            together are one, less what was read outside of the map.

    Raises:
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "spatial_transformer"
    aliases: ClassVar[tuple[str, ...]] = ("stn", "spatial_transformer_network")
    paper: ClassVar[Paper] = Paper("Spatial Transformer Networks", "Jaderberg et al.", "NeurIPS", 2015)
    formula: ClassVar[str] = "y = bilinear sample of x on the affine grid θ(x)"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("footprint", ("batch", "height", "width"), fixed="it follows from where the map is sampled"),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "9*C*d + 25*d*d + 9*d + 6"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "on the image, or on a map between two stages"

    def __init__(self, channels: int, size: int | tuple[int, int] | None = None, hidden_channels: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.size = (size, size) if isinstance(size, int) else size
        self.hidden_channels = hidden_channels
        self.localise = nn.Sequential(
            nn.Conv2d(channels, hidden_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),
            nn.Linear(CELLS * CELLS * hidden_channels, hidden_channels),
            nn.Tanh(),  # bounded: no large activation throws the window off the map
        )
        self.regress = nn.Linear(hidden_channels, 6)
        with torch.no_grad():
            self.regress.weight.zero_()
            self.regress.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Selection:
        self.check(x)
        transform = self.regress(self.localise(x)).unflatten(1, (2, 3))  # (B, 2, 3)
        height, width = x.shape[2:] if self.size is None else self.size
        precise = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell one pixel from the next
        grid = functional.affine_grid(transform.to(precise), height, width)  # (B, h, w, 2)

        def footprint(_: Request) -> Tensor:
            return functional.footprint(grid, x.shape[2], x.shape[3])  # (B, H, W)

        self.offer("footprint", footprint)
        region = F.grid_sample(x.to(precise), grid, align_corners=False).to(x.dtype)  # (B, C, h, w)
        return Selection(region[:, None], transform[:, None])  # (B, 1, C, h, w), (B, 1, 2, 3)
