"""Dynamic convolution."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced, require_groups
from regard.attention.contract import Convolve, Paper
from regard.attention.layout import memory_format
from regard.attention.offering import MapFact


class DynamicConvolution(Convolve):
    """Dynamic convolution: every example mixes several kernels into one, and is convolved with that.

        s = mean over positions of x                                    (B, Cin)
        a = softmax over the kernels of (W2 relu(W1 s + b1) + b2) / τ   (B, K)
        y = conv(x; Σ_k a_k V_k) + Σ_k a_k c_k

    Paper: Chen, Dai, Liu, Chen, Yuan, Liu, "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020. The
    temperature τ starts high, where all kernels learn, and falls linearly to 1 over the first ten epochs: the training
    loop sets `temperature`.

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output.
        kernel_size: of the kernels, odd; default 3.
        stride: of the convolution; default 1.
        groups: of the convolution; default 1.
        kernels: how many kernels `K` are mixed; default 4, the paper's choice.
        reduction: `Cin / d`; default 4, the paper's choice. The bottleneck has at least one channel.
        temperature: τ; default 30, with which the paper starts.
        bias: whether each kernel has a bias `c`; default True, as in the paper's equation.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        kernel: `(batch, kernel)`, sums to one over the kernels.

    Raises:
        ValueError: `reduction` is less than one; the kernel size is even, or the groups do not divide a channel count.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "dynamic_convolution"
    aliases: ClassVar[tuple[str, ...]] = ("dynamic_conv", "dyconv")
    paper: ClassVar[Paper] = Paper(
        "Dynamic Convolution: Attention over Convolution Kernels", "Chen et al.", "CVPR", 2020
    )
    formula: ClassVar[str] = (
        "y = conv(x; Σ_k a_k V_k) + Σ_k a_k c_k with a = softmax((W2 relu(W1 mean(x) + b1) + b2) / τ)"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("kernel", ("batch", "kernel"), ("kernel",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "K*(k*k*I*C + C) + I*d + d + d*K + K"
    letters: ClassVar[dict[str, str]] = {
        "K": "kernels",
        "k": "kernel_size",
        "I": "in_channels",
        "C": "out_channels",
        "d": "hidden_channels",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "temperature=1.0: a plain softmax, with which the paper ends",
        "bias=False: kernels without biases, as before a normalisation",
    )
    placement: ClassVar[str] = "in place of a convolution, in all layers but the first"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        kernels: int = 4,
        reduction: int = 4,
        temperature: float = 30.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        require_groups(groups, in_channels, out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.groups = groups
        self.kernels = kernels
        self.temperature = temperature
        self.hidden_channels = reduced(in_channels, reduction)
        self.squeeze = nn.Linear(in_channels, self.hidden_channels)
        self.select = nn.Linear(self.hidden_channels, kernels)
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(kernels, out_channels)) if bias else None
        bound = 1 / math.sqrt(self.weight[0, 0].numel())  # that of nn.Conv2d, for each kernel
        for parameter in (self.weight, *([] if self.bias is None else [self.bias])):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        scores = self.select(self.squeeze(x.mean(dim=(2, 3))).relu())  # (B, K)
        weights = (scores / self.temperature).softmax(1)  # (B, K)
        weights = self.offer("kernel", weights)
        kernel = functional.mix(weights, self.weight)  # (B, C, Cin/groups, k, k)
        bias = None if self.bias is None else functional.mix(weights, self.bias)  # (B, C)
        y = functional.convolve_each(x, kernel, bias, self.stride, self.groups)  # (B, C, h, w)
        return y.contiguous(memory_format=memory_format(x))
