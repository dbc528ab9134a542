"""Triplet attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class TripletAttention(Refine):
    """Triplet attention: a gate for every pair of channel, height and width, each pair with a spatial gate of its own.

        a_hc = sigmoid(bn(conv_k([max over w of x; mean over w of x])))      (B, H, C)
        a_cw = sigmoid(bn(conv_k([max over h of x; mean over h of x])))      (B, C, W)
        a_hw = sigmoid(bn(conv_k([max over c of x; mean over c of x])))      (B, H, W)
        y    = (a_hc + a_cw + a_hw) / 3 · x

    with three convolutions from two channels to one, for which two axes of `x` are the image.

    Paper: Misra, Nalamada, Arasanipalai, Hou, "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021,
    section 3; the momentum 0.01 of the normalisation is that of the authors' code. The paper's rotations are
    left out: each branch pools the axis that a rotation would have brought to the front.

    Args:
        channels: channels `C` of the map, which the parameters do not depend on.
        kernel_size: size `k` of the three convolutions, odd; default 7, the paper's choice.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        height_channel: the gate `(batch, height, channel)`, each in 0..1.
        channel_width: the gate `(batch, channel, width)`, each in 0..1.
        spatial: the gate `(batch, height, width)`, each in 0..1.

    Raises:
        ValueError: `kernel_size` is even or less than one.
        ShapeError: the input has another channel count or is not two-dimensional.
    """

    name: ClassVar[str] = "triplet"
    aliases: ClassVar[tuple[str, ...]] = ("rotate_to_attend",)
    paper: ClassVar[Paper] = Paper(
        "Rotate to Attend: Convolutional Triplet Attention Module", "Misra et al.", "WACV", 2021
    )
    formula: ClassVar[str] = (
        "y = x · (gate(pool_w(x)) + gate(pool_h(x)) + gate(pool_c(x))) / 3 "
        "with gate(z) = sigmoid(bn(conv_k(z))) and pool(x) = [max(x); mean(x)]"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("height_channel", ("batch", "height", "channel")),
        MapFact("channel_width", ("batch", "channel", "width")),
        MapFact("spatial", ("batch", "height", "width")),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "6*k*k + 6"
    letters: ClassVar[dict[str, str]] = {"k": "kernel_size"}
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.height_channel = self.branch()
        self.channel_width = self.branch()
        self.spatial = self.branch()

    def branch(self) -> nn.Sequential:
        """The gate of one plane, of the two statistics of the axis across it."""
        return nn.Sequential(
            nn.Conv2d(2, 1, self.kernel_size, padding=self.kernel_size // 2, bias=False),
            BatchNorm(1, momentum=0.01),
            nn.Sigmoid(),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        across_width = functional.peak_and_mean(x, 3).transpose(2, 3)  # (B, 2, H, C)
        height_channel = self.height_channel(across_width)[:, 0]  # (B, H, C)
        channel_width = self.channel_width(functional.peak_and_mean(x, 2))[:, 0]  # (B, C, W)
        spatial = self.spatial(functional.peak_and_mean(x, 1))[:, 0]  # (B, H, W)
        height_channel = self.offer("height_channel", height_channel)
        channel_width = self.offer("channel_width", channel_width)
        spatial = self.offer("spatial", spatial)
        gate = height_channel.mT[..., None] + channel_width[:, :, None] + spatial[:, None]  # (B, C, H, W)
        return x * (gate / 3)  # (B, C, H, W)
