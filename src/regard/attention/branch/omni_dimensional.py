"""Omni-dimensional dynamic convolution."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced, require_groups
from regard.attention.contract import Convolve, Paper
from regard.attention.layout import memory_format
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class OmniDimensionalDynamicConvolution(Convolve):
    """Omni-dimensional dynamic convolution: every example weighs kernels, and in them positions, inputs and outputs.

        z = relu(W mean over positions of x + b)                                (B, d)
        s, i, o = sigmoid of three linear maps of z    over k·k positions, Cin inputs, C outputs
        a = softmax of a fourth over K kernels, divided by τ
        y = conv(x; o · i · s · Σ_k a_k V_k)           each weight along its axis of the kernel

    Paper: Li, Zhou, Yao, "Omni-Dimensional Dynamic Convolution", ICLR 2022; all kernels share `s`, `i` and `o`, as in
    the authors' code, whose sizes the paper's section 3.2 states. τ starts high and falls to 1, as that of dynamic
    convolution: the training loop sets `temperature`. (Their code divides the scores of the sigmoids by τ as well, and
    has no `s` for kernels of one position, no `o` where every channel is a group.)

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output.
        kernel_size: of the kernels, odd; default 3.
        stride: of the convolution; default 1.
        groups: of the convolution; default 1.
        kernels: how many kernels `K` are mixed; default 4, the paper's larger choice; the other is 1.
        reduction: `Cin / d`; default 16, the paper's choice.
        minimum_width: least width `d` of the bottleneck; default 16, as in the authors' code.
        temperature: τ; default 30, that of dynamic convolution at the start.
        norm: whether `W` is followed by batch normalisation, and has no bias; default False, the paper has none.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        kernel: `a`, `(batch, kernel)`, sums to one over the kernels.
        position: `s`, `(batch, kernel_position)`, row by row of the kernel, each in 0..1.
        input: `i`, `(batch, in_channel)`, each in 0..1.
        output: `o`, `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one; the kernel size is even, or the groups do not divide a channel count.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "omni_dimensional"
    aliases: ClassVar[tuple[str, ...]] = ("odconv",)
    paper: ClassVar[Paper] = Paper("Omni-Dimensional Dynamic Convolution", "Li et al.", "ICLR", 2022)
    formula: ClassVar[str] = "y = conv(x; o · i · s · Σ_k a_k V_k), o, i, s, a from relu(W mean(x) + b)"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("kernel", ("batch", "kernel"), ("kernel",)),
        MapFact("position", ("batch", "kernel_position")),
        MapFact("input", ("batch", "in_channel")),
        MapFact("output", ("batch", "channel")),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "K*k*k*I*C + I*d + d + (d + 1)*(k*k + I + C + K)"
    letters: ClassVar[dict[str, str]] = {
        "K": "kernels",
        "k": "kernel_size",
        "I": "in_channels",
        "C": "out_channels",
        "d": "hidden_channels",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "norm=True: batch normalisation in the bottleneck, as in the authors' code",
        "temperature=1.0: a plain softmax, with which training ends",
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
        reduction: int = 16,
        minimum_width: int = 16,
        temperature: float = 30.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        require_groups(groups, in_channels, out_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.kernel_positions = kernel_size**2
        self.stride = stride
        self.groups = groups
        self.kernels = kernels
        self.temperature = temperature
        self.hidden_channels = reduced(in_channels, reduction, least=minimum_width)
        self.squeeze = nn.Linear(in_channels, self.hidden_channels, bias=not norm)
        self.norm = BatchNorm(self.hidden_channels) if norm else nn.Identity()
        self.position = nn.Linear(self.hidden_channels, self.kernel_positions)
        self.input = nn.Linear(self.hidden_channels, in_channels)
        self.output = nn.Linear(self.hidden_channels, out_channels)
        self.select = nn.Linear(self.hidden_channels, kernels)
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels // groups, kernel_size, kernel_size))
        bound = 1 / math.sqrt(self.weight[0, 0].numel())  # that of nn.Conv2d, for each kernel
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        hidden = self.norm(self.squeeze(x.mean(dim=(2, 3)))).relu()  # (B, d)
        weights = self.offer("kernel", (self.select(hidden) / self.temperature).softmax(1))  # (B, K)
        position = self.offer("position", self.position(hidden).sigmoid())  # (B, k·k)
        inputs = self.offer("input", self.input(hidden).sigmoid())  # (B, Cin)
        outputs = self.offer("output", self.output(hidden).sigmoid())  # (B, C)
        kernel = functional.mix(weights, self.weight)  # (B, C, Cin/groups, k, k)
        kernel = kernel * position.unflatten(1, (1, 1, self.kernel_size, -1))
        kernel = kernel * self.by_output(inputs) * outputs[..., None, None, None]
        y = functional.convolve_each(x, kernel, stride=self.stride, groups=self.groups)  # (B, C, h, w)
        return y.contiguous(memory_format=memory_format(x))

    def by_output(self, inputs: Float[Tensor, "B Cin"]) -> Float[Tensor, "B C Cg 1 1"]:
        """The weights of the inputs that each output channel has: those of its group."""
        own = inputs.unflatten(1, (self.groups, -1))  # (B, groups, Cin/groups)
        return own.repeat_interleave(self.out_channels // self.groups, 1)[..., None, None]
