"""Large kernel attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from regard.attention.arguments import convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact


class LargeKernelAttention(Refine):
    """Large kernel attention: a large convolution, in three parts, says how much of every value is kept.

        a = conv_1(dw_b(dw_a(x)))     (B, C, *spatial)
        y = a · x

    with depthwise convolutions of size `a = 2δ - 1`, and of size `b = ⌈K/δ⌉` with dilation `δ`: together they reach as
    far as one of size `K`. The weights are of either sign, no gate.

    Paper: Guo, Lu, Liu, Cheng, Hu, "Visual Attention Network", Computational Visual Media 2023, section 3.1.

    Args:
        channels: channels `C` of the map.
        kernel_size: the size `K` that is taken apart; default 21, the paper's choice. `⌈K/δ⌉` is odd.
        dilation: the paper's d, above called δ; default 3, the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        attention: the factor of every value `(batch, channel, *spatial)`, of either sign.

    Raises:
        ValueError: `⌈K/δ⌉` is even, `dilation` is less than one, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "large_kernel"
    aliases: ClassVar[tuple[str, ...]] = ("lka", "van")
    paper: ClassVar[Paper] = Paper("Visual Attention Network", "Guo et al.", "Computational Visual Media", 2023)
    formula: ClassVar[str] = "y = x · conv_1(dw_7(dw_5(x))), dw_7 with dilation 3"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "C*C + (a*a + b*b + 3)*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "a": "near_size", "b": "far_size"}
    placement: ClassVar[str] = "in a transformer's block in place of its attention, behind a linear layer and a GELU"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 21, dilation: int = 3, dims: int = 2) -> None:
        super().__init__()
        Convolution = convolution_over(dims)
        self.channels = channels
        self.near_size = 2 * dilation - 1
        self.far_size = -(-kernel_size // dilation)
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        if self.far_size % 2 == 0:
            raise ValueError(
                f"kernel_size={kernel_size} in steps of dilation={dilation} is a kernel of size {self.far_size}, "
                "which has no middle: give sizes whose quotient, rounded up, is odd, such as 21 and 3."
            )
        self.near = Convolution(channels, channels, self.near_size, padding=dilation - 1, groups=channels)
        self.far = Convolution(
            channels,
            channels,
            self.far_size,
            padding=dilation * (self.far_size // 2),
            dilation=dilation,
            groups=channels,
        )
        self.mix = Convolution(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        attention = self.mix(self.far(self.near(x)))  # (B, C, *spatial)
        attention = self.offer("attention", attention)
        return x * attention  # (B, C, *spatial)
