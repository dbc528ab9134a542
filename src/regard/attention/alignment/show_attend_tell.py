"""The soft attention of Show, Attend and Tell."""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.alignment.score import AdditiveScore
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact

Gate = Literal["scalar", "channel"]


class ShowAttendTell(Read):
    """Soft attention of Show, Attend and Tell: an additive read, and a gate that says how much the image counts.

        e_tn = vᵀ tanh(W q_t + U m_n)
        a_tn = softmax over n of e_tn
        β_t  = sigmoid(w_βᵀ q_t + b_β)
        c_t  = β_t Σ_n a_tn m_n

    Its hard form is `HardRead`. The penalty that makes a caption look at every part of the image is
    `functional.doubly_stochastic_penalty` of the map.

    Paper: Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio, "Show, Attend and Tell: Neural Image Caption
    Generation with Visual Attention", ICML 2015, sections 3.1.2, 4.2 and 4.2.1.

    Args:
        query_width: width `Dq` of a query, the decoder's last hidden state.
        memory_width: width `Dm` of a memory token, and of the context.
        hidden_width: width of the scoring network; default `memory_width`.
        bias: whether the scoring network has a bias inside the tanh; default False, the paper states none.
        gate: `"scalar"`, one gate a query, the paper's and the default; `"channel"`, one a query and channel.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`.

    Maps:
        attention: `a`, `(batch, query, key)`, sums to one over the keys.
        gate: `β`, `(batch, query)`, or `(batch, query, channel)` with one a channel; zero where a query has nothing to
            attend to.

    Raises:
        ValueError: there is no such gate.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "show_attend_tell"
    aliases: ClassVar[tuple[str, ...]] = ("show_attend_and_tell", "soft_attention")
    paper: ClassVar[Paper] = Paper(
        "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", "Xu et al.", "ICML", 2015
    )
    formula: ClassVar[str] = "c_t = σ(w_βᵀ q_t + b_β) Σ_n softmax_n(vᵀ tanh(W q_t + U m_n)) m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "query", "key"), ("key",)),
        MapFact("gate", ("batch", "query")),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + M + 1)*A + Q + 1"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=True: a bias inside the tanh, as in the authors' code",
        'gate="channel": one gate a channel in place of one for all, as in popular re-implementations',
    )
    placement: ClassVar[str] = "between a caption's decoder and the cells of an image"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        hidden_width: int | None = None,
        bias: bool = False,
        gate: Gate = "scalar",
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.score = AdditiveScore(query_width, memory_width, self.hidden_width, bias=bias)
        self.gate = nn.Linear(query_width, memory_width if gate == "channel" else 1)
        if gate == "channel":
            facts = (self.maps[0], MapFact("gate", ("batch", "query", "channel")))
            self.maps = facts  # pyright: ignore[reportAttributeAccessIssue]

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
        gate = self.gate(query).sigmoid()  # (B, T, 1 or Dm)
        if mask is not None:
            gate = gate.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        weights = self.offer("attention", weights)
        if self.gate.out_features == 1:
            gate = self.offer("gate", gate[:, :, 0])[:, :, None]
        else:
            gate = self.offer("gate", gate)
        return functional.mark_undefined(gate * functional.read(weights, memory), undefined)  # (B, T, Dm)
