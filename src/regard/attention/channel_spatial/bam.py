"""The bottleneck attention module."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import convolution_over, reduced
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact

Variant = Literal["paper", "code"]


class BottleneckAttention(Refine):
    """Bottleneck attention module: one gate for every value, from a score a channel plus a score a position.

        m = bn(W2 relu(W1 mean over positions of x + b1) + b2)                     (B, C)
        s = bn(conv_1 relu(conv_3 relu(conv_3 relu(conv_1 x))))                    (B, *spatial)
        M = sigmoid(m + s)                                                         (B, C, *spatial)
        y = x + M · x

    with `d` channels within both branches, and the two convolutions of size 3 dilated.

    Paper: Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018; the rectifiers, which its equations
    leave out, are where the authors' code has them. A batch of one trains: where the pooled vector has no variance, its
    running one is used.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`, the paper's r; default 16, the paper's choice. The bottleneck has at least one channel.
        dilation: of the two convolutions of size 3, the paper's d; default 4, the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.
        variant: `"paper"`, the default, as above; `"code"`: the gate is `sigmoid(m · s)`, and batch normalisation comes
            before every rectifier in place of at the end of both branches.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        gate: `(batch, channel, *spatial)`, each in 0..1; the input is multiplied by one plus it.

    Raises:
        ValueError: `reduction` is less than one; `dims` is not 1, 2 or 3, or there is no such variant.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "bam"
    aliases: ClassVar[tuple[str, ...]] = ("bam_block",)
    paper: ClassVar[Paper] = Paper("BAM: Bottleneck Attention Module", "Park et al.", "BMVC", 2018)
    formula: ClassVar[str] = "y = x + x · sigmoid(bn(mlp(mean(x))) + bn(conv_1(conv_3(conv_3(conv_1(x))))))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*d + 3*C + 18*d*d + 5*d + 3"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'variant="code": branches multiplied, normalised before every rectifier, as in the authors\' code',
    )
    placement: ClassVar[str] = "between the stages of a network, before each that halves the map"
    place = "stage"

    def __init__(
        self, channels: int, reduction: int = 16, dilation: int = 4, dims: int = 2, variant: Variant = "paper"
    ) -> None:
        super().__init__()
        Convolution = convolution_over(dims)
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.variant = variant
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        d = self.hidden_channels
        self.channel = nn.Sequential(
            nn.Linear(channels, d), *self.rectifier(), nn.Linear(d, channels), *self.last(channels)
        )
        self.spatial = nn.Sequential(
            Convolution(channels, d, 1),
            *self.rectifier(),
            Convolution(d, d, 3, padding=dilation, dilation=dilation),
            *self.rectifier(),
            Convolution(d, d, 3, padding=dilation, dilation=dilation),
            *self.rectifier(),
            Convolution(d, 1, 1),
            *self.last(1),
        )

    def rectifier(self) -> list[nn.Module]:
        """What stands between two layers of a branch."""
        return [BatchNorm(self.hidden_channels), nn.ReLU()] if self.variant == "code" else [nn.ReLU()]

    def last(self, channels: int) -> list[nn.Module]:
        """What stands at the end of a branch."""
        return [] if self.variant == "code" else [BatchNorm(channels)]

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        channel = functional.spread(self.channel(x.mean(dim=tuple(range(2, x.ndim)))), x)  # (B, C, *ones)
        spatial = self.spatial(x)  # (B, 1, *spatial)
        gate = (channel * spatial if self.variant == "code" else channel + spatial).sigmoid()  # (B, C, *spatial)
        gate = self.offer("gate", gate)
        return torch.addcmul(x, x, gate)  # (B, C, *spatial)
