"""The feature fusion module."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Merge, Paper
from regard.attention.layout import memory_format
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class FeatureFusion(Merge):
    """Feature fusion: two maps are projected to one, whose channels a gate strengthens.

        u = relu(bn(W [x; y]))                                  (B, C, *spatial)
        g = sigmoid(W2 relu(W1 mean over positions of u))       (B, C)
        z = u + g · u

    Paper: Yu, Wang, Peng, Gao, Yu, Sang, "BiSeNet: Bilateral Segmentation Network for Real-time Semantic
    Segmentation", ECCV 2018, figure 2c. `W`, `W1` and `W2` act on each position alone and have no biases.

    Args:
        channels: channels `C` of both maps and of the output.
        reduction: `C / d`; default 1, as in the authors' code; the paper states none.

    Shapes:
        x, y: `(B, C, *spatial)`, of one shape, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the inputs differ in shape or have another channel count.
    """

    name: ClassVar[str] = "feature_fusion"
    aliases: ClassVar[tuple[str, ...]] = ("ffm", "feature_fusion_module")
    paper: ClassVar[Paper] = Paper(
        "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", "Yu et al.", "ECCV", 2018
    )
    formula: ClassVar[str] = "z = u + u · sigmoid(W2 relu(W1 mean(u))) with u = relu(bn(W [x; y]))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*C + 2*C + 2*C*d"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = ("reduction=4: a bottleneck in the gate, as in many implementations",)
    placement: ClassVar[str] = "where a detailed and a coarse path of a segmentation network meet"
    place = "skip"

    def __init__(self, channels: int, reduction: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.project = nn.Sequential(nn.Conv1d(2 * channels, channels, 1, bias=False), BatchNorm(channels), nn.ReLU())
        self.squeeze = nn.Linear(channels, self.hidden_channels, bias=False)
        self.excite = nn.Linear(self.hidden_channels, channels, bias=False)

    def forward(
        self, x: Float[Tensor, "B C *spatial"], y: Float[Tensor, "B C *spatial"]
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(x, y)
        both = torch.cat((x, y), 1).flatten(2)  # (B, 2·C, N)
        fused = self.project(both).reshape(x.shape).contiguous(memory_format=memory_format(x))  # (B, C, *spatial)
        mean = fused.mean(dim=tuple(range(2, x.ndim)))  # (B, C)
        gate = self.excite(self.squeeze(mean).relu()).sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return fused * functional.spread(1 + gate, fused)  # (B, C, *spatial)
