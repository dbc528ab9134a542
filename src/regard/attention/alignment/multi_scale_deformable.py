"""Multi-scale deformable attention."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request


class MultiScaleDeformableAttention(Read):
    """Multi-scale deformable attention: every query reads a few points of every level of a pyramid.

        p̂_t  = sigmoid(W_p q_t + b_p)                           its place, between 0 and 1 in every level
        Δp, a = W_Δ q_t + b_Δ, softmax over the L·K points of W_a q_t + b_a        for the heads i = 1..h
        c_t  = W_o concat over i of Σ_l Σ_k a^i_tlk (W_v^i m + b_v^i) at (level l's place p̂_t + Δp^i_tlk) + b_o

    An offset counts positions of its level. Between positions it reads bilinearly, outside of a level zeros; so does a
    position that the mask leaves out.

    Paper: Zhu, Su, Lu, Li, Wang, Dai, "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR
    2021; the places are those of section 4.1, the initial values of offsets and weights those of the appendix and of
    the authors' code: a head's points start on a ray of its own, and all weigh the same.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token.
        levels: rows and columns of every level, in the order in which the memory holds them, row by row. Without it
            the memory is one level of a single row, however many tokens it has.
        width: width `E` of all heads together, and of the context; default `query_width`.
        heads: number of heads `h`; default 8, the paper's choice. It divides `width`.
        points: how many points `K` of a level a head reads; default 4, the paper's choice.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` with True = takes part. Gives the context `(B, T, E)`.

    Maps:
        attention: `(batch, heads, query, key)`: what of every token is read. It sums to one less what is read outside
            of a level or left out by the mask.

    Raises:
        ValueError: the heads do not divide the width, or there is no level, no point or an empty level.
        ShapeError: a width, a batch size or the mask does not fit, or the memory is not as long as all levels together.
    """

    name: ClassVar[str] = "multi_scale_deformable"
    aliases: ClassVar[tuple[str, ...]] = ("deformable_detr", "ms_deform_attn", "msda")
    paper: ClassVar[Paper] = Paper(
        "Deformable DETR: Deformable Transformers for End-to-End Object Detection", "Zhu et al.", "ICLR", 2021
    )
    formula: ClassVar[str] = (
        "c_t = W_o concat_i Σ_l Σ_k softmax_lk(W_a^i q_t) (W_v^i m^l)(φ_l(p̂_t) + (W_Δ^i q_t)_lk) + b_o"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "(Q + 1)*(2 + 3*h*L*K) + (M + 1)*E + (E + 1)*E"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "E": "width",
        "h": "heads",
        "L": "level_count",
        "K": "points",
    }
    placement: ClassVar[str] = "between object queries and the levels of a pyramid, in a detector's decoder"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        levels: Sequence[tuple[int, int]] | None = None,
        width: int | None = None,
        heads: int = 8,
        points: int = 4,
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.levels = None if levels is None else tuple((rows, columns) for rows, columns in levels)
        self.level_count = 1 if self.levels is None else len(self.levels)
        self.width = query_width if width is None else width
        self.heads = choose_heads(self.width, heads)
        self.points = points
        self.reference = nn.Linear(query_width, 2)
        self.offset = nn.Linear(query_width, heads * self.level_count * points * 2)
        self.weight = nn.Linear(query_width, heads * self.level_count * points)
        self.value = nn.Linear(memory_width, self.width)
        self.output = nn.Linear(self.width, self.width)
        self.start()

    def start(self) -> None:
        """Give every head a ray of points, one position apart, that all weigh the same."""
        for layer in (self.offset, self.weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack((angle.cos(), angle.sin()), dim=1)  # (h, 2)
        ray = ray / ray.abs().amax(1, keepdim=True)  # to the edge of a square: whole positions for eight heads
        steps = torch.arange(1, self.points + 1)
        with torch.no_grad():
            bias = self.offset.bias.unflatten(0, (self.heads, self.level_count, self.points, 2))
            bias.copy_((ray[:, None] * steps[:, None])[:, None].expand_as(bias))
            for level, (rows, columns) in enumerate(self.levels or [(1, 2)]):
                for axis, size in enumerate((columns, rows)):
                    if size == 1:
                        bias[:, level, :, axis] = 0  # a single row has nothing above or below it

    @property
    def context_width(self) -> int:
        return self.width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B T E"]:
        levels = self.fit(query, memory, mask)
        if mask is not None:
            memory = functional.mask_tokens(memory, mask[:, None])
        value = self.value(memory)  # (B, N, E)
        if mask is not None:
            value = value.masked_fill(~mask[:, :, None], 0.0)
        places = self.places(query, levels)  # a level's (B, h, T, K, 2)
        shape = (self.heads, self.level_count, self.points)
        weights = (
            self.weight(query).unflatten(2, (self.heads, -1)).softmax(3).unflatten(2, shape[:1]).unflatten(3, shape[1:])
        )
        weights = weights.permute(3, 0, 2, 1, 4)  # (L, B, h, T, K)

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            shares = [
                self.shares(request.pick(place, heads=1, queries=2), request.pick(weight, heads=1, queries=2), level)
                for place, weight, level in zip(places, weights, levels, strict=True)
            ]
            total = torch.cat(shares, dim=3)  # (B, H, T, N)
            return total if mask is None else total.masked_fill(~mask[:, None, None], 0.0)

        replaced = self.offer("attention", attention)
        if replaced is not None:
            heads = value.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, h, N, d)
            return self.output((replaced @ heads).transpose(1, 2).flatten(2))
        read = value.new_zeros(())
        parts = value.split([rows * columns for rows, columns in levels], dim=1)
        for part, place, weight, level in zip(parts, places, weights, levels, strict=True):
            cells = part.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, level)
            sampled = F.grid_sample(cells.to(place.dtype), place.flatten(0, 1), align_corners=False)  # (B·h, d, T, K)
            read = read + (sampled.to(weight.dtype) * weight.flatten(0, 1)[:, None]).sum(3)
        context = read.unflatten(0, (-1, self.heads)).flatten(1, 2).transpose(1, 2)  # (B, T, E)
        return self.output(context)

    def fit(self, query: Tensor, memory: Tensor, mask: Tensor | None) -> tuple[tuple[int, int], ...]:
        """Refuse what does not fit together; give the levels of this memory."""
        self.check(query, memory, mask)
        if mask is not None and mask.ndim != 2:
            raise self.refuse(
                f"a mask of shape {tuple(mask.shape)}",
                f"{tuple(memory.shape[:2])}",
                "give one boolean for each token, the same for all queries",
            )
        if self.levels is None:
            return ((1, memory.shape[1]),)
        if sum(rows * columns for rows, columns in self.levels) != memory.shape[1]:
            raise self.refuse(
                f"a memory of shape {tuple(memory.shape)}",
                f"the tokens of the levels {self.levels}",
                "join the levels along the tokens, row by row, in this order",
            )
        return self.levels

    def places(self, query: Float[Tensor, "B T Dq"], levels: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Where every level is read, x before y, -1 and 1 its outer edges; at least single precision, since half
        precision cannot tell one position from the next."""
        precise = torch.promote_types(query.dtype, torch.float32)
        reference = self.reference(query).to(precise).sigmoid()[:, None, :, None]  # (B, 1, T, 1, 2)
        offset = self.offset(query).to(precise).unflatten(2, (self.heads, self.level_count, self.points, 2))
        offset = offset.permute(3, 0, 2, 1, 4, 5)  # (L, B, h, T, K, 2)
        return [
            torch.stack(
                [2 * (reference[..., axis] + some[..., axis] / size) - 1 for axis, size in enumerate(reversed(level))],
                dim=-1,
            )
            for some, level in zip(offset, levels, strict=True)
        ]

    def shares(
        self, place: Float[Tensor, "B H T K 2"], weight: Float[Tensor, "B H T K"], level: tuple[int, int]
    ) -> Float[Tensor, "B H T N"]:
        """What of every position of a level its points read."""
        across, down = (
            functional.linear_shares(place[..., axis], size).to(weight.dtype)
            for axis, size in enumerate(reversed(level))
        )  # (B, H, T, K, columns), (B, H, T, K, rows)
        return ((down * weight[..., None]).transpose(3, 4) @ across).flatten(3)
