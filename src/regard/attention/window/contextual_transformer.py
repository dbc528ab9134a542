"""The contextual transformer block."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import choose_heads, reduced
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact

Variant = Literal["paper", "softmax", "released"]


class ContextualTransformer(Refine):
    """Contextual transformer: what a position reads of its neighbours depends on it and on a convolution of them.

        K1   = relu(bn(conv_k(x)))                                  static context, in groups
        V    = bn(Wv x)
        A    = Wδ relu(bn(Wθ [K1; x])) + bδ                         at every position k² weights a head
        K2_i = Σ_j A_ij V_j  over the k by k positions j around i   dynamic context
        g    = softmax over the two of G relu(bn(F mean(K1 + K2)))
        y    = g_1 · K1 + g_2 · K2

    `A` is used as it comes from its two linear maps; outside of the map, values are zero.

    Paper: Li, Yao, Pan, Mei, "Contextual Transformer Networks for Visual Recognition", TPAMI 2022 (arXiv 2021),
    section 3.2; the fusion is that of selective kernels. Normalisations, groups and widths are those of the authors'
    code. A batch of one trains: where the pooled vector has no variance, its running one is used.

    Args:
        channels: channels `C` of the map.
        kernel_size: size `k` of the convolution and of the neighbourhood, odd; default 3, the paper's choice.
        heads: how many heads `h` share their weights; default the greatest divisor of `channels` that leaves a head 8
            channels, the authors' choice.
        groups: groups of the convolution; default the greatest divisor of `channels` up to 4, the authors' choice.
        reduction: how many times fewer than `2C` channels the weights' hidden layer has; default 4, which is `C / 2`.
        minimum_width: least width `d` of the fusion's bottleneck, otherwise `C / 2`; default 32, the authors' choice.
        variant: `"paper"`, the default, as above; `"softmax"`, over the k² weights; `"released"`, as in the authors'
            code, a group normalisation of the weights, `silu(bn(K2))` instead of `K2`, and a bias of `G`. (There the
            channels of a head lie `C / 8` apart, here side by side.)

    Shapes:
        x: `(B, C, H, W)` of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, neighbour, height, width)`, the weights `A`; neighbour `r k + c` is row `r` and
            column `c` of the window. They sum to one only in the variant `"softmax"`.
        branch: `(batch, branch, channel)`, the static and the dynamic context's part, sums to one over the two.

    Raises:
        ValueError: `reduction` is less than one; `heads` or `groups` does not divide `channels`, `kernel_size` is even,
            or there is no such variant.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "contextual_transformer"
    aliases: ClassVar[tuple[str, ...]] = ("cot", "cotnet", "cot_attention")
    paper: ClassVar[Paper] = Paper("Contextual Transformer Networks for Visual Recognition", "Li et al.", "TPAMI", 2022)
    formula: ClassVar[str] = "y = g_1 K1 + g_2 Σ_j (Wδ relu(bn(Wθ [K1; x])))_ij V_j with K1 = relu(bn(conv_k(x)))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "heads", "neighbour", SPATIAL)),
        MapFact("branch", ("batch", "branch", "channel"), ("branch",)),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "k*k*C*C//g + 4*C + C*C + 2*C*e + 2*e + (e + 1)*k*k*h + 3*C*d + 2*d"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "k": "kernel_size",
        "g": "groups",
        "e": "hidden_channels",
        "h": "heads",
        "d": "fusion_channels",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "variant='softmax': the weights of a neighbourhood sum to one, as in the paper's typical self-attention",
        "variant='released': normalised weights, an activated dynamic context and a bias in the fusion, as in the "
        "authors' code",
    )
    placement: ClassVar[str] = "in place of the 3x3 convolution of every residual block"
    place = "branch"
    branch: ClassVar[int] = 2

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        heads: int | None = None,
        groups: int | None = None,
        reduction: int = 4,
        minimum_width: int = 32,
        variant: Variant = "paper",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.neighbours = kernel_size**2
        self.heads = choose_heads(channels, heads, most=channels // 8)
        self.groups = functional.largest_divisor(channels, 4) if groups is None else groups
        self.hidden_channels = reduced(2 * channels, reduction)
        self.fusion_channels = max(channels // 2, minimum_width)
        self.variant = variant
        self.key = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=self.groups, bias=False),
            BatchNorm(channels),
            nn.ReLU(),
        )
        self.value = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), BatchNorm(channels))
        self.join = nn.Conv2d(2 * channels, self.hidden_channels, 1, bias=False)
        self.score = nn.Sequential(
            BatchNorm(self.hidden_channels),
            nn.ReLU(),
            nn.Conv2d(self.hidden_channels, self.heads * self.neighbours, 1),
        )
        if variant == "released":
            self.score.append(nn.GroupNorm(self.heads, self.heads * self.neighbours))
            self.activate = nn.Sequential(BatchNorm(channels), nn.SiLU())
        elif variant == "softmax":
            softmax = MapFact("attention", ("batch", "heads", "neighbour", SPATIAL), ("neighbour",))
            self.maps = (softmax, self.maps[1])  # pyright: ignore[reportAttributeAccessIssue]
        self.squeeze = nn.Sequential(
            nn.Linear(channels, self.fusion_channels, bias=False), BatchNorm(self.fusion_channels), nn.ReLU()
        )
        self.select = nn.Linear(self.fusion_channels, 2 * channels, bias=variant == "released")

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        static = self.key(x)  # (B, C, H, W)
        # The convolution of [K1; x], without the copy of both.
        of_static, of_query = self.join.weight.tensor_split((self.channels,), dim=1)
        hidden = F.conv2d(static, of_static) + F.conv2d(x, of_query)  # (B, e, H, W)
        weights = self.score(hidden).unflatten(1, (self.heads, self.neighbours))  # (B, h, k², H, W)
        if self.variant == "softmax":
            weights = weights.softmax(2)
        weights = self.offer("attention", weights)
        dynamic = self.read(weights, self.value(x))  # (B, C, H, W)
        if self.variant == "released":
            dynamic = self.activate(dynamic)
        mean = static.mean(dim=(2, 3)) + dynamic.mean(dim=(2, 3))  # (B, C)
        gates = self.select(self.squeeze(mean)).unflatten(1, (2, -1)).softmax(1)  # (B, 2, C)
        gates = self.offer("branch", gates)
        return static * gates[:, 0, :, None, None] + dynamic * gates[:, 1, :, None, None]  # (B, C, H, W)

    def read(
        self, weights: Float[Tensor, "B h neighbours H W"], value: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The sum of every position's neighbours under its weights, one neighbour at a time."""
        H, W = value.shape[2:]
        edge = self.kernel_size // 2
        padded = F.pad(value, (edge, edge, edge, edge)).unflatten(1, (self.heads, -1))  # (B, h, d, H + k-1, W + k-1)
        total = torch.zeros_like(value).unflatten(1, (self.heads, -1))  # (B, h, d, H, W)
        for neighbour, weight in enumerate(weights.split(1, dim=2)):  # (B, h, 1, H, W)
            row, column = divmod(neighbour, self.kernel_size)
            total = total + padded[..., row : row + H, column : column + W] * weight
        return total.flatten(1, 2)
