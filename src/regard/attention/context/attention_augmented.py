"""The attention-augmented convolution."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.contract import Convolve, Paper
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact


class AttentionAugmentedConvolution(Convolve):
    """Attention-augmented convolution: some output channels come from a convolution, the others from self-attention.

        q, k, v = three projections of x to K, K and V channels, each cut into h heads of K / h and V / h
        r_ij    = r^H of the rows between i and j + r^W of the columns between them           shared by the heads
        a_ij    = softmax over j of q_i · (k_j + r_ij) / √(K / h)                             in every head
        y       = [conv(x); W [Σ_j a_ij v_j in head 1; ...; in head h] + b]

    Paper: Bello, Zoph, Vaswani, Shlens, Le, "Attention Augmented Convolutional Networks", ICCV 2019, section 3.
    The paper gives shares of the output: `K = 0.2 C`, of at least 20 a head, and `V = 0.1 C`. A stride is applied to
    the projections as to the convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels `C` of the output.
        kernel_size: of the convolution, odd; default 3.
        stride: of convolution and projections; default 1.
        groups: of the convolution, not of the projections; default 1.
        heads: how many heads `h`; default 8, the paper's choice.
        key_share: `K / C`, the paper's κ; default 0.2, the paper's choice.
        value_share: `V / C`, the paper's υ; default 0.1, the paper's choice.
        minimum_key_width: of a head; default 20, the paper's choice. `K` and `V` are then the nearest multiples of the
            heads, and at least one a head.
        reach: up to how many positions along an axis the vectors `r` tell apart: `reach` of them, itself included, in
            each direction. Larger maps go, where all positions that are farther share one vector; default 32. The
            paper has the size of the map.
        bias: whether convolution and projections have biases; default True.

    Shapes:
        x: `(B, Cin, H, W)`, any size. Gives `(B, C, ⌈H/s⌉, ⌈W/s⌉)`.

    Maps:
        attention: `(batch, heads, query, key)` over the positions of the output, sums to one over the keys.

    Raises:
        ValueError: the kernel size is even, nothing is left for the convolution, or the groups do not divide its
            channels.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "attention_augmented"
    aliases: ClassVar[tuple[str, ...]] = ("aacn", "augmented_conv", "attention_augmented_conv")
    paper: ClassVar[Paper] = Paper("Attention Augmented Convolutional Networks", "Bello et al.", "ICCV", 2019)
    formula: ClassVar[str] = "y = [conv(x); W concat_h Σ_j softmax_j(q_i · (k_j + r^H_ij + r^W_ij) / √d) v_j + b]"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "(f*f*I + 1)*(C - V) + (I + 1)*(2*K + V) + (V + 1)*V + 2*(2*R - 1)*K//h"
    letters: ClassVar[dict[str, str]] = {
        "I": "in_channels",
        "C": "out_channels",
        "f": "kernel_size",
        "h": "heads",
        "K": "key_channels",
        "V": "value_channels",
        "R": "reach",
    }
    deviations: ClassVar[tuple[str, ...]] = ("bias=False: without biases, as before a normalisation",)
    placement: ClassVar[str] = "in place of the 3x3 convolutions of the last three stages"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        heads: int = 8,
        key_share: float = 0.2,
        value_share: float = 0.1,
        minimum_key_width: int = 20,
        reach: int = 32,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.heads = heads
        self.key_channels = heads * max(1, minimum_key_width, round(key_share * out_channels / heads))
        self.value_channels = heads * max(1, round(value_share * out_channels / heads))
        self.reach = reach
        convolved = out_channels - self.value_channels
        if convolved < 1 or convolved % groups:
            raise ValueError(
                f"AttentionAugmentedConvolution got out_channels={out_channels}, of which attention takes "
                f"{self.value_channels} and the convolution the other {convolved}, expected these to be a positive "
                f"multiple of groups={groups}: give more channels, fewer heads or other groups."
            )
        self.convolution = nn.Conv2d(
            in_channels, convolved, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias
        )
        self.project = nn.Conv2d(in_channels, 2 * self.key_channels + self.value_channels, 1, stride, bias=bias)
        self.output = nn.Linear(self.value_channels, self.value_channels, bias=bias)
        width = self.key_channels // heads
        self.offsets = nn.ParameterList(torch.randn(2 * reach - 1, width) * width**-0.5 for _ in range(2))

    def forward(self, x: Float[Tensor, "B Cin H W"]) -> Float[Tensor, "B C h w"]:
        self.check(x)
        projected = self.project(x)  # (B, 2K + V, h, w)
        spatial = tuple(projected.shape[2:])
        parts = map_to_tokens(projected).split((self.key_channels, self.key_channels, self.value_channels), 2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, h, N, d)
        query = query * query.shape[3] ** -0.5
        scores = functional.dot_scores(query, key) + functional.relative_scores(query, list(self.offsets), spatial)
        weights = scores.softmax(3).to(value.dtype)  # (B, h, N, N)
        if offering.listening():
            with offering.over_grid(spatial):
                weights = self.offer("attention", weights)
        attended = self.output((weights @ value).transpose(1, 2).flatten(2))  # (B, N, V)
        return torch.cat((self.convolution(x), tokens_to_map(attended, spatial)), dim=1)  # (B, C, h, w)
