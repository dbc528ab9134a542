"""The read of DRAW."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Select, Selection
from regard.attention.offering import MapFact, Request

LIMIT = 10.0
"""The largest size of a logarithm: e¹⁰ times the map's width is wide enough, and its square does not overflow."""


class DrawRead(Select):
    """The read of DRAW: a grid of `n` by `n` Gaussian filters, whose place, stride and width are chosen.

        (g̃x, g̃y, log σ², log δ̃, log γ) = W mean(x) + b
        gx = (W + 1) / 2 · (g̃x + 1),   gy = (H + 1) / 2 · (g̃y + 1)         the centre, where cells count from 1
        δ  = (max(H, W) - 1) / (n - 1) · δ̃                                   the stride, in cells
        μ_i = g + (i - n/2 - 0.5) δ,   i = 1 … n                             in either direction
        F_ia = exp(-(a - μ_i)² / 2σ²) / Z_i                                  Z_i: over the cells a it sums to one
        y  = γ Fy x Fxᵀ

    Paper: Gregor, Danihelka, Graves, Rezende, Wierstra, "DRAW: A Recurrent Neural Network For Image Generation", ICML
    2015, equations 19 to 27. There the five numbers come from the decoder's state, and the error image is read besides
    the image. Recurrence belongs to a model: here the mean of the map stands for that state. It starts at the centre,
    with a stride that covers the longer side of the map, and σ² = 1 cell. The three logarithms are held within ±10.

    Args:
        channels: channels `C` of the map.
        size: `n`, rows and columns of filters; default 12, the paper's for digits in clutter and for house numbers.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives a `Selection` of one region (`K` = 1), `(B, 1, C, n, n)`. Its transform is
        the box in which each filter has a square of side δ to itself, so that filter centres are cell centres.

    Maps:
        footprint: `(batch, height, width)`, the share of each position of the input in what was read, before γ; sums
            to one over all positions.

    Raises:
        ValueError: `size` is below two, which has no stride.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "draw_read"
    aliases: ClassVar[tuple[str, ...]] = ("draw",)
    paper: ClassVar[Paper] = Paper(
        "DRAW: A Recurrent Neural Network For Image Generation", "Gregor et al.", "ICML", 2015
    )
    formula: ClassVar[str] = "y = γ Fy x Fxᵀ with F_ia = exp(-(a - μ_i)² / 2σ²) / Z_i, μ_i = g + (i - n/2 - 0.5) δ"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact(
            "footprint",
            ("batch", "height", "width"),
            ("height", "width"),
            fixed="the mean of the filters, which stay as they are",
        ),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "5*C + 5"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "on the image, once a step of a recurrent model"

    def __init__(self, channels: int, size: int = 12) -> None:
        super().__init__()
        self.channels = channels
        self.size = size
        self.regress = nn.Linear(channels, 5)
        nn.init.zeros_(self.regress.weight)
        nn.init.zeros_(self.regress.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Selection:
        self.check(x)
        precise = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell one pixel from the next
        numbers = self.regress(x.mean((2, 3))).to(precise)  # (B, 5)
        place = numbers[:, :2]  # (B, 2), x before y
        variance, spacing, intensity = numbers[:, 2:].clamp(-LIMIT, LIMIT).exp().unbind(1)  # (B,) each
        height, width = x.shape[2:]
        stride = (max(height, width) - 1) / (self.size - 1) * spacing  # (B,), in cells
        along_x = self.filters(place[:, 0], stride, variance, width)  # (B, n, W)
        along_y = self.filters(place[:, 1], stride, variance, height)  # (B, n, H)

        def footprint(_: Request) -> Tensor:
            return along_y.mean(1)[:, :, None] * along_x.mean(1)[:, None]  # (B, H, W)

        self.offer("footprint", footprint)
        rows = torch.bmm(x.flatten(1, 2), along_x.to(x.dtype).transpose(1, 2))  # (B, C·H, n)
        region = along_y.to(x.dtype)[:, None] @ rows.unflatten(1, (self.channels, -1))  # (B, C, n, n)
        region = region * intensity.to(x.dtype)[:, None, None, None]
        edge = 1 / width, 1 / height
        centre = torch.stack([place[:, axis] * (1 + edge[axis]) for axis in range(2)], 1)  # (B, 2)
        half = torch.stack([self.size * stride * edge[axis] for axis in range(2)], 1)  # (B, 2)
        transform = functional.box_transform(centre, half)  # (B, 2, 3)
        return Selection(region[:, None], transform.to(x.dtype)[:, None])  # (B, 1, C, n, n), (B, 1, 2, 3)

    def filters(
        self, place: Float[Tensor, " B"], stride: Float[Tensor, " B"], variance: Float[Tensor, " B"], length: int
    ) -> Float[Tensor, "B n length"]:
        """`F`, along one axis. A softmax divides by `Z` without underflow, however far off the map a filter lies."""
        cell = torch.arange(1, length + 1, device=place.device).to(place.dtype)  # (length,)
        offset = torch.arange(self.size, device=place.device).to(place.dtype) - (self.size - 1) / 2  # (n,)
        centre = (length + 1) / 2 * (place + 1)  # (B,)
        mean = centre[:, None] + offset * stride[:, None]  # (B, n)
        distance = cell - mean[:, :, None]  # (B, n, length)
        return (-distance.square() / (2 * variance[:, None, None])).softmax(2)
