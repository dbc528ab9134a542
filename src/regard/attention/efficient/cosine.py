"""Cosine attention."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact, Request

Variant = Literal["query_key_norm", "swin_v2"]


class CosineAttention(MultiHeadSelfAttention):
    """Cosine attention: queries and keys of length one, so that no score leaves -g..g, with a learned `g`.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_tn    = softmax over n of g (q_t / |q_t|) · (k_n / |k_n|)                in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h] + bo

    `g` starts at `log2(n² - n)` for sequences of `n` tokens. Without a residual and without normalisation of `x`.

    Paper: Henry, Dachapally, Pawar, Chen, "Query-Key Normalization for Transformers", Findings of EMNLP 2020, equations
    1 to 6.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8, the paper's choice. It divides `channels`.
        tokens: the sequence length `n` for which `g` starts, the paper's 97.5th percentile of lengths; default 512.
            Sequences may have any length.
        variant: `"query_key_norm"`, the default, as above; `"swin_v2"` has one `g = exp(s)` a head, at most 100, which
            starts at 10.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, `tokens` is less than two, or there is no such `variant`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "cosine"
    aliases: ClassVar[tuple[str, ...]] = ("qk_norm", "query_key_norm")
    paper: ClassVar[Paper] = Paper(
        "Query-Key Normalization for Transformers", "Henry et al.", "Findings of EMNLP", 2020
    )
    formula: ClassVar[str] = "y = Wo concat_h(softmax(g (q_h / |q_h|) (k_h / |k_h|)ᵀ) v_h) + bo"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "4*C*C + 4*C + 1"
    deviations: ClassVar[tuple[str, ...]] = (
        "variant='swin_v2': a learned factor a head, exp(s) <= 100, as in Swin Transformer V2 (Liu et al., CVPR 2022)",
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of multi-head self-attention where scores grow too large for stable training"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        tokens: int = 512,
        variant: Variant = "query_key_norm",
        bias: bool = True,
    ) -> None:
        super().__init__(channels, heads, bias)
        self.variant = variant
        start = math.log2(tokens**2 - tokens) if variant == "query_key_norm" else math.log(10)
        self.scale = nn.Parameter(torch.full((1 if variant == "query_key_norm" else heads, 1, 1), start))

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        # In single precision: the least norm that is divided by, 1e-12, is zero in a half.
        query = F.normalize(functional.at_least_single(query), dim=3).to(query.dtype) * self.factor()
        key = F.normalize(functional.at_least_single(key), dim=3).to(key.dtype)

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            return functional.scaled_dot_product_weights(
                request.pick(query, heads=1, queries=2),
                request.pick(key, heads=1),
                mask if mask is None or mask.shape[2] == 1 else request.pick(mask, queries=2),
                scale=1.0,
            )

        replaced = self.offer("attention", attention)
        if replaced is None:
            context = functional.scaled_dot_product_attention(query, key, value, mask, scale=1.0)  # (B, h, N, d)
        else:
            context = replaced @ value
        return functional.mark_undefined(self.output(context.transpose(1, 2).flatten(2)), undefined)  # (B, N, C)

    def factor(self) -> Float[Tensor, "#h 1 1"]:
        """`g`, the largest score that there can be."""
        return self.scale if self.variant == "query_key_norm" else self.scale.clamp_max(math.log(100)).exp()
