"""Guided attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.heads import MultiHead
from regard.attention.multimodal.feed_forward import feed_forward
from regard.attention.offering import MapFact


class GuidedAttention(Read):
    """Guided attention: the queries read each other, then the memory that guides them.

        s = norm(q + heads(q, q))             self-attention
        g = norm(s + heads(s, m))             guided attention
        c = norm(g + W2 relu(W1 g + b1) + b2)

    where `heads(x, y)` is multi-head attention from `x` to `y`, and every norm is a layer normalisation of its own.

    Paper: Yu, Yu, Cui, Tao, Tian, "Deep Modular Co-Attention Networks for Visual Question Answering", CVPR 2019,
    section 3.1, the unit that it calls SGA. There the queries are an image's regions, and a question guides.

    Args:
        query_width: width `D` of a query, and of the context.
        memory_width: width `M` of a memory token; in the paper it is `D`.
        heads: number of heads of both attentions; must divide `query_width`; default 8, the paper's choice.
        expansion: how many times as wide as a query the hidden layer is; default 4, the paper's choice.
        dropout: probability of dropping, in training, an attention weight, an entry of the hidden layer, or of what is
            added to a residual; default 0. The authors' code has 0.1 in all these places.

    Shapes:
        query `(B, T, D)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part; query_mask `(B, T)`,
        the queries that others may read. Gives the context `(B, T, D)`; where there is no memory to attend to, it is
        zero.

    Maps:
        self: of the queries among each other, `(batch, heads, query, peer)`, sums to one over the peers; before
            dropout.
        guided: of the memory, `(batch, heads, query, key)`, sums to one over the keys; before dropout.

    Raises:
        ValueError: the heads do not divide the width.
        ShapeError: a width, a batch size or a mask does not fit.
    """

    name: ClassVar[str] = "guided"
    aliases: ClassVar[tuple[str, ...]] = ("mcan",)
    paper: ClassVar[Paper] = Paper(
        "Deep Modular Co-Attention Networks for Visual Question Answering", "Yu et al.", "CVPR", 2019
    )
    formula: ClassVar[str] = (
        "c = norm(g + W2 relu(W1 g + b1) + b2) with g = norm(s + heads(s, m)), s = norm(q + heads(q, q))"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("self", ("batch", "heads", "query", "peer"), ("peer",)),
        MapFact("guided", ("batch", "heads", "query", "key"), ("key",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "4*(D*D + D) + 2*(D*D + D) + 2*(M*D + D) + 2*D*E + E + D + 6*D"
    letters: ClassVar[dict[str, str]] = {"D": "query_width", "M": "memory_width", "E": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "dropout=0.1: drops weights, hidden entries and what is added to residuals, as in the authors' code",
    )
    placement: ClassVar[str] = "stacked, between the regions of an image and an encoded question"

    def __init__(
        self, query_width: int, memory_width: int, heads: int = 8, expansion: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.heads = heads
        self.hidden_width = expansion * query_width
        self.among = MultiHead(query_width, query_width, query_width, heads, True, dropout)
        self.guide = MultiHead(query_width, memory_width, query_width, heads, True, dropout)
        self.feed_forward = feed_forward(query_width, self.hidden_width, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(query_width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    @property
    def context_width(self) -> int:
        return self.query_width

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
        query_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        peers = self.check_mask(query_mask, query.shape[0], query.shape[1], query.shape[1])
        if mask is not None:  # whoever has no memory to attend to reads no peers either
            some = mask.any(-1, keepdim=True)  # (B, #T, 1)
            peers = some.expand(-1, -1, query.shape[1]) if peers is None else peers & some
        first, second, third = self.norms
        query, undefined = functional.exclude_nonfinite(query, peers, queries=True)
        memory, guided = functional.exclude_nonfinite(memory, mask)
        if guided is not None:
            undefined = guided if undefined is None else undefined | guided
        read = self.among(query, query, peers, lambda weights: self.offer("self", weights))  # (B, T, D)
        context = first(query + self.dropout(read))
        read = self.guide(context, memory, mask, lambda weights: self.offer("guided", weights))  # (B, T, D)
        context = second(context + self.dropout(read))
        context = third(context + self.dropout(self.feed_forward(context)))
        context = functional.mark_undefined(context, undefined)
        return context if mask is None else context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
