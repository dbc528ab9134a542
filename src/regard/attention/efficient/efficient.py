"""Efficient attention."""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.efficient.linear import take_part
from regard.attention.offering import MapFact, Request

Normalization = Literal["softmax", "scaling"]


class EfficientAttention(MultiHeadSelfAttention):
    """Efficient attention: every channel of the keys gathers one context from all tokens, and queries mix the contexts.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        G       = softmax over n of k_n, applied to the values: Σ_n ρ(k_n) v_nᵀ    (d, d) in every head
        y_t     = Wo [(softmax over d of q_t)ᵀ G in head 1; ...; in head h] + bo

    Without a residual and without normalisation, which are those of the block around it.

    Paper: Shen, Zhang, Zhao, Yi, Li, "Efficient Attention: Attention with Linear Complexities", WACV 2021. The biases
    are those of the authors' code.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8. It divides `channels`.
        normalization: `"softmax"`, the default, as above; `"scaling"`, queries and keys divided by `√N`. Both are the
            paper's.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys with the softmax; with scaling, to anything.

    Raises:
        ValueError: `heads` does not divide `channels`, or there is no such `normalization`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "efficient"
    aliases: ClassVar[tuple[str, ...]] = ("efficient_attn",)
    paper: ClassVar[Paper] = Paper(
        "Efficient Attention: Attention with Linear Complexities", "Shen et al.", "WACV", 2021
    )
    formula: ClassVar[str] = "y = Wo concat_h(softmax_d(q_h) (softmax_n(k_h)ᵀ v_h)) + bo"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of a non-local block or of multi-head self-attention on large maps"
    place = "branch"

    def __init__(
        self, channels: int, heads: int = 8, normalization: Normalization = "softmax", bias: bool = True
    ) -> None:
        super().__init__(channels, heads, bias)
        self.normalization = normalization
        if normalization == "scaling":
            self.maps = (MapFact("attention", ("batch", "heads", "query", "key")),)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, taking_part = take_part(self, x, mask)  # (B, 1, N, 1)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        if self.normalization == "softmax":
            query = query.softmax(3)
            key = functional.masked_softmax(key, taking_part, dim=2)
        elif taking_part is None:
            query, key = query * key.shape[2] ** -0.5, key * key.shape[2] ** -0.5
        else:
            count = taking_part.sum(2, keepdim=True).clamp_min(1).to(key.dtype)  # (B, 1, 1, 1)
            query, key = query * count.rsqrt(), (key * count.rsqrt()).masked_fill(~taking_part, 0.0)

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            return request.pick(query, heads=1, queries=2) @ request.pick(key, heads=1).transpose(2, 3)

        replaced = self.offer("attention", attention)
        context = query @ (key.transpose(2, 3) @ value) if replaced is None else replaced @ value  # (B, h, N, d)
        return self.output(context.transpose(1, 2).flatten(2))  # (B, N, C)
