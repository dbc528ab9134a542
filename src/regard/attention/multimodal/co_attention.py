"""Parallel co-attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class ParallelCoAttention(Read):
    """Parallel co-attention: queries and memory weigh each other at once, through the affinity of every pair.

        C_tn = tanh(q_tᵀ W_b m_n)
        a^m  = softmax over n of w_mᵀ tanh(W_m m_n + Σ_t C_tn W_q q_t)
        a^q  = softmax over t of w_qᵀ tanh(W_q q_t + Σ_n C_tn W_m m_n)
        c    = [Σ_t a^q_t q_t; Σ_n a^m_n m_n]

    The context is one for all queries, the summary of both sides.

    Paper: Lu, Yang, Batra, Parikh, "Hierarchical Question-Image Co-Attention for Visual Question Answering", NeurIPS
    2016. The dropout behind the tanh of both scoring networks, which the authors' code has, is left out.

    Args:
        query_width: width `Q` of a query, such as a word.
        memory_width: width `M` of a memory token, such as a region; in the paper the two are one.
        hidden_width: width `k` of the scoring network; default `memory_width`, the paper's choice.
        bias: whether `W_b`, `W_m`, `W_q`, `w_m` and `w_q` have biases; default False, as the equations are written.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = the pair takes part; a query or
        token without any pair is not read. Gives the context `(B, T, Q + M)`, the same for all queries, but zero where
        a query has no pair. A token that is not finite makes it NaN for all of them if any query may read it.

    Maps:
        memory: `(batch, key)`, sums to one over the keys.
        query: `(batch, query)`, sums to one over the queries.

    Raises:
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "co_attention"
    aliases: ClassVar[tuple[str, ...]] = ("hiecoatt", "hierarchical_co_attention")
    paper: ClassVar[Paper] = Paper(
        "Hierarchical Question-Image Co-Attention for Visual Question Answering", "Lu et al.", "NeurIPS", 2016
    )
    formula: ClassVar[str] = (
        "a^m = softmax_n(w_mᵀ tanh(W_m m_n + Σ_t C_tn W_q q_t)), a^q likewise, with C_tn = tanh(q_tᵀ W_b m_n)"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("memory", ("batch", "key"), ("key",)),
        MapFact("query", ("batch", "query"), ("query",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "Q*M + (Q + M)*k + 2*k"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "k": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: every layer has a bias, as in the authors' code",)
    placement: ClassVar[str] = "between the words of a question and the cells of an image, once a level of the question"

    def __init__(
        self, query_width: int, memory_width: int, hidden_width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.affinity = nn.Linear(memory_width, query_width, bias=bias)
        self.memory = nn.Linear(memory_width, self.hidden_width, bias=bias)
        self.query = nn.Linear(query_width, self.hidden_width, bias=bias)
        self.memory_score = nn.Linear(self.hidden_width, 1, bias=bias)
        self.query_score = nn.Linear(self.hidden_width, 1, bias=bias)

    @property
    def context_width(self) -> int:
        return self.query_width + self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Q"],
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        affinity = torch.bmm(query, self.affinity(memory).transpose(1, 2)).tanh()  # (B, T, N)
        if mask is not None:
            affinity = affinity.masked_fill(~mask, 0.0)
        q, m = self.query(query), self.memory(memory)  # (B, T, k), (B, N, k)
        of_memory = self.memory_score((m + torch.bmm(affinity.transpose(1, 2), q)).tanh())[:, :, 0]  # (B, N)
        of_query = self.query_score((q + torch.bmm(affinity, m)).tanh())[:, :, 0]  # (B, T)
        memory_weights = functional.masked_softmax(of_memory, None if mask is None else mask.any(1))
        query_weights = functional.masked_softmax(of_query, None if mask is None else mask.any(2))
        memory_weights = self.offer("memory", memory_weights)
        query_weights = self.offer("query", query_weights)
        both = (functional.read(query_weights[:, None], query), functional.read(memory_weights[:, None], memory))
        context = torch.cat(both, dim=2)  # (B, 1, Q + M)
        if undefined is not None:  # all queries have one context
            context = functional.mark_undefined(context, undefined.any(1, keepdim=True))
        context = context.expand(-1, query.shape[1], -1)  # (B, T, Q + M)
        return context.contiguous() if mask is None else context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
