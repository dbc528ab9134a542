"""Shuffle attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact
from regard.functional.precision import at_least_single


class ShuffleAttention(Refine):
    """Shuffle attention: half of every group's channels gets a gate a channel, the other half a gate a position.

        a = sigmoid(W1 mean over positions of x + b1)     in the first half of every group
        a = sigmoid(W2 norm(x) + b2)                      in the second half
        y = shuffle(a · x)

    `W` and `b` are numbers, one for each channel of a half, the same in all `G` groups. `norm` is group normalisation
    of each channel alone, with scale and shift. `shuffle` deals the channels out: its even ones are the first half of
    all channels, its odd ones the second.

    Paper: Zhang, Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021; that a group of
    the normalisation is one channel, and that the shuffle is one of two parts, is of the authors' code, as are the
    initial values: `W` of zero and `b` of one.

    Args:
        channels: channels `C` of the map, at least two.
        groups: the paper's G; default 64, the paper's choice. The largest number not above it is taken that cuts the
            channels into groups of an even size, or if `C` is odd, into groups of three or more, whose second half is
            the larger one.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        gate: `(batch, channel, *spatial)`, each in 0..1, in the order of the input's channels.

    Raises:
        ValueError: there are less than two channels, or less than one group.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "shuffle"
    aliases: ClassVar[tuple[str, ...]] = ("sa_net", "sa_layer")
    paper: ClassVar[Paper] = Paper(
        "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", "Zhang, Yang", "ICASSP", 2021
    )
    formula: ClassVar[str] = "y = shuffle([x_1 · sigmoid(W1 mean(x_1) + b1); x_2 · sigmoid(W2 norm(x_2) + b2)])"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*c + 4*s"
    letters: ClassVar[dict[str, str]] = {"c": "channel_half", "s": "spatial_half"}
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    destination: Tensor

    def __init__(self, channels: int, groups: int = 64) -> None:
        super().__init__()
        self.channels = channels
        divided, most = (channels, min(groups, channels // 3)) if channels % 2 else (channels // 2, groups)
        self.groups = functional.largest_divisor(divided, most)
        self.channel_half = channels // self.groups // 2
        self.spatial_half = channels // self.groups - self.channel_half
        self.channel_weight = nn.Parameter(torch.zeros(self.channel_half))
        self.channel_bias = nn.Parameter(torch.ones(self.channel_half))
        self.spatial_weight = nn.Parameter(torch.zeros(self.spatial_half))
        self.spatial_bias = nn.Parameter(torch.ones(self.spatial_half))
        self.norm = nn.GroupNorm(self.spatial_half, self.spatial_half)
        destination = torch.cat((torch.arange(0, channels, 2), torch.arange(1, channels, 2)))
        self.register_buffer("destination", destination, persistent=False)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        grouped = x.unflatten(1, (self.groups, -1))  # (B, G, C/G, *spatial)
        halves = grouped.split((self.channel_half, self.spatial_half), dim=2)
        positions = tuple(range(3, grouped.ndim))
        ones = (-1, *[1] * len(positions))
        mean = halves[0].mean(dim=positions, keepdim=True)  # (B, G, C/2G, *ones)
        channel = self.channel_weight.view(ones) * mean + self.channel_bias.view(ones)  # (B, G, C/2G, *ones)
        centred = at_least_single(halves[1] - halves[1].mean(dim=positions, keepdim=True))  # (B, G, C/2G, *spatial)
        variance = centred.square().mean(dim=positions, keepdim=True)  # (B, G, C/2G, *ones)
        # The gate's weight and bias fold into those of the normalisation.
        scale = (self.spatial_weight * self.norm.weight).view(ones) * (variance + self.norm.eps).rsqrt()
        shift = (self.spatial_weight * self.norm.bias + self.spatial_bias).view(ones)
        spatial = torch.addcmul(shift.to(scale.dtype), scale, centred).to(x.dtype)  # (B, G, C/2G, *spatial)
        scores = torch.cat((channel.expand_as(halves[0]), spatial), 2).flatten(1, 2)  # (B, C, *spatial)
        gate = scores.sigmoid().to(x.dtype)  # (B, C, *spatial)
        gate = self.offer("gate", gate)
        # Into a tensor of the input's strides: indexing would give contiguous ones.
        return torch.empty_like(x).index_copy_(1, self.destination, x * gate)  # (B, C, *spatial)
