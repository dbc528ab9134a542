"""Attention in several heads: what the reads that are built around it share."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.offering import Request

Show = Callable[[Callable[[Request], Tensor]], Tensor | None]
"""Offers weights under a label of their mechanism, and gives what takes their place, if anything does."""


def attend(
    query: Float[Tensor, "B T E"],
    key: Float[Tensor, "B N E"],
    value: Float[Tensor, "B N E"],
    heads: int,
    show: Show | None = None,
    mask: Bool[Tensor, "B #T N"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B T E"]:
    """What the heads read, side by side.

    Args:
        query: already projected, as are key and value; each head has its share of the channels of all three.
        heads: number of heads; divides `E`.
        show: offers the heads' weights, those before dropout; default None: they are not shown.
        mask: True = takes part.
        dropout: probability of dropping a weight; the caller passes 0 outside training.
    """
    q, k, v = (tokens.unflatten(2, (heads, -1)).transpose(1, 2) for tokens in (query, key, value))  # (B, h, T or N, d)
    spread = None if mask is None else mask[:, None]  # (B, 1, #T, N)

    def weights(request: Request) -> Tensor:
        some = spread if spread is None or spread.shape[2] == 1 else request.pick(spread, queries=2)
        rows = request.pick(q, heads=1, queries=2)
        return functional.scaled_dot_product_weights(rows, request.pick(k, heads=1), some)  # (B, h, T, N)

    replaced = None if show is None else show(weights)
    if replaced is None:
        read = functional.scaled_dot_product_attention(q, k, v, spread, dropout)  # (B, h, T, d)
    else:
        read = F.dropout(replaced, dropout) @ v
    return read.transpose(1, 2).flatten(2)


class MultiHead(nn.Module):
    """`W_o [head 1; ...; head h]`: four projections around `attend`.

    Args:
        query_width: width `Dq` of a query, and of what is given for it.
        memory_width: width `Dm` of a memory token.
        width: width `E` of all heads together.
        heads: number of heads; divides `width`.
        bias: whether the projections have biases.
        dropout: probability of dropping a weight in training; default 0.
    """

    def __init__(
        self, query_width: int, memory_width: int, width: int, heads: int, bias: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads = choose_heads(width, heads)
        self.dropout = dropout
        self.query = nn.Linear(query_width, width, bias=bias)
        self.key = nn.Linear(memory_width, width, bias=bias)
        self.value = nn.Linear(memory_width, width, bias=bias)
        self.output = nn.Linear(width, query_width, bias=bias)

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B #T N"] | None = None,
        show: Show | None = None,
    ) -> Float[Tensor, "B T Dq"]:
        dropout = self.dropout if self.training else 0.0
        return self.output(
            attend(self.query(query), self.key(memory), self.value(memory), self.heads, show, mask, dropout)
        )
