"""Concurrent spatial and channel squeeze-and-excitation."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact

Fusion = Literal["sum", "max"]


class ConcurrentSqueezeExcitation(Refine):
    """Concurrent squeeze-and-excitation: a gate a channel and a gate a position, both of the same input.

        g = sigmoid(W2 relu(W1 mean over positions of x + b1) + b2)      (B, C)
        a = sigmoid(w · x_p + b) at every position p                     (B, *spatial)
        y = g · x + a · x

    Paper: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
    MICCAI 2018, section 2.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 2, the paper's choice. The bottleneck has at least one channel.
        fusion: `"sum"` of the two gated maps, or their elementwise `"max"`; default `"sum"`, the paper's choice.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.
        spatial: the gate `(batch, *spatial)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one; there is no such `fusion`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "scse"
    aliases: ClassVar[tuple[str, ...]] = ("scse_module", "channel_spatial_se", "csse")
    paper: ClassVar[Paper] = Paper(
        "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
        "Roy et al.",
        "MICCAI",
        2018,
    )
    formula: ClassVar[str] = "y = x · sigmoid(W2 relu(W1 mean(x) + b1) + b2) + x · sigmoid(w · x_p + b)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("channel", ("batch", "channel")),
        MapFact("spatial", ("batch", SPATIAL)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*d + d + 2*C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'fusion="max": the larger of the two gated values, as in the authors\' later paper (Roy et al., IEEE TMI 2019)',
    )
    placement: ClassVar[str] = "after every stage of the encoder and every decoder block of a segmentation network"
    place = "stage"

    def __init__(self, channels: int, reduction: int = 2, fusion: Fusion = "sum") -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.fusion = fusion
        self.squeeze = nn.Linear(channels, self.hidden_channels)
        self.excite = nn.Linear(self.hidden_channels, channels)
        self.spatial = nn.Linear(channels, 1)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mean = x.mean(dim=tuple(range(2, x.ndim)))  # (B, C)
        channel = self.excite(self.squeeze(mean).relu()).sigmoid()  # (B, C)
        channel = self.offer("channel", channel)
        spatial = functional.position_scores(x, self.spatial.weight, self.spatial.bias).sigmoid()  # (B, *spatial)
        spatial = self.offer("spatial", spatial)
        gated = x * functional.spread(channel, x)  # (B, C, *spatial)
        if self.fusion == "max":
            return torch.maximum(gated, x * spatial[:, None])
        return torch.addcmul(gated, x, spatial[:, None])  # (B, C, *spatial)
