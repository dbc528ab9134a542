"""Attention of blocks to their surroundings."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact
from regard.attention.window.groups import over_map, read_over_map


class HaloAttention(Refine):
    """Halo attention: all positions of a block read the block and a halo around it.

        q, k, v = Wq x / √d, Wk x, Wv x, each cut into h heads
        a_ij    = softmax over j in the halo of the block of i of q_i · (k_j + r_row(j - i) + r_column(j - i))
        y_i     = Σ_j a_ij v_j

    The two learned vectors `r` for the offsets along either axis are shared by all heads. What the halo has outside of
    the map is read by nobody.

    Paper: Vaswani, Ramachandran, Srinivas, Parmar, Hechtman, Shlens, "Scaling Local Self-Attention for Parameter
    Efficient Visual Backbones", CVPR 2021. The scale `1/√d`, which its equations do not show, is that of multi-head
    attention. (timm scales `q_i · k_j` by it, and the scores of the offsets only on request.)

    Args:
        channels: channels `C` of the map.
        block: rows and columns `b` of a block; default 8, the paper's choice.
        halo: by how many positions `s` a block's surroundings reach beyond it; default 3, the paper's choice.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 16
            channels.

    Shapes:
        x: `(B, C, H, W)` of any size: a map is filled up to whole blocks with places that nobody reads. Gives the same
            shape.

    Maps:
        attention: `(batch, heads, query, key)` over the whole map, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or a size is negative.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "halo"
    aliases: ClassVar[tuple[str, ...]] = ("halonet", "halo_attn")
    paper: ClassVar[Paper] = Paper(
        "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", "Vaswani et al.", "CVPR", 2021
    )
    formula: ClassVar[str] = "y_i = concat_h Σ_j∈halo(i) softmax_j(q_i · (k_j + r(j - i)) / √d) v_j"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*C + 2*(2*(b + s) - 1)*C//h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "b": "block", "s": "halo", "h": "heads"}
    placement: ClassVar[str] = "in place of the 3x3 convolution of the late residual blocks"
    place = "branch"

    def __init__(self, channels: int, block: int = 8, halo: int = 3, heads: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.block = block
        self.halo = halo
        self.heads = choose_heads(channels, heads, most=channels // 16)
        width = channels // self.heads
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.rows = nn.Parameter(torch.randn(2 * (block + halo) - 1, width) * width**-0.5)
        self.columns = nn.Parameter(torch.randn(2 * (block + halo) - 1, width) * width**-0.5)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        H, W = x.shape[2:]
        query, memory = self.project(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).tensor_split((self.channels,), dim=1)
        query = functional.cut_windows(query, self.block)  # (B, G, P, C)
        query = query.unflatten(3, (self.heads, -1)).transpose(2, 3) * (self.channels // self.heads) ** -0.5
        memory = self.surroundings(memory, 0).unflatten(3, (2, self.heads, -1))  # (B, G, K, 2, h, d)
        key, value = memory.permute(3, 0, 1, 4, 2, 5)  # (B, G, h, K, d)
        scores = functional.dot_scores(query, key) + self.position_scores(query)  # (B, G, h, P, K)
        positions = torch.arange(H * W, device=x.device).reshape(1, 1, H, W)
        keys = self.surroundings(positions, -1)[0, :, :, 0]  # (G, K)
        weights = functional.masked_softmax(scores, (keys >= 0)[:, None, None]).to(value.dtype)  # (B, G, h, P, K)
        if offering.listening():
            queries = functional.window_positions((H, W), self.block, device=x.device)  # (G, P)
            with offering.over_grid((H, W)):
                replaced = self.offer(
                    "attention", lambda request: over_map(request, weights, queries, keys[:, None], H * W)
                )
            if replaced is not None:
                value = self.project(map_to_tokens(x)).chunk(3, dim=2)[2]  # (B, N, C)
                return tokens_to_map(read_over_map(replaced, value), (H, W))
        context = (weights @ value).transpose(2, 3).flatten(3)  # (B, G, P, C)
        return functional.join_windows(context, self.block, (H, W))  # (B, C, H, W)

    def surroundings(
        self, x: Float[Tensor, "B C H W"] | Int[Tensor, "B C H W"], fill: int
    ) -> Float[Tensor, "B G K C"] | Int[Tensor, "B G K C"]:
        """Every block with its halo; what is outside of the map is `fill`."""
        H, W = x.shape[2:]
        x = F.pad(x, (self.halo, self.halo + -W % self.block, self.halo, self.halo + -H % self.block), value=fill)
        size = self.block + 2 * self.halo
        blocks = x.unfold(2, size, self.block).unfold(3, size, self.block)  # (B, C, rows, columns, size, size)
        return blocks.permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(1, 2)

    def position_scores(self, query: Float[Tensor, "B G h P d"]) -> Float[Tensor, "B G h P K"]:
        """How well every query fits the offsets to what surrounds its block: `q · r_row + q · r_column`."""
        place = torch.arange(self.block, device=query.device)
        around = torch.arange(self.block + 2 * self.halo, device=query.device)
        offset = around - place[:, None] + self.block - 1  # (b, size), from 0
        query = functional.at_least_single(query.unflatten(3, (self.block, self.block)))  # (B, G, h, b, b, d)
        by_row, by_column = (functional.at_least_single(table[offset]) for table in (self.rows, self.columns))
        rows = torch.einsum("bghyxd,yid->bghyxi", query, by_row)[..., None]
        columns = torch.einsum("bghyxd,xjd->bghyxj", query, by_column)[..., None, :]
        return (rows + columns).flatten(5).flatten(3, 4)
