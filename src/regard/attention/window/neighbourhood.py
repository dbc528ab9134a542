"""Attention to the nearest neighbours."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact
from regard.attention.window.groups import over_map, read_over_map


class NeighbourhoodAttention(Refine):
    """Neighbourhood attention: every position reads the k by k positions nearest to it.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_ij    = softmax over j in ρ(i) of q_i · k_j / √d + bias(i - j)
        y_i     = Wo Σ_j a_ij v_j + bo

    Near a border the neighbourhood `ρ(i)` is not cut but moved inwards, so that it always has k by k positions. With
    dilation δ it is the neighbourhood among the positions whose rows and columns differ from those of `i` by multiples
    of δ. A map in which there are fewer than k of these is read as far as it goes.

    Paper: Hassani, Walton, Li, Li, Shi, "Neighborhood Attention Transformer", CVPR 2023; dilation: Hassani, Shi,
    "Dilated Neighborhood Attention Transformer", arXiv 2022.

    Args:
        channels: channels `C` of the map.
        kernel_size: size `k` of a neighbourhood, odd; default 7, the paper's choice.
        dilation: `δ`; default 1.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 32
            channels.

    Shapes:
        x: `(B, C, H, W)` of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)` over the whole map, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, `kernel_size` is even, or `dilation` is less than one.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "neighbourhood"
    aliases: ClassVar[tuple[str, ...]] = ("neighborhood", "neighborhood_attention", "nat", "natten")
    paper: ClassVar[Paper] = Paper("Neighborhood Attention Transformer", "Hassani et al.", "CVPR", 2023)
    formula: ClassVar[str] = "y_i = Wo concat_h Σ_j∈ρ(i) softmax_j(q_i · k_j / √d + bias_h(i - j)) v_j + bo"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + (2*k - 1)*(2*k - 1)*h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "k": "kernel_size", "h": "heads"}
    deviations: ClassVar[tuple[str, ...]] = ("dilation=2: of every second row and column (Hassani and Shi 2022)",)
    placement: ClassVar[str] = "in every block of a transformer of maps, after a normalisation and inside a residual"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 7, dilation: int = 1, heads: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.heads = choose_heads(channels, heads, most=channels // 32)
        self.project = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        size = 2 * kernel_size - 1
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, size, size), std=0.02))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        H, W = x.shape[2:]
        k = self.kernel_size
        query, memory = self.project(x.permute(0, 2, 3, 1)).tensor_split((self.channels,), dim=3)
        rows, row_offset, row_inside = self.neighbours(H, x.device)  # (H, k) each
        columns, column_offset, column_inside = self.neighbours(W, x.device)  # (W, k) each
        # Row by row, then column by column: two gathers of long runs instead of one of single vectors.
        memory = memory.index_select(1, rows.flatten()).index_select(2, columns.flatten())  # (B, H·k, W·k, 2C)
        memory = memory.unflatten(2, (W, k)).unflatten(1, (H, k)).unflatten(5, (2, self.heads, -1))
        key, value = memory.unbind(5)  # (B, H, k, W, k, h, d)
        query = query.unflatten(3, (self.heads, -1)) * (self.channels // self.heads) ** -0.5  # (B, H, W, h, d)
        wide = functional.at_least_single(query), functional.at_least_single(key)  # half does not hold the products
        scores = torch.einsum("byxhd,byixjhd->bhyxij", *wide)  # (B, h, H, W, k, k)
        scores = scores + self.bias[:, row_offset[:, None, :, None], column_offset[None, :, None]]
        mask = (row_inside[:, None, :, None] & column_inside[None, :, None]).flatten(2)  # (H, W, k·k)
        weights = functional.masked_softmax(scores.flatten(4), mask).to(value.dtype)  # (B, h, H, W, k·k)
        if offering.listening():
            keys = (rows[:, None, :, None] * W + columns[None, :, None]).flatten(2).flatten(0, 1)  # (N, k·k)
            queries = torch.arange(H * W, device=x.device)[None]  # (1, N)
            shown = weights.flatten(2, 3)[:, None]  # (B, 1, h, N, k·k)
            with offering.over_grid((H, W)):
                replaced = self.offer("attention", lambda request: over_map(request, shown, queries, keys[None], H * W))
            if replaced is not None:
                value = self.project(map_to_tokens(x)).chunk(3, dim=2)[2]  # (B, N, C)
                return tokens_to_map(self.output(read_over_map(replaced, value)), (H, W))
        context = torch.einsum("bhyxij,byixjhd->byxhd", weights.unflatten(4, (k, k)), value).flatten(3)
        return self.output(context).permute(0, 3, 1, 2)  # (B, C, H, W)

    def neighbours(
        self, size: int, device: torch.device
    ) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
        """Of every position of an axis its neighbours, which of the `2k - 1` offsets they have, and which exist."""
        at = torch.arange(size, device=device)
        rest = at % self.dilation  # the positions of one rest are an axis of their own
        place = at // self.dilation
        last = (size - 1 - rest) // self.dilation  # place of the last of them
        first = (place - self.kernel_size // 2).minimum(last + 1 - self.kernel_size).clamp_min(0)
        places = first[:, None] + torch.arange(self.kernel_size, device=device)  # (n, k)
        inside = places <= last[:, None]
        neighbours = places.minimum(last[:, None]) * self.dilation + rest[:, None]
        offset = (place[:, None] - places + self.kernel_size - 1).clamp_min(0)
        return neighbours, offset, inside
