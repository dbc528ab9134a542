"""Softmax attention pooling."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class SpatialSoftmaxPooling(Read):
    """Softmax attention pooling: a memory becomes one vector, by weights that it finds in itself.

        e_n = wᵀ tanh(W m_n)
        a_n = softmax over n of e_n
        c   = Σ_n a_n m_n

    Paper: Lin, Feng, dos Santos, Yu, Xiang, Zhou, Bengio, "A Structured Self-attentive Sentence Embedding", ICLR 2017,
    equation 5, which is its form for one row of weights.

    The vector `w` is the only query that it has. It takes one all the same, so that it stands wherever any other `Read`
    stands: every query receives the same context, and of the query only the number of rows counts. It is the control
    of a comparison: what it reads cannot depend on what was asked.

    Args:
        query_width: width `Dq` of a query that is given and not looked at; None if none will be given.
        memory_width: width `Dm` of a memory token, and of the context.
        hidden_width: width of the scoring network; default `memory_width`.

    Shapes:
        query `(B, T, Dq)`, or None for one row (`T` = 1); memory `(B, N, Dm)`; mask `(B, N)` or `(B, T, N)` with
        True = takes part. Gives the context `(B, T, Dm)`.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "softmax_pool"
    aliases: ClassVar[tuple[str, ...]] = ("structured_self_attention", "self_attentive_pooling")
    paper: ClassVar[Paper] = Paper("A Structured Self-attentive Sentence Embedding", "Lin et al.", "ICLR", 2017)
    formula: ClassVar[str] = "c = Σ_n softmax_n(wᵀ tanh(W m_n)) m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(M + 1)*A"
    letters: ClassVar[dict[str, str]] = {"M": "memory_width", "A": "hidden_width"}
    placement: ClassVar[str] = "between an encoder and a classifier, in place of mean pooling"

    def __init__(self, query_width: int | None, memory_width: int, hidden_width: int | None = None) -> None:
        super().__init__()
        self.query_width = 0 if query_width is None else query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.hidden = nn.Linear(memory_width, self.hidden_width, bias=False)
        self.vector = nn.Linear(self.hidden_width, 1, bias=False)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"] | None,
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dm"]:
        if query is None:
            query = memory.new_empty(memory.shape[0], 1, self.query_width)
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        T = query.shape[1]
        scores = self.vector(self.hidden(memory).tanh()).transpose(1, 2)  # (B, 1, N)
        if mask is not None:
            scores = scores.expand(-1, mask.shape[1], -1)  # (B, #T, N)
        weights = functional.masked_softmax(scores, mask)  # (B, #T, N)
        # Read once for all queries, unless others give each of them weights of its own.
        replaced = self.offer("attention", lambda request: request.pick(weights.expand(-1, T, -1), queries=1))
        context = functional.read(weights if replaced is None else replaced, memory)  # (B, #T, Dm)
        context = functional.mark_undefined(context, undefined)
        return context.expand(-1, T, -1).contiguous()  # (B, T, Dm)
