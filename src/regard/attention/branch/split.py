"""Split attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import reduced
from regard.attention.contract import Convolve, Paper
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class SplitAttention(Convolve):
    """Split attention: every channel mixes the splits of a grouped convolution.

        [u_1 .. u_R] = relu(bn(conv(x)))             R splits of C channels, conv with K·R groups
        s   = mean over positions of Σ_r u_r                                    (B, C)
        z   = relu(bn(W1 s + b1))                    W1, W2 in K groups         (B, d)
        a_r = softmax over r of (W2 z + b2)_r        of one split: sigmoid      (B, R, C)
        y   = Σ_r a_r · u_r

    Paper: Zhang, Wu, Zhang, Zhu, Lin, Zhang, Sun, He, Mueller, Manmatha, Li, Smola, "ResNeSt: Split-Attention
    Networks", CVPR Workshops 2022; the normalisation of `z` and the least width are those of the authors' code. A batch
    of one trains: where the pooled vector has no variance, its running one is used.

    Args:
        in_channels: channels of the input, a multiple of `groups · radix`.
        out_channels: channels `C` of the output, a multiple of `groups`.
        kernel_size: of the convolution, odd; default 3.
        stride: of the convolution; default 1.
        groups: number of cardinal groups, the paper's K; default 1, its ResNeSt-50.
        radix: number of splits `R` of every cardinal group; default 2, its ResNeSt-50.
        reduction: `R · Cin / d`; default 4, the paper's choice.
        minimum_width: least width `d` of the bottleneck, a multiple of `groups`; default 32, as in the authors' code.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        branch: `(batch, radix, channel)`, sums to one over the splits; of one split a gate in 0..1.

    Raises:
        ValueError: `reduction` is less than one; the kernel size is even, or the groups do not divide a channel count.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "split"
    aliases: ClassVar[tuple[str, ...]] = ("resnest", "split_attn", "splat")
    paper: ClassVar[Paper] = Paper("ResNeSt: Split-Attention Networks", "Zhang et al.", "CVPR Workshops", 2022)
    formula: ClassVar[str] = (
        "y = Σ_r softmax_r(W2 relu(bn(W1 mean(Σ_r u_r) + b1)) + b2) · u_r with [u_1 .. u_R] = relu(bn(conv(x)))"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("branch", ("batch", "radix", "channel"), ("radix",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "k*k*I*C + 3*R*C + C*d + 3*d + R*C*d"
    letters: ClassVar[dict[str, str]] = {
        "k": "kernel_size",
        "I": "in_channels",
        "C": "out_channels",
        "R": "radix",
        "d": "hidden_channels",
    }
    placement: ClassVar[str] = "in place of the 3x3 convolution of every residual block"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        radix: int = 2,
        reduction: int = 4,
        minimum_width: int = 32,
    ) -> None:
        super().__init__()
        hidden_channels = reduced(in_channels * radix, reduction, least=minimum_width)
        if in_channels % (groups * radix) or out_channels % groups or hidden_channels % groups:
            raise ValueError(
                f"SplitAttention got {in_channels} channels in, {hidden_channels} hidden and {out_channels} out, "
                f"expected multiples of groups·radix = {groups * radix}, groups = {groups} and groups: "
                "give other groups, radix, reduction or minimum_width."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.groups = groups
        self.radix = radix
        self.hidden_channels = hidden_channels
        self.convolution = nn.Sequential(
            nn.Conv2d(
                in_channels,
                radix * out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups * radix,
                bias=False,
            ),
            BatchNorm(radix * out_channels),
            nn.ReLU(),
        )
        self.squeeze = nn.Sequential(
            nn.Conv1d(out_channels, hidden_channels, 1, groups=groups), BatchNorm(hidden_channels), nn.ReLU()
        )
        self.select = nn.Conv1d(hidden_channels, radix * out_channels, 1, groups=groups)
        if radix == 1:
            self.maps = (MapFact("branch", ("batch", "radix", "channel")),)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        splits = self.convolution(x)  # (B, R·C, h, w)
        mean = splits.mean(dim=(2, 3)).unflatten(1, (self.radix, -1)).sum(1)  # (B, C), the mean of the sum
        weights = self.weights(self.select(self.squeeze(mean[:, :, None]))[:, :, 0])  # (B, R, C)
        weights = self.offer("branch", weights)
        weighted = [
            weight[..., None, None] * split
            for weight, split in zip(weights.unbind(1), splits.chunk(self.radix, 1), strict=True)
        ]
        y = weighted[0]
        for part in weighted[1:]:
            y = y + part
        return y  # (B, C, h, w)

    def weights(self, scores: Float[Tensor, "B RC"]) -> Float[Tensor, "B R C"]:
        """The scores lie cardinal group by cardinal group, and within each split by split."""
        scores = scores.unflatten(1, (self.groups, self.radix, -1)).transpose(1, 2).flatten(2)  # (B, R, C)
        return scores.sigmoid() if self.radix == 1 else scores.softmax(1)
