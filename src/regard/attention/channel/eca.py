"""Efficient channel attention."""

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class EfficientChannelAttention(Refine):
    """Efficient channel attention: one gate a channel, from the means of the channels next to it.

        s   = mean over positions of x        (B, C)
        g_c = sigmoid(Σ_j w_j s_{c+j})        j in -(k-1)/2 .. (k-1)/2, zeros beyond the ends
        y   = g · x

    The kernel size follows the channel count: `k` is `(log2 C + 1) / 2` without its fraction, plus one if that is even.

    Paper: Wang, Wu, Zhu, Li, Zuo, Hu, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    CVPR 2020, with γ = 2, b = 1.

    Args:
        channels: channels `C` of the map.
        kernel_size: how many channels `k` a gate sees, odd; default from the channel count.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `kernel_size` is even or less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "eca"
    aliases: ClassVar[tuple[str, ...]] = ("eca_net", "eca_module", "eca_attention", "eca_layer")
    paper: ClassVar[Paper] = Paper(
        "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", "Wang et al.", "CVPR", 2020
    )
    formula: ClassVar[str] = "y = x · sigmoid(conv1d_k(mean(x)))"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "k"
    letters: ClassVar[dict[str, str]] = {"k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        "kernel_size=3: not from the channel count; the authors' class has this default, and their ResNet-50 takes "
        "3, 5, 5, 7 where the formula gives 5, 5, 5, 7",
    )
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size_for(channels) if kernel_size is None else kernel_size
        self.mix = nn.Conv1d(1, 1, self.kernel_size, padding=self.kernel_size // 2, bias=False)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mean = x.mean(dim=tuple(range(2, x.ndim)))  # (B, C)
        gate = self.mix(mean[:, None])[:, 0].sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)


def kernel_size_for(channels: int) -> int:
    """The paper's kernel size for a channel count: 3, 5, 5, 5, 7 for 64, 256, 512, 1024, 2048 channels."""
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1
