"""Involution."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Convolve, Paper
from regard.attention.layout import memory_format
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class Involution(Convolve):
    """Involution: every position makes its own kernel, which the channels of a group share.

        H_p  = W1 relu(bn(W0 x_p)) + b1                          (k·k, G), from the pixel alone
        y_pc = Σ_u H_p,u,g x_{p+u},c                             over the k by k positions around p, g the group of c

    Paper: Li, Hu, Wang, Li, Wang, Tian, Wen, Zheng, Zhang, "Involution: Inverting the Inherence of Convolution for
    Visual Recognition", CVPR 2021. With a stride, the kernel is made from the mean of the pixels that it skips. The
    paper's takes and gives the same channels; where they differ, `x` in the sum is a linear map of it.

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output.
        kernel_size: of the kernels, odd; default 7, the paper's choice.
        stride: between the positions of the output; default 1.
        groups: number `G` of kernels at a position, a divisor of `out_channels`; default one for every 16 channels, the
            paper's choice, or the next smaller number that divides them.
        reduction: `C / d`, the paper's r; default 4, the paper's choice. The bottleneck has at least one channel.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        kernel: `(batch, groups, kernel_position, query)`: of every output position, row by row, the weights of the
            positions around it, row by row, of any sign.

    Raises:
        ValueError: `reduction` is less than one; the kernel size is even, or `groups` does not divide `out_channels`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "involution"
    aliases: ClassVar[tuple[str, ...]] = ("rednet",)
    paper: ClassVar[Paper] = Paper(
        "Involution: Inverting the Inherence of Convolution for Visual Recognition", "Li et al.", "CVPR", 2021
    )
    formula: ClassVar[str] = "y_pc = Σ_u H_p,u,g(c) x_{p+u},c with H_p = W1 relu(bn(W0 x_p)) + b1"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("kernel", ("batch", "groups", "kernel_position", "query")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "I*d + 2*d + (d + 1)*k*k*G + m*I*C"
    letters: ClassVar[dict[str, str]] = {
        "I": "in_channels",
        "C": "out_channels",
        "d": "hidden_channels",
        "k": "kernel_size",
        "G": "groups",
        "m": "changes_channels",
    }
    placement: ClassVar[str] = "in place of the 3x3 convolution of every residual block"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 7,
        stride: int = 1,
        groups: int | None = None,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        if groups is None:
            groups = functional.largest_divisor(out_channels, max(1, out_channels // 16))
        if out_channels % groups:
            raise ValueError(f"Involution got groups={groups}, expected a divisor of its {out_channels} channels.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.kernel_positions = kernel_size**2
        self.stride = stride
        self.groups = groups
        self.hidden_channels = reduced(out_channels, reduction)
        self.changes_channels = in_channels != out_channels
        # At the border, where the stride leaves fewer pixels, their mean.
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.generate = nn.Sequential(
            nn.Conv2d(in_channels, self.hidden_channels, 1, bias=False),
            BatchNorm(self.hidden_channels),
            nn.ReLU(),
            nn.Conv2d(self.hidden_channels, groups * self.kernel_positions, 1),
        )
        self.value = nn.Conv2d(in_channels, out_channels, 1, bias=False) if self.changes_channels else nn.Identity()

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        kernels = self.generate(self.pool(x))  # (B, G·k·k, h, w)
        height, width = kernels.shape[2:]
        kernels = kernels.flatten(2).unflatten(1, (self.groups, -1))  # (B, G, k·k, h·w)
        kernels = self.offer("kernel", kernels)[:, :, None]  # (B, G, 1, k·k, h·w)
        windows = F.unfold(self.value(x), self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)
        windows = windows.unflatten(1, (self.groups, -1, self.kernel_positions))  # (B, G, C/G, k·k, h·w)
        y = (windows * kernels).sum(3).flatten(1, 2).unflatten(2, (height, width))  # (B, C, h, w)
        return y.contiguous(memory_format=memory_format(x))
