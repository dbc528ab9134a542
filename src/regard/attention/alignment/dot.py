"""Dot-product and bilinear attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard import functional
from regard.attention.alignment.score import DotKind, DotScore
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact, Request


class DotRead(Read):
    """Luong's global attention: a product scores every pair of query and memory token.

        e_tn = (W q_t)ᵀ m_n
        a_tn = softmax over n of e_tn
        c_t  = Σ_n a_tn m_n

    Paper: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
    equations 7 and 8. Of the paper's scores `general` is the default here, since it takes any two widths; the paper
    found `dot` to work well with global attention and `general` better with local attention. Its `concat` is
    `AdditiveRead`.

    Args:
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a memory token, and of the context.
        score: `"general"`, the default; `"dot"`, `e_tn = q_tᵀ m_n`, which needs equal widths; `"scaled_dot"`,
            `e_tn = q_tᵀ m_n / √D` (Vaswani et al. 2017), which needs them too.

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, Dm)`.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ValueError: the score is unknown, or needs equal widths.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "dot"
    aliases: ClassVar[tuple[str, ...]] = ("luong", "luong_attention", "dot_product_attention")
    paper: ClassVar[Paper] = Paper(
        "Effective Approaches to Attention-based Neural Machine Translation", "Luong et al.", "EMNLP", 2015
    )
    formula: ClassVar[str] = "c_t = Σ_n softmax_n((W q_t)ᵀ m_n) m_n"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "Q*M"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "M": "memory_width"}
    deviations: ClassVar[tuple[str, ...]] = ('score="scaled_dot": the product is divided by √D, Vaswani et al. 2017',)
    placement: ClassVar[str] = "between a decoder's state or a question and the encoded input"

    def __init__(self, query_width: int, memory_width: int, score: DotKind = "general") -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.score = DotScore(query_width, memory_width, score)

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
        projected = self.score.query(query)[:, None]  # (B, 1, T, Dm)
        tokens = memory[:, None]  # (B, 1, N, Dm)
        heads = None if mask is None else mask[:, None]  # (B, 1, #T, N)
        scale = self.score.scale

        def weights(request: Request) -> Tensor:
            rows = request.pick(projected, queries=2)
            some = heads if heads is None or heads.shape[2] == 1 else request.pick(heads, queries=2)
            return functional.scaled_dot_product_weights(rows, tokens, some, scale)[:, 0]  # (B, T, N)

        replaced = self.offer("attention", weights)
        if replaced is None:
            context = functional.scaled_dot_product_attention(projected, tokens, tokens, heads, scale=scale)[:, 0]
        else:
            context = functional.read(replaced, memory)
        return functional.mark_undefined(context, undefined)  # (B, T, Dm)
