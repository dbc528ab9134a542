"""Multi-scale convolutional attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class MultiScaleConvolutionalAttention(Refine):
    """Multi-scale convolutional attention: strips of several lengths say how much of every value is kept.

        u = dw_5(x)                                                   (B, C, H, W)
        a = conv_1(u + Σ_k dw_{k,1}(dw_{1,k}(u)))    k = 7, 11, 21    (B, C, H, W)
        y = a · x

    with depthwise convolutions `dw`. The weights are of either sign, no gate.

    Paper: Guo, Lu, Hou, Liu, Cheng, Hu, "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation",
    NeurIPS 2022, equations 1 and 2.

    Args:
        channels: channels `C` of the map.
        kernel_size: of the first depthwise convolution, odd; default 5, the paper's choice.
        strip_sizes: the strips' lengths `k`, odd; default 7, 11 and 21, the paper's choice.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        attention: the factor of every value `(batch, channel, height, width)`, of either sign.

    Raises:
        ValueError: a size is even or less than one.
        ShapeError: the input has another channel count or is not two-dimensional.
    """

    name: ClassVar[str] = "multi_scale_convolutional"
    aliases: ClassVar[tuple[str, ...]] = ("msca", "segnext")
    paper: ClassVar[Paper] = Paper(
        "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation", "Guo et al.", "NeurIPS", 2022
    )
    formula: ClassVar[str] = "y = x · conv_1(u + Σ_k dw_{k,1}(dw_{1,k}(u))) with u = dw_5(x), k = 7, 11, 21"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "channel", "height", "width")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "C*C + C + (25 + 1 + 2*(7 + 1) + 2*(11 + 1) + 2*(21 + 1))*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "in a transformer's block in place of its attention, behind a linear layer and a GELU"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 5, strip_sizes: tuple[int, ...] = (7, 11, 21)) -> None:
        super().__init__()
        self.channels = channels
        self.near = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.strips = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, (1, size), padding=(0, size // 2), groups=channels),
                nn.Conv2d(channels, channels, (size, 1), padding=(size // 2, 0), groups=channels),
            )
            for size in strip_sizes
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        near = self.near(x)  # (B, C, H, W)
        scales = near
        for strip in self.strips:
            scales = scales + strip(near)
        attention = self.mix(scales)  # (B, C, H, W)
        attention = self.offer("attention", attention)
        return x * attention  # (B, C, H, W)
