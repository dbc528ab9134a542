"""Directional crossmodal attention."""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.heads import MultiHead
from regard.attention.multimodal.feed_forward import feed_forward
from regard.attention.offering import MapFact

Variant = Literal["paper", "code"]


class CrossmodalAttention(Read):
    """Directional crossmodal attention: one modality is fed by another, token by token, without alignment.

        z = heads(norm(q), norm(m)) + norm(q)
        c = W2 relu(W1 norm(z) + b1) + b2 + norm(z)

    where `heads(x, y)` is multi-head attention from `x` to `y`, and every norm is a layer normalisation of its own.
    It is one layer of a crossmodal transformer; stacked, each layer reads the same memory.

    Paper: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
    Sequences", ACL 2019, equations 3 and 4. As they are written, the residuals add the normalised tokens.

    Args:
        query_width: width `D` of a query, a token of the modality that is fed, and of the context.
        memory_width: width `M` of a token of the modality that feeds; in the paper it is `D`.
        heads: number of heads; must divide `query_width`; default 8. The paper has 8 or 10 by data set.
        expansion: how many times as wide as a query the hidden layer is; default 4.
        variant: `"paper"`, the default, as above; `"code"`, the residuals add `q` and `z` themselves.

    Shapes:
        query `(B, T, D)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, D)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: the heads do not divide the width, or there is no such variant.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "crossmodal"
    aliases: ClassVar[tuple[str, ...]] = ("mult",)
    paper: ClassVar[Paper] = Paper(
        "Multimodal Transformer for Unaligned Multimodal Language Sequences", "Tsai et al.", "ACL", 2019
    )
    formula: ClassVar[str] = "c = mlp(norm(z)) + norm(z) with z = heads(norm(q), norm(m)) + norm(q)"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*(D*D + D) + 2*(M*D + D) + 2*D*E + E + D + 4*D + 2*M"
    letters: ClassVar[dict[str, str]] = {"D": "query_width", "M": "memory_width", "E": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        'variant="code": residuals around the normalisations, as in the authors\' code',
    )
    placement: ClassVar[str] = "stacked, once for each ordered pair of modalities"

    def __init__(
        self, query_width: int, memory_width: int, heads: int = 8, expansion: int = 4, variant: Variant = "paper"
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.heads = heads
        self.hidden_width = expansion * query_width
        self.variant = variant
        self.query_norm = nn.LayerNorm(query_width)
        self.memory_norm = nn.LayerNorm(memory_width)
        self.attend = MultiHead(query_width, memory_width, query_width, heads, bias=True)
        self.norm = nn.LayerNorm(query_width)
        self.feed_forward = feed_forward(query_width, self.hidden_width)

    @property
    def context_width(self) -> int:
        return self.query_width

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        normal = self.query_norm(query)  # (B, T, D)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        memory = self.memory_norm(memory)  # (B, N, M)
        read = self.attend(normal, memory, mask, lambda weights: self.offer("attention", weights))  # (B, T, D)
        context = read + (query if self.variant == "code" else normal)
        normal = self.norm(context)
        context = self.feed_forward(normal) + (context if self.variant == "code" else normal)  # (B, T, D)
        context = functional.mark_undefined(context, undefined)
        return context if mask is None else context.masked_fill(~mask.any(-1, keepdim=True), 0.0)
