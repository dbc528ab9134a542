"""Selective kernel."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import reduced
from regard.attention.contract import Convolve, Paper
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class SelectiveKernel(Convolve):
    """Selective kernel convolution: every channel mixes branches of growing receptive field.

        u_r = relu(bn(conv_r(x)))                        for the branches r = 1..R, conv_r with dilation r
        s   = mean over positions of Σ_r u_r             fuse     (B, C)
        z   = relu(bn(W s))                                       (B, d)
        a_r = softmax over r of A_r z                    select   (B, R, C)
        y   = Σ_r a_r · u_r

    Paper: Li, Wang, Hu, Yang, "Selective Kernel Networks", CVPR 2019. Its 5 by 5 kernel is, as there, a 3 by 3 one with
    dilation 2. A batch of one trains: where the pooled vector has no variance, its running one is used.

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output.
        kernel_size: of every branch, odd; default 3.
        stride: of every branch; default 1.
        groups: of every branch; default 1, as of a `nn.Conv2d`. SKNet-50 has 32, the paper's G.
        branches: number of branches `R`, the paper's M; default 2, the paper's choice.
        reduction: `C / d`, the paper's r; default 16, the paper's choice.
        minimum_width: least width `d` of the bottleneck, the paper's L; default 32, the paper's choice.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        branch: `(batch, branch, channel)`, sums to one over the branches.

    Raises:
        ValueError: `reduction` is less than one; the kernel size is even.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "sk"
    aliases: ClassVar[tuple[str, ...]] = ("sknet", "sk_attention", "sk_conv", "selective_kernel_attn")
    paper: ClassVar[Paper] = Paper("Selective Kernel Networks", "Li et al.", "CVPR", 2019)
    formula: ClassVar[str] = "y = Σ_r softmax_r(A_r relu(bn(W mean(Σ_r u_r)))) · u_r with u_r = relu(bn(conv_r(x)))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("branch", ("batch", "branch", "channel"), ("branch",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "R*(9*I*C + 2*C) + C*d + 2*d + R*C*d"
    letters: ClassVar[dict[str, str]] = {
        "I": "in_channels",
        "C": "out_channels",
        "R": "branches",
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
        branches: int = 2,
        reduction: int = 16,
        minimum_width: int = 32,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.branches = branches
        self.hidden_channels = reduced(out_channels, reduction, least=minimum_width)
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    in_channels,
                    out_channels,
                    kernel_size,
                    stride=stride,
                    padding=dilation * (kernel_size // 2),
                    dilation=dilation,
                    groups=groups,
                    bias=False,
                ),
                BatchNorm(out_channels),
                nn.ReLU(),
            )
            for dilation in range(1, branches + 1)
        )
        self.squeeze = nn.Sequential(
            nn.Linear(out_channels, self.hidden_channels, bias=False), BatchNorm(self.hidden_channels), nn.ReLU()
        )
        self.select = nn.Linear(self.hidden_channels, branches * out_channels, bias=False)

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        outputs = [convolution(x) for convolution in self.convolutions]  # R of (B, C, h, w)
        mean = sum(output.mean(dim=(2, 3)) for output in outputs)  # (B, C), the mean of the sum
        scores = self.select(self.squeeze(mean)).unflatten(1, (self.branches, -1))  # (B, R, C)
        weights = scores.softmax(1)  # (B, R, C)
        weights = self.offer("branch", weights)
        parts = [weight[..., None, None] * output for weight, output in zip(weights.unbind(1), outputs, strict=True)]
        y = parts[0]
        for part in parts[1:]:
            y = y + part
        return y  # (B, C, h, w)
