"""Multi-head cross-attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request


class MultiHeadCrossAttention(Read):
    """Multi-head cross-attention: every head reads its own projection of the memory.

        a^i_tn = softmax over n of (W_q^i q_t)ᵀ (W_k^i m_n) / √d      for the heads i = 1..h, d = E / h
        c_t    = W_o concat over i of Σ_n a^i_tn W_v^i m_n

    Paper: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is All You Need",
    NeurIPS 2017, section 3.2.2. The biases are those of the authors' later code and of `nn.MultiheadAttention`.
    A fused kernel computes it, and the map is computed again for whoever watches.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token.
        width: width `E` of all heads together, and of the context; default `query_width`.
        heads: number of heads; must divide `width`.
        bias: whether the four projections have biases; default True.
        dropout: probability of dropping a weight in training; default 0. The map shows the weights before it.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, E)`. Where a query has nothing to attend to, it is zero, without the output's bias.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: the heads do not divide the width.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "multi_head_cross"
    aliases: ClassVar[tuple[str, ...]] = ("cross_attention", "cross_attention_block", "mhca")
    paper: ClassVar[Paper] = Paper("Attention Is All You Need", "Vaswani et al.", "NeurIPS", 2017)
    formula: ClassVar[str] = "c_t = W_o concat_i Σ_n softmax_n((W_q^i q_t)ᵀ (W_k^i m_n) / √d) W_v^i m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + 2*M + E + 4)*E"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "E": "width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "between the self-attention and the feed-forward network of a decoder's block"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        width: int | None = None,
        heads: int = 8,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.width = query_width if width is None else width
        self.heads = heads
        self.dropout = dropout
        if self.width % heads != 0:
            raise ValueError(
                f"{heads} heads do not divide the width {self.width}: choose heads that do, "
                f"or give a width such as {max(1, round(self.width / heads)) * heads}."
            )
        self.query = nn.Linear(query_width, self.width, bias=bias)
        self.key = nn.Linear(memory_width, self.width, bias=bias)
        self.value = nn.Linear(memory_width, self.width, bias=bias)
        self.output = nn.Linear(self.width, self.width, bias=bias)

    @property
    def context_width(self) -> int:
        return self.width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T E"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        heads = None if mask is None else mask[:, None]  # (B, 1, #T, N)
        q = self.split(self.query(query))  # (B, h, T, d)
        k = self.split(self.key(memory))  # (B, h, N, d)
        v = self.split(self.value(memory))  # (B, h, N, d)

        def weights(request: Request) -> Tensor:
            rows = request.pick(q, heads=1, queries=2)
            some = heads if heads is None or heads.shape[2] == 1 else request.pick(heads, queries=2)
            return functional.scaled_dot_product_weights(rows, request.pick(k, heads=1), some)  # (B, h, T, N)

        replaced = self.offer("attention", weights)
        dropout = self.dropout if self.training else 0.0
        if replaced is None:
            read = functional.scaled_dot_product_attention(q, k, v, heads, dropout)  # (B, h, T, d)
        else:
            read = F.dropout(replaced, dropout) @ v
        context = self.output(read.transpose(1, 2).flatten(2))  # (B, T, E)
        context = functional.mark_undefined(context, undefined)
        return context if mask is None else context.masked_fill(~mask.any(-1, keepdim=True), 0.0)

    def split(self, tokens: Float[Tensor, "B N E"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
