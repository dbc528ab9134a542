"""Attention within a regular grid over the map, or within blocks of it."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact
from regard.attention.window.groups import over_map, read_over_map

Partition = Literal["grid", "block"]


class GridAttention(Refine):
    """Grid attention: every position reads a regular grid of positions that spans the map, and is one of them.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_ij    = softmax over j in the grid of i of q_i · k_j / √d + bias(place of i - place of j)
        y_i     = Wo Σ_j a_ij v_j + bo

    The map is cut into G by G blocks; the positions at one place of all blocks are a grid. Block attention, the other
    half of the paper's multi-axis attention, is the same within blocks of G by G neighbours.

    Paper: Tu, Talebi, Zhang, Yang, Milanfar, Bovik, Li, "MaxViT: Multi-Axis Vision Transformer", ECCV 2022, sections
    3.1 and 3.2; relative attention as in its equation 2, with one bias for each pair of relative places and head.

    Args:
        channels: channels `C` of the map.
        size: rows and columns `G` of a grid or block; default 7, the paper's choice.
        partition: `"grid"`, the default, or `"block"`, the paper's other half.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 32
            channels.

    Shapes:
        x: `(B, C, H, W)` of any size: a map is filled up to multiples of `size` with places that nobody reads. Gives
            the same shape.

    Maps:
        attention: `(batch, heads, query, key)` over the whole map, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or there is no such `partition`.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "grid"
    aliases: ClassVar[tuple[str, ...]] = ("maxvit",)
    paper: ClassVar[Paper] = Paper("MaxViT: Multi-Axis Vision Transformer", "Tu et al.", "ECCV", 2022)
    formula: ClassVar[str] = "y_i = Wo concat_h Σ_j∈grid(i) softmax_j(q_i · k_j / √d + bias_h(i - j)) v_j + bo"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + (2*G - 1)*(2*G - 1)*h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "G": "size", "h": "heads"}
    deviations: ClassVar[tuple[str, ...]] = ("partition='block': attention within blocks, which precedes the grid's",)
    placement: ClassVar[str] = "in every block, after a convolution and block attention, inside a residual"
    place = "branch"

    def __init__(self, channels: int, size: int = 7, partition: Partition = "grid", heads: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.size = size
        self.partition = partition
        self.heads = choose_heads(channels, heads, most=channels // 32)
        self.project = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * size - 1) ** 2, self.heads), std=0.02))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        H, W = x.shape[2:]
        strided = self.partition == "grid"
        groups = functional.cut_windows(x, self.size, strided=strided)  # (B, g, P, C)
        query, key, value = self.project(groups).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.bias[functional.relative_positions(self.size, x.device)].permute(2, 0, 1)  # (h, P, P)
        scores = functional.dot_scores(query, key, query.shape[-1] ** -0.5) + bias  # (B, g, h, P, P)
        mask = None
        if H % self.size or W % self.size:
            positions = functional.window_positions((H, W), self.size, strided=strided, device=x.device)  # (g, P)
            mask = (positions >= 0)[:, None, None]  # (g, 1, 1, P)
        weights = functional.masked_softmax(scores, mask).to(value.dtype)  # (B, g, h, P, P)
        if offering.listening():
            with offering.over_grid((H, W)):
                positions = functional.window_positions((H, W), self.size, strided=strided, device=x.device)
                replaced = self.offer(
                    "attention", lambda request: over_map(request, weights, positions, positions[:, None], H * W)
                )
            if replaced is not None:
                value = self.project(map_to_tokens(x)).chunk(3, dim=2)[2]  # (B, N, C)
                return tokens_to_map(self.output(read_over_map(replaced, value)), (H, W))
        context = (weights @ value).transpose(2, 3).flatten(3)  # (B, g, P, C)
        return functional.join_windows(self.output(context), self.size, (H, W), strided=strided)  # (B, C, H, W)
