"""Linformer attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.efficient.linear import take_part
from regard.attention.offering import MapFact, Request

Sharing = Literal["none", "heads", "key_value"]


class LinformerAttention(MultiHeadSelfAttention):
    """Linformer attention: keys and values are projected along the sequence, from `N` tokens to `k` slots.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        k', v'  = E k, F v                                                  (k, d) in every head
        a_ts    = softmax over the slots s of q_t · k'_s / √d
        y_t     = Wo [Σ_s a_ts v'_s in head 1; ...; in head h] + bo

    A token that takes no part is a zero to both projections. Without a residual and without normalisation.

    Paper: Wang, Li, Khabsa, Fang, Ma, "Linformer: Self-Attention with Linear Complexity", arXiv 2020, with "parameter
    sharing between projections" in section 4; `E` and `F` start normal with variance 1 / k, as in theorem 2.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8. It divides `channels`.
        tokens: how many tokens `n` the projections are made for; default 512, the paper's choice. A shorter sequence
            takes their first columns, as if padded with zeros. For a longer one they are interpolated along the
            sequence and scaled by `n / N`, which is this library's choice: the paper has one length.
        slots: to how many slots `k`; default 128, the paper's choice.
        sharing: who shares projections. `"heads"`, the default: the heads, one `E` and one `F`; `"key_value"`: keys and
            values too; `"none"`: nobody, as its equation is written. All three are the paper's.
        bias: whether the four projections of channels have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, slot)`, sums to one over the slots.

    Raises:
        ValueError: `heads` does not divide `channels`, `tokens` or `slots` is less than one, or no such `sharing`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "linformer"
    aliases: ClassVar[tuple[str, ...]] = ("linformer_self_attention",)
    paper: ClassVar[Paper] = Paper("Linformer: Self-Attention with Linear Complexity", "Wang et al.", "arXiv", 2020)
    formula: ClassVar[str] = "y = Wo concat_h(softmax(q_h (E k_h)ᵀ / √d) F v_h) + bo"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "slot"), ("slot",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + 2*n*k"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "n": "tokens", "k": "slots"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections of channels without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of multi-head self-attention where sequences are long and of similar lengths"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        tokens: int = 512,
        slots: int = 128,
        sharing: Sharing = "heads",
        bias: bool = True,
    ) -> None:
        super().__init__(channels, heads, bias)
        self.tokens = tokens
        self.slots = slots
        shape = (heads if sharing == "none" else 1, slots, tokens)
        self.key_slots = nn.Parameter(torch.randn(shape) * slots**-0.5)
        self.value_slots = self.key_slots if sharing == "key_value" else nn.Parameter(torch.randn(shape) * slots**-0.5)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, taking_part = take_part(self, x, mask)  # (B, 1, N, 1)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        some = None  # (B, 1, 1, 1), whether anything takes part
        if taking_part is not None:
            key, value = (part.masked_fill(~taking_part, 0.0) for part in (key, value))
            some = taking_part.any(2, keepdim=True)
        key, value = fitted(self.key_slots, x.shape[1]) @ key, fitted(self.value_slots, x.shape[1]) @ value

        def attention(request: Request) -> Float[Tensor, "B H T k"]:
            rows = request.pick(query, heads=1, queries=2)
            weights = functional.scaled_dot_product_weights(rows, request.pick(key, heads=1))
            return weights if some is None else weights.masked_fill(~some, 0.0)

        replaced = self.offer("attention", attention)
        # (B, h, N, d); zeros of zeros
        read = functional.scaled_dot_product_attention(query, key, value) if replaced is None else replaced @ value
        return self.output(read.transpose(1, 2).flatten(2))  # (B, N, C)


def fitted(projection: Float[Tensor, "H k n"], count: int) -> Float[Tensor, "H k N"]:
    """A projection for this many tokens: its first columns, or interpolated so that its rows keep their sums."""
    tokens = projection.shape[2]
    if count <= tokens:
        return projection[:, :, :count]
    return F.interpolate(projection, size=count, mode="linear", align_corners=False) * (tokens / count)
