"""Attention proposal."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Select, Selection
from regard.attention.offering import MapFact

CELLS = 4
"""Rows and columns to which the proposing network pools: enough to tell where, whatever the size of the map."""


class AttentionProposal(Select):
    """Attention proposal: two linear layers choose a square of the map, which is cut out softly and enlarged.

        (tx, ty, tl) = the square's centre and half of its side, from two linear layers
        M(x, y) = [h(x - (tx - tl)) - h(x - (tx + tl))] · [h(y - (ty - tl)) - h(y - (ty + tl))]
        h(z)    = 1 / (1 + exp(-k z))
        region  = x ⊙ M within the square, enlarged bilinearly

    Paper: Fu, Zheng, Mei, "Look Closer to See Better: Recurrent Attention Convolutional Neural Network for Fine-grained
    Image Recognition", CVPR 2017, section 3.1. There the layers read a map of fixed size; here its mean over 4 by 4
    cells, with a tanh between the layers. A sigmoid holds the centre within the map, and `tl` below half of its longer
    side. It starts as a square of half of that side, in the middle; the paper trains it first, towards such a square at
    the highest response. Positions are cell centres, and what lies outside of the map reads as zero. The gradient
    passes both the mask, as in the paper, and the place of the bilinear samples.

    Args:
        channels: channels `C` of the map.
        size: height and width of the output, or one number for both; default that of the input, as in the paper.
        hidden_channels: width `d` between the two layers; default 32.
        sharpness: `k`, how steep the edges of the mask are, in cells; default 10. The paper asks for a large one.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives a `Selection` of one region (`K` = 1), `(B, 1, C, h, w)`, and its transform.

    Maps:
        mask: `M`, `(batch, height, width)`, between 0 and 1.

    Raises:
        ValueError: `sharpness` is not positive.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "attention_proposal"
    aliases: ClassVar[tuple[str, ...]] = ("ra_cnn", "apn")
    paper: ClassVar[Paper] = Paper(
        "Look Closer to See Better: Recurrent Attention Convolutional Neural Network for Fine-grained Image "
        "Recognition",
        "Fu, Zheng, Mei",
        "CVPR",
        2017,
    )
    formula: ClassVar[str] = "region = bilinear enlargement of x ⊙ M(tx, ty, tl) within the square (tx ± tl, ty ± tl)"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("mask", ("batch", "height", "width")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "16*C*d + 4*d + 3"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "on a map or image, before a network that looks at the chosen part more closely"

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int] | None = None,
        hidden_channels: int = 32,
        sharpness: float = 10.0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size = (size, size) if isinstance(size, int) else size
        self.hidden_channels = hidden_channels
        self.sharpness = sharpness
        self.propose = nn.Sequential(
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),
            nn.Linear(CELLS * CELLS * channels, hidden_channels),
            nn.Tanh(),
        )
        self.regress = nn.Linear(hidden_channels, 3)
        nn.init.zeros_(self.regress.weight)
        nn.init.zeros_(self.regress.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Selection:
        self.check(x)
        precise = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell one pixel from the next
        shares = self.regress(self.propose(x)).to(precise).sigmoid()  # (B, 3)
        rows, columns = x.shape[2:]
        centre_x, centre_y, half = shares[:, 0] * columns, shares[:, 1] * rows, shares[:, 2] * (max(rows, columns) / 2)
        mask = self.boxcar(centre_y, half, rows)[:, :, None] * self.boxcar(centre_x, half, columns)[:, None]
        mask = self.offer("mask", mask)  # (B, H, W)
        reach = torch.stack((half * (2 / columns), half * (2 / rows)), 1)  # (B, 2)
        transform = functional.box_transform(2 * shares[:, :2] - 1, reach)  # (B, 2, 3)
        height, width = self.size or (rows, columns)
        grid = functional.affine_grid(transform, height, width)  # (B, h, w, 2)
        region = F.grid_sample(x.to(precise) * mask[:, None], grid, align_corners=False).to(x.dtype)  # (B, C, h, w)
        return Selection(region[:, None], transform.to(x.dtype)[:, None])  # (B, 1, C, h, w), (B, 1, 2, 3)

    def boxcar(
        self, centre: Float[Tensor, " B"], half: Float[Tensor, " B"], length: int
    ) -> Float[Tensor, "B {length}"]:
        """`h(z - (t - l)) - h(z - (t + l))` at the cell centres `z` along one axis."""
        cell = torch.arange(length, device=centre.device).to(centre.dtype) + 0.5  # (length,)
        from_start = cell - (centre - half)[:, None]  # (B, length)
        from_end = cell - (centre + half)[:, None]  # (B, length)
        return (self.sharpness * from_start).sigmoid() - (self.sharpness * from_end).sigmoid()
