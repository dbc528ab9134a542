"""Attention on attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.heads import attend
from regard.attention.offering import MapFact

Beside = Literal["projected", "query"]


class AttentionOnAttention(Read):
    """Attention on attention: a gate, made of the query and of what it read, says how much of that is an answer.

        q'_t = W_q q_t
        v_t  = concat over i of Σ_n a^i_tn W_v^i m_n,  a^i_tn = softmax over n of q'^i_t · W_k^i m_n / √d
        c_t  = sigmoid(G_q q'_t + G_v v_t + b_g) ⊙ (I_q q'_t + I_v v_t + b_i)

    There is no output projection of the heads: the information `I` takes its place. The residual and the normalisation
    are those of the block around it.

    Paper: Huang, Wang, Chen, Wei, "Attention on Attention for Image Captioning", ICCV 2019. The dropout before gate and
    information, which the authors' code has, is left out.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token.
        width: width `E` of all heads together, and of the context; default `query_width`.
        heads: number of heads; default 8, the paper's choice. It divides `width`.
        bias: whether the projections of query, key and value have biases; default False, as the paper's equations.
        beside: what stands beside `v` in gate and information. `"projected"`, the projected query `q'`, the paper's and
            the default; `"query"`, the query as it came.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, E)`. Where a query has nothing to attend to, it is zero.

    Maps:
        attention: `a`, `(batch, heads, query, key)`, sums to one over the keys.
        gate: the sigmoid, `(batch, query, width)`; zero where a query has nothing to attend to.

    Raises:
        ValueError: the heads do not divide the width, or there is no such `beside`.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "attention_on_attention"
    aliases: ClassVar[tuple[str, ...]] = ("aoa", "aoanet")
    paper: ClassVar[Paper] = Paper("Attention on Attention for Image Captioning", "Huang et al.", "ICCV", 2019)
    formula: ClassVar[str] = "c = σ(G_q q' + G_v v + b_g) ⊙ (I_q q' + I_v v + b_i), v = multi_head(q' = W_q q, m)"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),
        MapFact("gate", ("batch", "query", "width")),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + 2*M)*E + 2*(2*E)*E + 2*E"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "E": "width"}
    deviations: ClassVar[tuple[str, ...]] = (
        'beside="query": the query before its projection beside what was read, as in the authors\' code',
        "bias=True: projections with biases, as in the authors' code",
    )
    placement: ClassVar[str] = "in a captioner's encoder, and between its decoder's state and the regions of an image"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        width: int | None = None,
        heads: int = 8,
        bias: bool = False,
        beside: Beside = "projected",
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.width = query_width if width is None else width
        self.heads = choose_heads(self.width, heads, heads)
        self.beside = beside
        self.query = nn.Linear(query_width, self.width, bias=bias)
        self.key = nn.Linear(memory_width, self.width, bias=bias)
        self.value = nn.Linear(memory_width, self.width, bias=bias)
        # The information first and the gate behind it, for what was read and the query side by side.
        self.output = nn.Linear(self.width + (self.width if beside == "projected" else query_width), 2 * self.width)

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
        asked = self.query(query)  # (B, T, E)
        key, value = self.key(memory), self.value(memory)  # (B, N, E)
        read = attend(asked, key, value, self.heads, lambda weights: self.offer("attention", weights), mask)
        both = torch.cat((read, asked if self.beside == "projected" else query), -1)  # (B, T, 2E or E + Dq)
        information, gate = self.output(both).chunk(2, -1)  # (B, T, E) each
        gate = gate.sigmoid()  # (B, T, E)
        if mask is not None:
            gate = gate.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        gate = self.offer("gate", gate)
        return functional.mark_undefined(gate * information, undefined)  # (B, T, E)
