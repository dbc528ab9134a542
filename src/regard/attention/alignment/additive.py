"""Additive attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard import functional
from regard.attention.alignment.score import AdditiveScore
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class AdditiveRead(Read):
    """Additive attention: a small network scores every pair of query and memory token.

        e_tn = vᵀ tanh(W q_t + U m_n + b)
        a_tn = softmax over n of e_tn
        c_t  = Σ_n a_tn m_n

    Paper: Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015,
    appendix A.1.2.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        hidden_width: width of the scoring network; default `memory_width`.
        bias: whether the scoring network has the bias `b`; default False, the paper omits it.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "additive"
    aliases: ClassVar[tuple[str, ...]] = ("bahdanau", "bahdanau_attention", "additive_attention")
    paper: ClassVar[Paper] = Paper(
        "Neural Machine Translation by Jointly Learning to Align and Translate", "Bahdanau et al.", "ICLR", 2015
    )
    formula: ClassVar[str] = "c_t = Σ_n softmax_n(vᵀ tanh(W q_t + U m_n)) m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + M + 1)*A"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: a bias inside the tanh, as in many implementations",)
    placement: ClassVar[str] = "between a decoder's state or a question and the encoded input"

    def __init__(
        self, query_width: int, memory_width: int, hidden_width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.score = AdditiveScore(query_width, memory_width, self.hidden_width, bias=bias)

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
        weights = functional.masked_softmax(self.score(query, memory), mask)  # (B, T, N)
        weights = self.offer("attention", weights)
        return functional.mark_undefined(functional.read(weights, memory), undefined)  # (B, T, Dm)
