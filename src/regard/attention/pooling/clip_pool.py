"""CLIP's attention pooling."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class CLIPAttentionPooling(Read):
    """CLIP's attention pooling: the mean of all positions reads the positions, and itself along with them.

        x_0, x_n = mean over n of m_n + e_0, m_n + e_n                 e: one learned vector a position, and e_0
        a^i_n    = softmax over n = 0..N of (W_q^i x_0)ᵀ (W_k^i x_n) / √d          for the heads i = 1..h
        c        = W_o concat over i of Σ_n a^i_n W_v^i x_n

    Paper: Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever, "Learning
    Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.4; the position vectors and the
    biases are those of the authors' code.

    A query is taken all the same, so that it stands wherever any other `Read` stands; it is not looked at.

    Args:
        query_width: width `Dq` of a query that is given and not looked at; None if none will be given.
        memory_width: width `C` of a memory token.
        width: width `D` of the context; default `memory_width`. In CLIP it is that of the space of image and text.
        heads: number of heads; must divide `memory_width`; default one for every 64 channels, the paper's choice, and
            at least one.
        size: rows and columns of the grid that has the position vectors, or one number for both; default 7, the
            authors' for images of 224 pixels. For other grids they are interpolated, bicubic with antialiasing.

    Shapes:
        query `(B, T, Dq)`, or None for one row (`T` = 1); memory `(B, N, C)`, the cells of a grid row by row; mask
        `(B, N)` or `(B, T, N)` with True = takes part, also in the mean; grid, rows and columns of the memory: if it is
        None, that of `size` where it has N cells, else a square, else one row. Gives the context `(B, T, D)`; where
        there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, heads, query, key)`, the weights of the positions; the rest to one is that of the mean.

    Raises:
        ValueError: the heads do not divide the width.
        ShapeError: a width, a batch size, the mask or the grid does not fit.
    """

    name: ClassVar[str] = "clip_pool"
    aliases: ClassVar[tuple[str, ...]] = ("attention_pool_2d", "clip_attention_pool")
    paper: ClassVar[Paper] = Paper(
        "Learning Transferable Visual Models From Natural Language Supervision", "Radford et al.", "ICML", 2021
    )
    formula: ClassVar[str] = (
        "c = W_o concat_i Σ_n softmax_n((W_q^i x_0)ᵀ W_k^i x_n / √d) W_v^i x_n with x = [mean(m); m] + e"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "(P + 1)*C + 3*(C*C + C) + C*D + D"
    letters: ClassVar[dict[str, str]] = {"P": "positions", "C": "memory_width", "D": "width"}
    placement: ClassVar[str] = "after the last stage of a convolutional image encoder, in place of mean pooling"

    def __init__(
        self,
        query_width: int | None,
        memory_width: int,
        width: int | None = None,
        heads: int | None = None,
        size: int | tuple[int, int] = 7,
    ) -> None:
        super().__init__()
        self.query_width = 0 if query_width is None else query_width
        self.memory_width = memory_width
        self.width = memory_width if width is None else width
        self.heads = choose_heads(memory_width, max(1, memory_width // 64) if heads is None else heads)
        self.size = (size, size) if isinstance(size, int) else size
        self.positions = self.size[0] * self.size[1]
        self.mean_embedding = nn.Parameter(torch.randn(memory_width) * memory_width**-0.5)
        self.embedding = nn.Parameter(torch.randn(self.positions, memory_width) * memory_width**-0.5)
        self.query = nn.Linear(memory_width, memory_width)
        self.key = nn.Linear(memory_width, memory_width)
        self.value = nn.Linear(memory_width, memory_width)
        self.output = nn.Linear(memory_width, self.width)

    @property
    def context_width(self) -> int:
        return self.width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"] | None,
        memory: Float[Tensor, "B N C"],
        mask: Bool[Tensor, "B *T N"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "B T D"]:
        if query is None:
            query = memory.new_empty(memory.shape[0], 1, self.query_width)
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        T = query.shape[1]
        mean = functional.masked_mean(memory, mask) + self.mean_embedding  # (B, #T, C)
        tokens = memory + self.embed(memory.shape[1], grid)  # (B, N, C)
        q, own_key, own_value = (self.split(layer(mean)) for layer in (self.query, self.key, self.value))
        k, v = self.split(self.key(tokens)), self.split(self.value(tokens))  # (B, h, N, d)
        weights, own = functional.own_token_weights(q, k, own_key, None if mask is None else mask[:, None])
        # Read once for all queries, unless others give each of them weights of its own.
        replaced = self.offer(
            "attention", lambda request: request.pick(weights.expand(-1, -1, T, -1), heads=1, queries=2)
        )
        read = (weights if replaced is None else replaced) @ v + own * own_value  # (B, h, #T, d)
        context = self.output(read.transpose(1, 2).flatten(2))  # (B, #T, D)
        context = functional.mark_undefined(context, undefined)
        if mask is not None:
            context = context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        return context.expand(-1, T, -1).contiguous()  # (B, T, D)

    def embed(self, count: int, grid: tuple[int, int] | None) -> Float[Tensor, "N C"]:
        """The position vectors of a memory of so many cells."""
        if grid is None:
            side = round(count**0.5)
            grid = self.size if count == self.positions else (side, side) if count == side * side else (1, count)
        if grid[0] * grid[1] != count:
            raise self.refuse(f"a memory of {count} tokens", f"the cells of the grid {grid}", "give its own grid")
        if grid == self.size:
            return self.embedding
        # Interpolation is separable and linear: a matrix for the rows, and one for the columns.
        rows, columns = (self.resize(old, new) for old, new in zip(self.size, grid, strict=True))
        table = self.embedding.unflatten(0, self.size)  # (H, W, C)
        return torch.einsum("hH,HWc,wW->hwc", rows, table, columns).flatten(0, 1)

    def resize(self, old: int, new: int) -> Float[Tensor, "new old"]:
        """What each of `new` cells takes from each of `old` ones in bicubic interpolation with antialiasing."""
        # Single precision at least: the kernel knows no half.
        precise = torch.promote_types(self.embedding.dtype, torch.float32)
        each = torch.eye(old, device=self.embedding.device, dtype=precise)[None, None]  # (1, 1, old, old)
        taken = F.interpolate(each, (new, old), mode="bicubic", antialias=True, align_corners=False)
        return taken[0, 0].to(self.embedding.dtype)

    def split(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
