"""Efficient multi-scale attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class EfficientMultiScaleAttention(Refine):
    """Efficient multi-scale attention: two views of every group of channels, each weighing the other's positions.

        s   = conv_1([mean over each row of x; mean over each column of x])       (q, H + W)
        x_1 = norm(x · sigmoid(s_rows) · sigmoid(s_columns))                      (q, H, W)
        x_2 = conv_3(x)                                                           (q, H, W)
        w_i = softmax over channels of (mean over positions of x_i)               (q,)
        a   = sigmoid(w_1 · x_2 + w_2 · x_1)     at every position                (H, W)
        y   = a · x

    in each of `G` groups of `q = C / G` channels, with the same parameters. `norm` is group normalisation of each
    channel alone, as in the authors' code.

    Paper: Ouyang, He, Zhang, Luo, Guo, Zhan, Huang, "Efficient Multi-Scale Attention Module with Cross-Spatial
    Learning", ICASSP 2023, section 3.

    Args:
        channels: channels `C` of the map.
        groups: the paper's G; default 32, the paper's choice. The largest divisor of `C` not above it is taken.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        spatial: the gate `(batch, group, height, width)`, each in 0..1.

    Raises:
        ValueError: `groups` is less than one.
        ShapeError: the input has another channel count or is not two-dimensional.
    """

    name: ClassVar[str] = "efficient_multi_scale"
    aliases: ClassVar[tuple[str, ...]] = ("ema", "ema_attention")
    paper: ClassVar[Paper] = Paper(
        "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", "Ouyang et al.", "ICASSP", 2023
    )
    formula: ClassVar[str] = (
        "y = x · sigmoid(softmax(mean(x_1)) · x_2 + softmax(mean(x_2)) · x_1) "
        "with x_1 = norm(x · sigmoid(s_h) · sigmoid(s_w)), s = conv_1([mean_w(x); mean_h(x)]), x_2 = conv_3(x)"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", "group", "height", "width")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "10*q*q + 4*q"
    letters: ClassVar[dict[str, str]] = {"q": "group_channels"}
    placement: ClassVar[str] = "after a convolutional block of a backbone or of a detector's neck"
    place = "block"

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.groups = functional.largest_divisor(channels, groups)
        self.group_channels = channels // self.groups
        self.coordinate = nn.Conv1d(self.group_channels, self.group_channels, 1)
        self.norm = nn.GroupNorm(self.group_channels, self.group_channels)
        self.local = nn.Conv2d(self.group_channels, self.group_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        grouped = x.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (B·G, q, H, W)
        gates = self.coordinate(functional.coordinate_means(grouped)).sigmoid()  # (B·G, q, H+W)
        rows, columns = gates.split((x.shape[2], x.shape[3]), dim=2)  # (B·G, q, H), (B·G, q, W)
        # Not the module itself, which refuses a single position in training.
        one = torch.group_norm(
            grouped * rows[..., None] * columns[:, :, None],
            self.group_channels,
            self.norm.weight,
            self.norm.bias,
            self.norm.eps,
        )  # (B·G, q, H, W)
        two = self.local(grouped)  # (B·G, q, H, W)
        weights_one = self.norm.bias.softmax(0).expand(one.shape[0], 1, -1)  # (B·G, 1, q): a normalised channel's mean
        weights_two = two.mean(dim=(2, 3)).softmax(1)[:, None]  # (B·G, 1, q)
        scores = torch.bmm(weights_one, two.flatten(2)) + torch.bmm(weights_two, one.flatten(2))  # (B·G, 1, H·W)
        gate = scores.sigmoid().reshape(-1, self.groups, *x.shape[2:])  # (B, G, H, W)
        gate = self.offer("spatial", gate)
        return (x.unflatten(1, (self.groups, -1)) * gate[:, :, None]).flatten(1, 2)  # (B, C, H, W)
