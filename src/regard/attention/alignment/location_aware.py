"""Location-aware attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.alignment.score import AdditiveScore
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class LocationAwareRead(Read):
    """Location-aware attention: a query also sees where the query before it has read.

        f_t  = F ∗ a_{t-1}, a convolution over the tokens, with a_0 = 0
        e_tn = vᵀ tanh(W q_t + V m_n + U f_tn + b)
        a_tn = softmax over n of e_tn
        c_t  = Σ_n a_tn m_n

    The queries are read in order, one after the other. A decoder that makes each query of the last context calls
    `weigh` with one query at a time, and hands it the weights that it gave before.

    Paper: Chorowski, Bahdanau, Serdyuk, Cho, Bengio, "Attention-Based Models for Speech Recognition", NeurIPS 2015,
    equations 8 and 9, its hybrid attention. It does not say what the first query sees of a read before it: here
    nothing.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        hidden_width: width of the scoring network; default `memory_width`.
        filters: how many filters `F` has; default 10, the paper's choice.
        kernel_size: how many tokens a filter spans; odd; default 201, the paper's choice for frames of speech.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`. Where a query may read a token that is not finite, the contexts of all queries
        after it are NaN as its own is, for each looks from where the one before it looked.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ValueError: the kernel size is even, or there is no filter.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "location_aware"
    aliases: ClassVar[tuple[str, ...]] = ("location_sensitive", "location_sensitive_attention", "location_based")
    paper: ClassVar[Paper] = Paper("Attention-Based Models for Speech Recognition", "Chorowski et al.", "NeurIPS", 2015)
    formula: ClassVar[str] = "c_t = Σ_n a_tn m_n, a_t = softmax_n(vᵀ tanh(W q_t + V m_n + U (F ∗ a_{t-1})_n + b))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "(Q + M + F + 2)*A + F*k"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "A": "hidden_width",
        "F": "filters",
        "k": "kernel_size",
    }
    placement: ClassVar[str] = "between a decoder's state and an encoded recording or line of text"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        hidden_width: int | None = None,
        filters: int = 10,
        kernel_size: int = 201,
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.filters = filters
        self.kernel_size = kernel_size
        self.score = AdditiveScore(query_width, memory_width, self.hidden_width, bias=True)
        self.convolution = nn.Conv1d(1, filters, kernel_size, padding=kernel_size // 2, bias=False)
        self.location = nn.Linear(filters, self.hidden_width, bias=False)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dm"]:
        part = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, part)
        weights = self.offer("attention", self.weigh(query, memory, mask))  # (B, T, N)
        return functional.mark_undefined(functional.read(weights, memory), _ever(undefined))  # (B, T, Dm)

    def weigh(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
        before: Float[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B T N"]:
        """The weights of every query; `before` are those of the query before the first."""
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        asked = self.score.query(query)  # (B, T, A)
        tokens = self.score.memory(memory)  # (B, N, A)
        row = memory.new_zeros(memory.shape[:2]) if before is None else before  # (B, N)
        rows = []
        for t in range(query.shape[1]):
            place = self.location(self.convolution(row[:, None]).transpose(1, 2))  # (B, N, A)
            scores = functional.additive_scores(asked[:, t : t + 1], tokens + place, self.score.vector.weight[0])
            part = mask if mask is None or mask.shape[1] == 1 else mask[:, t : t + 1]  # (B, 1, N)
            row = functional.masked_softmax(scores, part)[:, 0]  # (B, N)
            rows.append(row)
        return functional.mark_undefined(torch.stack(rows, 1), _ever(undefined))


def _ever(undefined: Bool[Tensor, "B T 1"] | None) -> Bool[Tensor, "B T 1"] | None:
    """Those from the first one on: every query looks from where the one before it looked."""
    return None if undefined is None else undefined.cumsum(1) > 0
