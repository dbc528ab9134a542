"""Stacked attention."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.alignment.score import ScoreKind, make_score
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request


class StackedRead(Read):
    """Stacked attention: a query reads the memory, adds what it read to itself, and reads again.

        u^0    = q, or P q + p where the widths differ
        e^k_tn = v_kᵀ tanh(U_k m_n + W_k u^{k-1}_t + b_k)        for the hops k = 1..K, each with weights of its own
        a^k_tn = softmax over n of e^k_tn
        u^k_t  = Σ_n a^k_tn m_n + u^{k-1}_t
        c_t    = u^K_t

    Paper: Yang, He, Gao, Deng, Smola, "Stacked Attention Networks for Image Question Answering", CVPR 2016, section
    3.3. There question and image have one width; where they differ here, one linear layer brings the queries to
    the memory's. The paper's bias outside the tanh is left out: a softmax does not see it.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        hops: how often the memory is read; default 2, the paper's choice.
        hidden_width: width of the scoring networks; default `memory_width`.
        score: `"additive"`, the paper's and the default; `"dot"`, `"general"` or `"scaled_dot"`.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the last query `u^K`, `(B, T, Dm)`. Where a query has nothing to attend to, it is zero.

    Maps:
        attention: `(batch, hop, query, key)`, sums to one over the keys.

    Raises:
        ValueError: the score is unknown, or has no hidden layer to be given a width; or there is no hop.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "stacked"
    aliases: ClassVar[tuple[str, ...]] = ("stacked_attention", "san")
    paper: ClassVar[Paper] = Paper(
        "Stacked Attention Networks for Image Question Answering", "Yang et al.", "CVPR", 2016
    )
    formula: ClassVar[str] = "u^k = Σ_n softmax_n(v_kᵀ tanh(U_k m_n + W_k u^{k-1} + b_k)) m_n + u^{k-1}"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "hop", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q != M)*(Q + 1)*M + 2*K*(M + 1)*A"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width", "A": "hidden_width", "K": "hops"}
    deviations: ClassVar[tuple[str, ...]] = (
        'score="dot": the product of query and token in place of the scoring network',
        'score="general": the product of projected query and token in place of the scoring network',
        'score="scaled_dot": the product divided by √D in place of the scoring network',
    )
    placement: ClassVar[str] = "between a question and the cells of an image"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        hops: int = 2,
        hidden_width: int | None = None,
        score: ScoreKind = "additive",
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = memory_width if hidden_width is None else hidden_width
        self.hops = hops
        self.query = nn.Identity() if query_width == memory_width else nn.Linear(query_width, memory_width)
        self.scores = nn.ModuleList(
            make_score(score, memory_width, memory_width, hidden_width, bias=True) for _ in range(hops)
        )

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

        def run(steps: Sequence[Tensor | None]) -> tuple[Tensor, Callable[[Request], Tensor]]:
            refined = self.query(query)  # (B, T, Dm)
            hops: list[Tensor] = []
            for score, given in zip(self.scores, steps, strict=True):
                weights = functional.masked_softmax(score(refined, memory), mask) if given is None else given
                refined = functional.read(weights, memory) + refined  # (B, T, Dm)
                hops.append(weights)

            def stack(request: Request) -> Tensor:
                return torch.stack([request.pick(weights, queries=1) for weights in hops], dim=1)  # (B, K, T, N)

            return refined, stack

        refined = functional.mark_undefined(self.offer_steps("attention", self.hops, run), undefined)
        return refined if mask is None else refined.masked_fill(~mask.any(-1, keepdim=True), 0.0)
