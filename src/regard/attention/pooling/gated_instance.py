"""Gated attention pooling of instances."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class GatedInstancePooling(Read):
    """Gated attention pooling: a bag of instances becomes one vector, by weights from a gated network.

        e_n = wᵀ (tanh(V m_n) · sigmoid(U m_n))
        a_n = softmax over n of e_n
        c   = Σ_n a_n m_n

    Paper: Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, equations 7 and 9.

    A query is taken all the same, so that it stands wherever any other `Read` stands; it is not looked at.

    Args:
        query_width: width `Dq` of a query that is given and not looked at; None if none will be given.
        memory_width: width `M` of an instance, and of the context.
        hidden_width: width `L` of the scoring network; default 128, the paper's for its histology images.
        gated: whether the sigmoid gates the tanh; default True. Without, it is the paper's equation 8.
        bias: whether `V`, `U` and `w` have biases; default False, as the paper's equations are written.

    Shapes:
        query `(B, T, Dq)`, or None for one row (`T` = 1); memory `(B, N, M)`; mask `(B, N)` or `(B, T, N)` with
        True = takes part. Gives the context `(B, T, M)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "gated_instance"
    aliases: ClassVar[tuple[str, ...]] = ("abmil", "attention_mil", "gated_abmil")
    paper: ClassVar[Paper] = Paper("Attention-based Deep Multiple Instance Learning", "Ilse et al.", "ICML", 2018)
    formula: ClassVar[str] = "c = Σ_n softmax_n(wᵀ (tanh(V m_n) · sigmoid(U m_n))) m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*M*L + L"
    letters: ClassVar[dict[str, str]] = {"M": "memory_width", "L": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "gated=False: no gate, the simpler of the paper's two forms",
        "bias=True: all three layers have biases, as in the authors' code",
    )
    placement: ClassVar[str] = "between an encoder of instances, such as patches of a slide, and the bag's classifier"

    def __init__(
        self,
        query_width: int | None,
        memory_width: int,
        hidden_width: int = 128,
        gated: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.query_width = 0 if query_width is None else query_width
        self.memory_width = memory_width
        self.hidden_width = hidden_width
        self.hidden = nn.Linear(memory_width, hidden_width, bias=bias)
        self.gate = nn.Linear(memory_width, hidden_width, bias=bias) if gated else None
        self.vector = nn.Linear(hidden_width, 1, bias=bias)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"] | None,
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T M"]:
        if query is None:
            query = memory.new_empty(memory.shape[0], 1, self.query_width)
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        T = query.shape[1]
        hidden = self.hidden(memory).tanh()  # (B, N, L)
        if self.gate is not None:
            hidden = hidden * self.gate(memory).sigmoid()
        scores = self.vector(hidden).transpose(1, 2)  # (B, 1, N)
        if mask is not None:
            scores = scores.expand(-1, mask.shape[1], -1)  # (B, #T, N)
        weights = functional.masked_softmax(scores, mask)  # (B, #T, N)
        # Read once for all queries, unless others give each of them weights of its own.
        replaced = self.offer("attention", lambda request: request.pick(weights.expand(-1, T, -1), queries=1))
        context = functional.read(weights if replaced is None else replaced, memory)  # (B, #T, M)
        context = functional.mark_undefined(context, undefined)
        return context.expand(-1, T, -1).contiguous()  # (B, T, M)
