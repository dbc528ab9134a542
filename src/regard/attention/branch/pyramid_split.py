"""Pyramid split attention."""

from math import gcd
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import reduced
from regard.attention.contract import Convolve, Paper
from regard.attention.offering import MapFact

GROUPS = (1, 4, 8, 16)


class PyramidSplitAttention(Convolve):
    """Pyramid split attention: kernels of growing size, whose outputs compete channel by channel.

        F_i = conv_i(x)                                        i = 1..4, kernels k, k+2, k+4, k+6, C/4 channels each
        Z_i = sigmoid(W2 relu(W1 mean(F_i) + b1) + b2)         one network for all splits     (B, C/4)
        a_i = softmax over i of Z_i
        y   = [a_1 · F_1; ..; a_4 · F_4]

    Paper: Zhang, Zu, Lu, Zou, Meng, "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural
    Network", ACCV 2022, equations 1 to 9. The splits have 1, 4, 8 and 16 groups, or the greatest common divisor of
    that and the channel counts.

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output, a multiple of 4.
        kernel_size: of the first split, odd; default 3, the paper's choice: 3, 5, 7 and 9.
        stride: of every split; default 1.
        groups: by which the number of groups of every split is multiplied; default 1.
        reduction: `C / 4d`; default 16, as in squeeze-and-excitation. The bottleneck has at least one channel.
        shared: whether all splits have one network for `Z`; default True, the paper's `SEWeight`.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        split: `(batch, branch, split_channel)`, sums to one over the branches.

    Raises:
        ValueError: `reduction` is less than one; the kernel size is even, or `out_channels` is no multiple of 4.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "pyramid_split"
    aliases: ClassVar[tuple[str, ...]] = ("epsa", "epsanet", "psa_module")
    paper: ClassVar[Paper] = Paper(
        "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural Network",
        "Zhang et al.",
        "ACCV",
        2022,
    )
    formula: ClassVar[str] = "y = [a_i · F_i] with F_i = conv_i(x), a = softmax_i(sigmoid(W2 relu(W1 mean(F_i))))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("split", ("batch", "branch", "split_channel"), ("branch",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "I*c*(9//G[0]) + I*c*25//G[1] + I*c*49//G[2] + I*c*81//G[3] + 2*c*d + d + c"
    letters: ClassVar[dict[str, str]] = {
        "I": "in_channels",
        "c": "split_channels",
        "G": "split_groups",
        "d": "hidden_channels",
    }
    deviations: ClassVar[tuple[str, ...]] = ("shared=False: each split has a network of its own",)
    placement: ClassVar[str] = "in place of the 3x3 convolution of every residual block"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        reduction: int = 16,
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.branches = len(GROUPS)
        if out_channels % self.branches:
            raise ValueError(
                f"PyramidSplitAttention got out_channels={out_channels}, expected a multiple of {self.branches}: "
                "each split gives the same share of them."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.split_channels = out_channels // self.branches
        self.split_groups = tuple(gcd(groups * wanted, in_channels, self.split_channels) for wanted in GROUPS)
        self.hidden_channels = reduced(self.split_channels, reduction)
        sizes = range(kernel_size, kernel_size + 2 * self.branches, 2)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                in_channels, self.split_channels, size, stride=stride, padding=size // 2, groups=count, bias=False
            )
            for size, count in zip(sizes, self.split_groups, strict=True)
        )
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(self.split_channels, self.hidden_channels),
                nn.ReLU(),
                nn.Linear(self.hidden_channels, self.split_channels),
                nn.Sigmoid(),
            )
            for _ in range(1 if shared else self.branches)
        )

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        splits = [convolution(x) for convolution in self.convolutions]  # 4 of (B, C/4, h, w)
        means = [split.mean(dim=(2, 3)) for split in splits]  # 4 of (B, C/4)
        last = len(self.networks) - 1
        scores = torch.stack([self.networks[min(i, last)](mean) for i, mean in enumerate(means)], 1)  # (B, 4, C/4)
        weights = scores.softmax(1)  # (B, 4, C/4)
        weights = self.offer("split", weights)
        weighted = [split * weight[..., None, None] for split, weight in zip(splits, weights.unbind(1), strict=True)]
        return torch.cat(weighted, 1)  # (B, C, h, w)
