"""Multi-scale linear attention."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact, Request


class MultiScaleLinearAttention(Refine):
    """Multi-scale linear attention: ReLU features, of positions and of their neighbourhoods, in linear time.

        z_0  = W x, the queries, keys and values of h heads, d channels each
        z_s  = grouped 1x1 convolution (depthwise s x s convolution (z_0))       for every scale s
        a_tn = relu(q_t) · relu(k_n) / Σ_m relu(q_t) · relu(k_m)                 in every head of every z
        y_t  = norm(Wo [Σ_n a_tn v_n of all heads of all z])

    A group of the 1x1 convolution is the query, the key or the value of one head. A query that fits no key at all reads
    zeros. Without a residual, which is that of the block around it.

    Paper: Cai, Li, Hu, Gan, Han, "EfficientViT: Lightweight Multi-Scale Attention for High-Resolution Dense
    Prediction", ICCV 2023, figure 2. Normalisation and bias are those of the authors' code.

    Args:
        channels: channels `C` of the map.
        head_width: channels `d` of a head; default 8, that of the authors' class (their two smallest models have 16,
            their larger ones 32). There are `C / d` heads, rounded down, and at least one; the projections take up the
            difference.
        scales: sizes of the depthwise convolutions, odd; default `(5,)`, the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)`, the heads of the positions first, then those of each scale. A row sums
            to one over the keys, or to zero where the query fits no key.

    Raises:
        ValueError: `head_width` is less than one, a scale is even or less than one, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "multi_scale_linear"
    aliases: ClassVar[tuple[str, ...]] = ("lite_mla", "efficientvit_mit")
    paper: ClassVar[Paper] = Paper(
        "EfficientViT: Lightweight Multi-Scale Attention for High-Resolution Dense Prediction",
        "Cai et al.",
        "ICCV",
        2023,
    )
    formula: ClassVar[str] = "y_t = norm(Wo concat_s,h(relu(q_t)ᵀ Σ_n relu(k_n) v_nᵀ / relu(q_t)ᵀ Σ_n relu(k_n)))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*E + 3*E*(25 + d) + 2*E*C + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "E": "width", "d": "head_width"}
    placement: ClassVar[str] = "in the last stages of a network, before a depthwise feed-forward block, in a residual"
    place = "branch"

    def __init__(self, channels: int, head_width: int = 8, scales: Sequence[int] = (5,), dims: int = 2) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.head_width = head_width
        self.width = head_width * max(1, channels // head_width)
        heads = self.width // head_width
        self.heads = heads * (1 + len(scales))
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.project = convolution(channels, 3 * self.width, 1, bias=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                convolution(
                    3 * self.width, 3 * self.width, scale, padding=scale // 2, groups=3 * self.width, bias=False
                ),
                convolution(3 * self.width, 3 * self.width, 1, groups=3 * heads, bias=False),
            )
            for scale in scales
        )
        self.output = convolution(self.width * (1 + len(scales)), channels, 1, bias=False)
        self.norm = BatchNorm(channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        projected = self.project(x)  # (B, 3 E, *spatial)
        levels = torch.cat([projected, *(scale(projected) for scale in self.scales)], dim=1)
        heads = map_to_tokens(levels).unflatten(2, (self.heads, 3, -1))  # (B, N, h, 3, d): a head's q, k, v together
        query, key, value = heads.permute(3, 0, 2, 1, 4)  # (B, h, N, d)
        query, key = query.relu(), key.relu()

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            return functional.feature_weights(request.pick(query, heads=1, queries=2), request.pick(key, heads=1)).to(
                value.dtype
            )  # (B, H, T, N)

        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer("attention", attention)
        context = functional.feature_read(query, key, value) if replaced is None else replaced @ value  # (B, h, N, d)
        return self.norm(self.output(tokens_to_map(context.transpose(1, 2).flatten(2), spatial)))  # (B, C, *spatial)
