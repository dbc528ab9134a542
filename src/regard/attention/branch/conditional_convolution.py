"""Conditionally parameterized convolution."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import require_groups
from regard.attention.contract import Convolve, Paper
from regard.attention.layout import memory_format
from regard.attention.offering import MapFact


class ConditionallyParameterizedConvolution(Convolve):
    """Conditionally parameterized convolution (CondConv): every example mixes the kernels of several experts.

        r = sigmoid(R · mean over positions of x)      routing    (B, K)
        y = conv(x; Σ_k r_k V_k)

    The mixture costs one convolution, whatever the number of experts; by linearity it is that of their outputs.

    Paper: Yang, Bender, Le, Ngiam, "CondConv: Conditionally Parameterized Convolutions for Efficient Inference",
    NeurIPS 2019.

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output.
        kernel_size: of the kernels, odd; default 3.
        stride: of the convolution; default 1.
        groups: of the convolution; default 1.
        experts: how many kernels `K` are mixed; default 8, as in the paper's EfficientNet.
        routing_bias: whether the routing has a bias; default False, as in the paper's equation.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        expert: the routing weights `(batch, expert)`, each in 0..1.

    Raises:
        ValueError: the kernel size is even, or the groups do not divide a channel count.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "conditional_convolution"
    aliases: ClassVar[tuple[str, ...]] = ("condconv", "cond_conv_2d")
    paper: ClassVar[Paper] = Paper(
        "CondConv: Conditionally Parameterized Convolutions for Efficient Inference", "Yang et al.", "NeurIPS", 2019
    )
    formula: ClassVar[str] = "y = conv(x; Σ_k r_k V_k) with r = sigmoid(R mean(x))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("expert", ("batch", "expert")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "K*k*k*I*C + K*I"
    letters: ClassVar[dict[str, str]] = {
        "K": "experts",
        "k": "kernel_size",
        "I": "in_channels",
        "C": "out_channels",
    }
    deviations: ClassVar[tuple[str, ...]] = ("routing_bias=True: a bias in the routing, as in the authors' code",)
    placement: ClassVar[str] = "in place of a convolution, in the last half of the blocks"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        experts: int = 8,
        routing_bias: bool = False,
    ) -> None:
        super().__init__()
        require_groups(groups, in_channels, out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.groups = groups
        self.experts = experts
        self.route = nn.Linear(in_channels, experts, bias=routing_bias)
        self.weight = nn.Parameter(torch.empty(experts, out_channels, in_channels // groups, kernel_size, kernel_size))
        bound = 1 / math.sqrt(self.weight[0, 0].numel())  # that of nn.Conv2d, for each expert
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        weights = self.route(x.mean(dim=(2, 3))).sigmoid()  # (B, K)
        weights = self.offer("expert", weights)
        kernel = functional.mix(weights, self.weight)  # (B, C, Cin/groups, k, k)
        y = functional.convolve_each(x, kernel, stride=self.stride, groups=self.groups)  # (B, C, h, w)
        return y.contiguous(memory_format=memory_format(x))
