"""Coordinate attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class CoordinateAttention(Refine):
    """Coordinate attention: for every channel a gate a row and a gate a column.

        s   = [mean over each row of x; mean over each column of x]     (B, C, H + W)
        f   = hswish(norm(W1 s + b1))                                   (B, m, H + W)
        g_h = sigmoid(W_h f_rows + b_h)                                 (B, C, H)
        g_w = sigmoid(W_w f_columns + b_w)                              (B, C, W)
        y   = g_h · g_w · x

    Paper: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021; the nonlinearity and
    the smallest bottleneck are those of the authors' code.

    Args:
        channels: channels `C` of the map.
        reduction: `C / m`, the paper's r; default 32, the paper's choice. The bottleneck has at least eight channels.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        height: the gate of every row `(batch, channel, height)`, each in 0..1.
        width: the gate of every column `(batch, channel, width)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count or is not two-dimensional.
    """

    name: ClassVar[str] = "coordinate"
    aliases: ClassVar[tuple[str, ...]] = ("coord", "coordatt", "coord_attn", "coordinate_att")
    paper: ClassVar[Paper] = Paper(
        "Coordinate Attention for Efficient Mobile Network Design", "Hou et al.", "CVPR", 2021
    )
    formula: ClassVar[str] = (
        "f = hswish(norm(W1 [mean_w(x); mean_h(x)] + b1)); y = x · sigmoid(W_h f_h + b_h) · sigmoid(W_w f_w + b_w)"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("height", ("batch", "channel", "height")),
        MapFact("width", ("batch", "channel", "width")),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*m + 3*m + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "m": "hidden_channels"}
    placement: ClassVar[str] = "in every inverted residual, after the depthwise convolution"
    place = "branch"

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction, least=8)
        self.squeeze = nn.Conv1d(channels, self.hidden_channels, 1)
        self.norm = BatchNorm(self.hidden_channels)
        self.height = nn.Conv1d(self.hidden_channels, channels, 1)
        self.width = nn.Conv1d(self.hidden_channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        both = F.hardswish(self.norm(self.squeeze(functional.coordinate_means(x))))  # (B, m, H+W)
        rows, columns = both.split((x.shape[2], x.shape[3]), dim=2)  # (B, m, H), (B, m, W)
        height = self.height(rows).sigmoid()  # (B, C, H)
        width = self.width(columns).sigmoid()  # (B, C, W)
        height = self.offer("height", height)
        width = self.offer("width", width)
        return x * height[:, :, :, None] * width[:, :, None]  # (B, C, H, W)
