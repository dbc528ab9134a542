"""Attention refinement."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class AttentionRefinement(Refine):
    """Attention refinement: one gate a channel, from the means of all channels, without a bottleneck.

        s = mean over positions of x     (B, C)
        g = sigmoid(norm(W s))           (B, C)
        y = g · x

    In training on one image, `norm` uses its running statistics.

    Paper: Yu, Wang, Peng, Gao, Yu, Sang, "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
    ECCV 2018, section 3.2 and figure 2b: the attention refinement module. The convolution of size 3 that
    implementations put in front of it, to change the channel count, is none of it.

    Args:
        channels: channels `C` of the map.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "attention_refinement"
    aliases: ClassVar[tuple[str, ...]] = ("arm",)
    paper: ClassVar[Paper] = Paper(
        "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", "Yu et al.", "ECCV", 2018
    )
    formula: ClassVar[str] = "y = x · sigmoid(norm(W mean(x)))"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "C*C + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "after the last two stages of the context path, before they are enlarged and merged"
    place = "stage"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.excite = nn.Linear(channels, channels, bias=False)
        self.norm = BatchNorm(channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mean = x.mean(dim=tuple(range(2, x.ndim)))  # (B, C)
        gate = self.norm(self.excite(mean)).sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
