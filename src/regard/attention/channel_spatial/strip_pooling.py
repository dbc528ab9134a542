"""Strip pooling."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact

Variant = Literal["paper", "code"]


class StripPooling(Refine):
    """Strip pooling: a gate for every value, from the row and the column that cross in it.

        r = conv_3(mean over each row of x)           (B, C, H)
        c = conv_3(mean over each column of x)        (B, C, W)
        a = sigmoid(conv_1(r + c))                    (B, C, H, W)
        y = a · x

    with two convolutions of size 3, of rows and of columns.

    Paper: Hou, Zhang, Cheng, Feng, "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", CVPR 2020. A batch of
    one trains the variant of the code: where a strip has no variance, its running one is used.

    Args:
        channels: channels `C` of the map.
        variant: `"paper"`, the default, as above; `"code"`: `a = sigmoid(conv_1(relu(bn(r) + bn(c))))`, where the
            convolutions of size 3 have no bias.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        gate: `(batch, channel, height, width)`, each in 0..1.

    Raises:
        ValueError: there is no such variant.
        ShapeError: the input has another channel count or is not two-dimensional.
    """

    name: ClassVar[str] = "strip_pooling"
    aliases: ClassVar[tuple[str, ...]] = ("strip", "spnet", "strip_pool")
    paper: ClassVar[Paper] = Paper(
        "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", "Hou et al.", "CVPR", 2020
    )
    formula: ClassVar[str] = "y = x · sigmoid(conv_1(conv_3(mean_w(x)) + conv_3(mean_h(x))))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "channel", "height", "width")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "7*C*C + 3*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'variant="code": batch normalisation of both strips and a rectifier of their sum, as in the authors\' code',
    )
    placement: ClassVar[str] = "in the last residual block of every stage, and in every block of the last one"
    place = "branch"

    def __init__(self, channels: int, variant: Variant = "paper") -> None:
        super().__init__()
        self.channels = channels
        self.variant = variant
        self.height = self.strip()
        self.width = self.strip()
        self.excite = nn.Conv1d(channels, channels, 1)

    def strip(self) -> nn.Sequential:
        """The convolution along a strip, with what the variant puts behind it."""
        code = self.variant == "code"
        convolution = nn.Conv1d(self.channels, self.channels, 3, padding=1, bias=not code)
        return nn.Sequential(convolution, *([BatchNorm(self.channels)] if code else []))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        rows, columns = functional.coordinate_means(x).split((x.shape[2], x.shape[3]), dim=2)
        rows, columns = self.height(rows), self.width(columns)  # (B, C, H), (B, C, W)
        if self.variant == "code":
            crossed = (rows[..., None] + columns[:, :, None]).relu()  # (B, C, H, W)
            scores = self.excite(crossed.flatten(2)).reshape(x.shape)  # (B, C, H, W)
        else:
            # The last convolution is linear: it acts on the strips, before they become a map.
            scores = self.excite(rows)[..., None] + F.conv1d(columns, self.excite.weight)[:, :, None]
        gate = torch.sigmoid(scores)  # (B, C, H, W)
        gate = self.offer("gate", gate)
        return x * gate  # (B, C, H, W)
