"""Differential attention."""

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact, Request


class DifferentialAttention(MultiHeadSelfAttention):
    """Differential attention: what two softmaxes have in common is noise, and is taken away.

        q, q', k, k', v = projections of x, cut into h heads of d, d, d, d and 2d = C / h channels
        λ     = exp(λ_q · λ_k) - exp(λ_q' · λ_k') + λ_0,   λ_0 = 0.8 - 0.6 exp(-0.3 (layer - 1))
        a_tn  = softmax over n of q_t · k_n / √d  -  λ softmax over n of q'_t · k'_n / √d
        y_t   = Wo [(1 - λ_0) norm(Σ_n a_tn v_n) in head 1; ...; in head h]

    `norm` divides by the root of the mean square of every head, and has one gain a channel that the heads share, as do
    the four vectors `λ`. Without a residual; a language model gives it a causal mask.

    Paper: Ye, Dong, Xia, Sun, Zhu, Huang, Wei, "Differential Transformer", ICLR 2025; how the vectors `λ` start is of
    the authors' code.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 4, half of a usual transformer's, as the paper has it. `2 h` divides
            `channels`.
        layer: which layer of the network it is, counted from 1; default 1, for which λ_0 = 0.2.
        bias: whether the four projections have biases; default False, as in the paper's model.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, the difference: it sums to `1 - λ` over the keys and may be negative.

    Raises:
        ValueError: `2 heads` does not divide `channels`, or `layer` is less than one.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "differential"
    aliases: ClassVar[tuple[str, ...]] = ("diff_transformer", "diff_attention", "diff_attn")
    paper: ClassVar[Paper] = Paper("Differential Transformer", "Ye et al.", "ICLR", 2025)
    formula: ClassVar[str] = "y = Wo concat_h((1 - λ_0) norm((softmax(q kᵀ / √d) - λ softmax(q' k'ᵀ / √d)) v))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key")),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "4*C*C + 6*d"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "head_width"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=True: projections with biases, as in vision transformers",)
    placement: ClassVar[str] = "in every block of a transformer, after a normalisation and inside a residual"
    place = "branch"

    def __init__(self, channels: int, heads: int = 4, layer: int = 1, bias: bool = False) -> None:
        super().__init__(channels, heads, bias)
        if channels // heads % 2:
            raise ValueError(
                f"heads={heads} of channels={channels} have {channels // heads} channels each, expected an even number "
                "for two queries: choose heads of which twice as many divide the channels."
            )
        self.head_width = channels // heads // 2
        self.base = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
        self.balance = nn.Parameter(torch.randn(2, 2, self.head_width) * 0.1)  # λ_q, λ_k; λ_q', λ_k'
        self.norm = nn.RMSNorm(2 * self.head_width, eps=1e-5)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        query, key, value = self.project(x).chunk(3, dim=2)
        query, key = (part.unflatten(2, (2 * self.heads, -1)).transpose(1, 2) for part in (query, key))  # (B, 2h, N, d)
        value = value.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, h, N, 2d)
        factor = self.factor()

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            rows = request.pick(query.unflatten(1, (-1, 2)), heads=1, queries=3).flatten(1, 2)  # (B, 2H, T, d)
            keys = request.pick(key.unflatten(1, (-1, 2)), heads=1).flatten(1, 2)
            reach = mask if mask is None or mask.shape[2] == 1 else request.pick(mask, queries=2)
            weights = functional.scaled_dot_product_weights(rows, keys, reach)
            return weights[:, ::2] - factor * weights[:, 1::2]

        replaced = self.offer("attention", attention)
        if replaced is None:
            both = functional.scaled_dot_product_attention(query, key, value.repeat_interleave(2, dim=1), mask)
            context = both[:, ::2] - factor * both[:, 1::2]  # (B, h, N, 2d)
        else:
            context = replaced @ value
        context = self.norm(context) * (1 - self.base)
        return functional.mark_undefined(self.output(context.transpose(1, 2).flatten(2)), undefined)  # (B, N, C)

    def factor(self) -> Float[Tensor, ""]:
        """λ, how much of the second softmax is taken away."""
        one, other = self.balance.prod(1).sum(1).exp()
        return one - other + self.base
