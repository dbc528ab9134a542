"""Pre-norm blocks of a transformer: tokens that read each other, and queries that read a memory."""

from collections.abc import Callable, Iterable
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention import MultiHeadSelfAttention
from regard.attention.arguments import choose_heads


def feed_forward(width: int, expansion: int, activation: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    """`W2 gelu(W1 norm(x))`, or with another activation; the hidden layer is `expansion` times as wide."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, expansion * width), activation(), nn.Linear(expansion * width, width)
    )


class Block(nn.Module):
    """Tokens read each other: `u = x + self_attention(norm(x))`, `y = u + mlp(norm(u))`.

    Args:
        width: width `D` of a token.
        heads: number of heads; default the largest divisor of the width up to 8.
        expansion: how many times as wide the hidden layer is.
        dropout: of what is added.
        activation: of the hidden layer.
    """

    def __init__(
        self,
        width: int,
        heads: int | None = None,
        expansion: int = 4,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadSelfAttention(width, choose_heads(width, heads, 8))
        self.mlp = feed_forward(width, expansion, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N D"]:
        x = x + self.dropout(self.attention(self.norm(x), mask))
        return x + self.dropout(self.mlp(x))


class ReadBlock(nn.Module):
    """Queries read a memory, then think of what they read: `u = q + P read(norm(q), norm(m))`, `v = u + mlp(norm(u))`.

    Args:
        read: from queries, a memory, and what else is given, its mask first if it is a `Read`, to contexts.
        query_width: width `D` of a query.
        memory_width: width `M` of a memory token.
        context_width: width of a context, which `P` brings to that of a query; default None: it is that wide, and there
            is no `P`.
        expansion: how many times as wide the hidden layer is.
        dropout: of what is added.
    """

    def __init__(
        self,
        read: nn.Module,
        query_width: int,
        memory_width: int,
        context_width: int | None = None,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(query_width)
        self.memory_norm = nn.LayerNorm(memory_width)
        self.project = nn.Identity() if context_width is None else nn.Linear(context_width, query_width)
        self.mlp = feed_forward(query_width, expansion)
        self.read = read
        self.dropout = nn.Dropout(dropout)

    # `Any`: what a read takes behind query and memory differs.
    def forward(
        self, query: Float[Tensor, "B T D"], memory: Float[Tensor, "B N M"], *given: Any
    ) -> Float[Tensor, "B T D"]:
        context = self.read(self.query_norm(query), self.memory_norm(memory), *given)
        query = query + self.dropout(self.project(context))
        return query + self.dropout(self.mlp(query))


class ReadBlocks(nn.Module):
    """One `ReadBlock` after another, each with a read of its own, and a normalisation behind the last.

    Args:
        reads: of every block.
        query_width, memory_width, context_width, expansion, dropout: as of `ReadBlock`.

    Shapes:
        query `(B, T, D)`, memory `(B, N, M)`, and what else the reads take. Gives `(B, T, D)`.
    """

    def __init__(
        self,
        reads: Iterable[nn.Module],
        query_width: int,
        memory_width: int,
        context_width: int | None = None,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ReadBlock(read, query_width, memory_width, context_width, expansion, dropout) for read in reads
        )
        self.norm = nn.LayerNorm(query_width)

    # `Any`: as in `ReadBlock`.
    def forward(
        self, query: Float[Tensor, "B T D"], memory: Float[Tensor, "B N M"], *given: Any
    ) -> Float[Tensor, "B T D"]:
        for block in self.blocks:
            query = block(query, memory, *given)
        return self.norm(query)
