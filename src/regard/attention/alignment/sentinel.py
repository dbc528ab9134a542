"""Adaptive attention with a visual sentinel."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.alignment.score import AdditiveScore
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request


class AdaptiveRead(Read):
    """Adaptive attention: besides the memory there is a sentinel to attend to, what the query knows without looking.

        s_t  = sigmoid(W_x q_t) ⊙ tanh(W_m q_t)
        z_tn = vᵀ tanh(U m_n + W_g q_t)
        a_tn = softmax over n of z_tn
        β_t  = last weight of softmax([z_t1; ...; z_tN; vᵀ tanh(W_s s_t + W_g q_t)])
        c_t  = β_t s_t + (1 − β_t) Σ_n a_tn m_n

    In the paper the sentinel is made within an LSTM: its gate sees the word and the last hidden state, and what it
    gates is the memory cell. A read has one query, so that both are linear in it here; give the concatenation of
    these states as the query for what the paper gives each of them.

    Paper: Lu, Xiong, Parikh, Socher, "Knowing When to Look: Adaptive Attention via a Visual Sentinel for Image
    Captioning", CVPR 2017, equations 5 to 13.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, of the sentinel and of the context.
        hidden_width: width of the scoring network; default `memory_width`.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`. Where a query has nothing to attend to, it is zero, as of any other read.

    Maps:
        attention: `a`, `(batch, query, key)`, sums to one over the keys.
        sentinel: `β`, how much the sentinel counts, `(batch, query)`; zero where a query has nothing to attend to.

    Raises:
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "sentinel"
    aliases: ClassVar[tuple[str, ...]] = ("adaptive_attention", "visual_sentinel")
    paper: ClassVar[Paper] = Paper(
        "Knowing When to Look: Adaptive Attention via a Visual Sentinel for Image Captioning", "Lu et al.", "CVPR", 2017
    )
    formula: ClassVar[str] = "c_t = β_t s_t + (1 − β_t) Σ_n softmax_n(z_tn) m_n, β_t = softmax([z_t; z_ts])_s"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "query", "key"), ("key",)),
        MapFact("sentinel", ("batch", "query")),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + 2*M + 1)*A + 2*Q*M"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width"}
    placement: ClassVar[str] = "between a caption's decoder and the cells of an image"

    def __init__(self, query_width: int, memory_width: int, hidden_width: int | None = None) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.score = AdditiveScore(query_width, memory_width, self.hidden_width)
        self.sentinel_gate = nn.Linear(query_width, memory_width, bias=False)
        self.sentinel_content = nn.Linear(query_width, memory_width, bias=False)
        self.sentinel_score = nn.Linear(memory_width, self.hidden_width, bias=False)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dm"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        sentinel = self.sentinel_gate(query).sigmoid() * self.sentinel_content(query).tanh()  # (B, T, Dm)
        asked = self.score.query(query)  # (B, T, A)
        scores = functional.additive_scores(asked, self.score.memory(memory), self.score.vector.weight[0])  # (B, T, N)
        score = self.score.vector((asked + self.sentinel_score(sentinel)).tanh())  # (B, T, 1)
        # The sentinel takes part wherever any token does, and so nothing is left of a query without any.
        takes_part = None if mask is None else torch.cat((mask, mask.any(-1, keepdim=True)), -1)  # (B, #T, N + 1)
        weights = functional.masked_softmax(torch.cat((scores, score), -1), takes_part)  # (B, T, N + 1)
        own = weights[:, :, -1]  # (B, T)

        def attention(request: Request) -> Tensor:
            part = mask if mask is None or mask.shape[1] == 1 else request.pick(mask, queries=1)
            return functional.masked_softmax(request.pick(scores, queries=1), part)  # (B, T, N)

        replaced = self.offer("attention", attention)
        share = self.offer("sentinel", own)  # (B, T)
        if replaced is None and share is own:
            of_memory = weights[:, :, :-1]  # (B, T, N)
        else:
            of_memory = (1 - share)[:, :, None] * (attention(Request()) if replaced is None else replaced)
        context = functional.read(of_memory, memory) + share[:, :, None] * sentinel  # (B, T, Dm)
        return functional.mark_undefined(context, undefined)
