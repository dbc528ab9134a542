"""Large selective kernel attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class LargeSelectiveKernel(Refine):
    """Large selective kernel: at every position, how much of a near and of a far view makes the factor of each value.

        u_1 = dw_5(x),  u_2 = dw_7(u_1)                                             dw_7 with dilation 3
        v_i = conv_1(u_i)                                                           (B, d, H, W)
        a   = sigmoid(conv_7([mean over channels of v; max over channels of v]))    (B, 2, H, W)
        s   = conv_1(a_1 · v_1 + a_2 · v_2)                                         (B, C, H, W)
        y   = s · x

    where `v` is all channels of `v_1` and `v_2`.

    Paper: Li, Hou, Zheng, Cheng, Yang, Li, "Large Selective Kernel Network for Remote Sensing Object Detection", ICCV
    2023, sections 3.2 and 3.3; the halved channels of `v_i` and the size 7 of the convolution of the two statistics are
    those of the authors' code.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 2, as in the authors' code. There is at least one channel.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        branch: how much of the near and of the far view `(batch, branch, height, width)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count or is not two-dimensional.
    """

    name: ClassVar[str] = "large_selective_kernel"
    aliases: ClassVar[tuple[str, ...]] = ("lsk", "lsknet")
    paper: ClassVar[Paper] = Paper(
        "Large Selective Kernel Network for Remote Sensing Object Detection", "Li et al.", "ICCV", 2023
    )
    formula: ClassVar[str] = (
        "y = x · conv_1(a_1 · v_1 + a_2 · v_2) with a = sigmoid(conv_7([mean_c(v); max_c(v)])), "
        "v_1 = conv_1(dw_5(x)), v_2 = conv_1(dw_7(dw_5(x)))"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("branch", ("batch", "branch", "height", "width")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*d + 2*d + 77*C + 198"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = ("reduction=1: both views keep all channels, as the equations are written",)
    placement: ClassVar[str] = "in a transformer's block in place of its attention, behind a linear layer and a GELU"
    place = "branch"

    branches: ClassVar[int] = 2

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.near = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.far = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.near_view = nn.Conv2d(channels, self.hidden_channels, 1)
        self.far_view = nn.Conv2d(channels, self.hidden_channels, 1)
        self.select = nn.Conv2d(2, self.branches, 7, padding=3)
        self.excite = nn.Conv2d(self.hidden_channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        near = self.near(x)  # (B, C, H, W)
        one, two = self.near_view(near), self.far_view(self.far(near))  # (B, d, H, W) each
        mean = (one.mean(1) + two.mean(1)) / 2  # (B, H, W)
        peak = torch.maximum(one.amax(1), two.amax(1))  # (B, H, W)
        weights = self.select(torch.stack((mean, peak), 1)).sigmoid()  # (B, 2, H, W)
        weights = self.offer("branch", weights)
        selected = torch.addcmul(one * weights[:, :1], two, weights[:, 1:])  # (B, d, H, W)
        return x * self.excite(selected)  # (B, C, H, W)
