"""Gated cross-attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.heads import MultiHead
from regard.attention.offering import MapFact


class GatedCrossAttention(Read):
    """Flamingo's gated cross-attention: multi-head cross-attention whose gate is closed at the start of training.

        a^i_tn = softmax over n of (W_q^i norm(q_t))ᵀ (W_k^i m_n) / √d      for the heads i = 1..h, d = E / h
        c_t    = tanh(α) W_o concat over i of Σ_n a^i_tn W_v^i m_n,         α = 0 at first

    Added to the query, as the paper does, it leaves a trained language model as it is until it has learned something.
    The residual, and the feed-forward layer with a gate of its own that follows, belong to the block around it. The
    paper lets a word see the last image before it only: that is a mask of one row a query.

    Paper: Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022, section 2.2 and
    figure 4. It does not say where it normalises nor whether it has biases: as in OpenFlamingo, the query is
    normalised, as before every layer of its language model, and there are none.

    Args:
        query_width: width `Dq` of a query, and of the context.
        memory_width: width `Dm` of a memory token.
        width: width `E` of all heads together; default `query_width`.
        heads: number of heads; default the largest divisor of the width that is not above 16, the paper's number.
        bias: whether the four projections have biases; default False.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dq)`. Where a query has nothing to attend to, it is zero.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys; before the gate.

    Raises:
        ValueError: the heads do not divide the width.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "multi_head_gated_cross"
    aliases: ClassVar[tuple[str, ...]] = ("gated_cross_attention_dense", "gated_cross")
    paper: ClassVar[Paper] = Paper(
        "Flamingo: a Visual Language Model for Few-Shot Learning", "Alayrac et al.", "NeurIPS", 2022
    )
    formula: ClassVar[str] = "c_t = tanh(α) W_o concat_i Σ_n softmax_n((W_q^i norm(q_t))ᵀ (W_k^i m_n) / √d) W_v^i m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*(Q + M)*E + 2*Q + 1"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "E": "width"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: projections with biases, as those of Vaswani et al. 2017",)
    placement: ClassVar[str] = "between the layers of a frozen language model, inside a residual"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        width: int | None = None,
        heads: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.width = query_width if width is None else width
        self.heads = choose_heads(self.width, heads, 16)
        self.norm = nn.LayerNorm(query_width)
        self.attention = MultiHead(query_width, memory_width, self.width, self.heads, bias)
        self.gate = nn.Parameter(torch.zeros(1))  # not a scalar, which sharding refuses

    @property
    def context_width(self) -> int:
        return self.query_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dq"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        read = self.attention(
            self.norm(query), memory, mask, lambda weights: self.offer("attention", weights)
        )  # (B, T, Dq)
        context = self.gate.tanh() * read  # (B, T, Dq)
        context = functional.mark_undefined(context, undefined)
        return context if mask is None else context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
