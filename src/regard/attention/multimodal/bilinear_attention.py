"""Bilinear attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class BilinearAttention(Read):
    """Bilinear attention: one distribution over all pairs of query and memory token, `G` times.

        A^g_tn  = softmax over all pairs (t, n) of p_gᵀ (relu(U q_t) · relu(V m_n))      for the glimpses g = 1..G
        f^g     = Σ_t Σ_n A^g_tn relu(U_g x^g_t) · relu(V_g m_n)                         low-rank bilinear pooling
        x^g+1_t = P_g f^g + x^g_t   with x^1 = q                                         multimodal residual network
        c_t     = x^G+1_t

    The sum of the context over the queries is the paper's joint representation.

    Paper: Kim, Jun, Zhang, "Bilinear Attention Networks", NeurIPS 2018. Its released code has weight normalisation,
    dropout, and a rank of the attention three times as high besides.

    Args:
        query_width: width `Q` of a query, such as a word, and of the context.
        memory_width: width `M` of a memory token, such as a region.
        hidden_width: the rank `K` of both bilinear forms; default `query_width`, the paper's choice.
        glimpses: number of attention maps `G`; default 8, the paper's best.
        bias: whether the projections behind the ReLUs and the outputs have biases; default False: the paper omits them.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = the pair takes part.
        Gives the context `(B, T, Q)`; where a query has no pair, it is zero. A token that is not finite makes it NaN
        for all other queries if any may read it, since the weights are of all pairs together.

    Maps:
        attention: `(batch, glimpse, query, key)`, sums to one over all pairs of query and key.

    Raises:
        ValueError: there is no glimpse.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "bilinear_attention"
    aliases: ClassVar[tuple[str, ...]] = ("ban", "bilinear_attention_network")
    paper: ClassVar[Paper] = Paper("Bilinear Attention Networks", "Kim et al.", "NeurIPS", 2018)
    formula: ClassVar[str] = (
        "x_t ← x_t + P_g Σ_tn A^g_tn relu(U_g x_t) · relu(V_g m_n) for g = 1..G, "
        "with A^g_tn = softmax_tn(p_gᵀ (relu(U q_t) · relu(V m_n)))"
    )
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "glimpse", "query", "key"), ("query", "key")),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(Q + M + G)*K + G*(2*Q + M)*K"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "K": "hidden_width",
        "G": "glimpses",
    }
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: projections and outputs have biases, as in the released code",)
    placement: ClassVar[str] = "between the words of a question and the regions of an image"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        hidden_width: int | None = None,
        glimpses: int = 8,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.hidden_width = K = query_width if hidden_width is None else hidden_width
        self.glimpses = glimpses
        self.score_query = nn.Linear(query_width, K, bias=bias)
        self.score_memory = nn.Linear(memory_width, K, bias=bias)
        self.score = nn.Parameter(torch.randn(glimpses, K) * K**-0.5)
        self.values = nn.Linear(memory_width, glimpses * K, bias=bias)
        self.queries = nn.ModuleList(nn.Linear(query_width, K, bias=bias) for _ in range(glimpses))
        self.outputs = nn.ModuleList(nn.Linear(K, query_width, bias=bias) for _ in range(glimpses))

    @property
    def context_width(self) -> int:
        return self.query_width

    def forward(
        self,
        query: Float[Tensor, "B T Q"],
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Q"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        asking = (
            functional.at_least_single(self.score_query(query).relu()[:, None]) * self.score[:, None]
        )  # (B, G, T, K)
        scores = functional.dot_scores(asking, self.score_memory(memory).relu()[:, None])  # (B, G, T, N)
        pairs = None if mask is None else mask.expand(-1, query.shape[1], -1).flatten(1)[:, None]  # (B, 1, T·N)
        weights = functional.masked_softmax(scores.flatten(2), pairs).unflatten(2, scores.shape[2:])  # (B, G, T, N)
        weights = self.offer("attention", weights.to(memory.dtype))
        values = self.values(memory).relu().unflatten(2, (self.glimpses, -1)).transpose(1, 2)  # (B, G, N, K)
        # The attention looks at the query alone, so all glimpses read at once; only their residuals go one by one.
        reads = weights @ values  # (B, G, T, K)
        refined = query
        for project, output, read in zip(self.queries, self.outputs, reads.unbind(1), strict=True):
            joint = (project(refined).relu() * read).sum(1, keepdim=True)  # (B, 1, K)
            refined = refined + output(joint)  # (B, T, Q)
        if undefined is not None:  # the weights are of all pairs together
            undefined = undefined.any(1, keepdim=True)
        refined = functional.mark_undefined(refined, undefined)
        return refined if mask is None else refined.masked_fill(~mask.any(-1, keepdim=True), 0.0)
