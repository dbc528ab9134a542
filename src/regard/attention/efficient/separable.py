"""Separable self-attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class SeparableSelfAttention(Refine):
    """Separable self-attention: one score a token gathers one context, which multiplies every token's value.

        a_n = softmax over n of w · x_n + b
        c   = Σ_n a_n (Wk x_n + bk)
        y_t = Wo (c · relu(Wv x_t + bv)) + bo

    The sum goes before `Wk`, which is the same since the weights sum to one. Where a mask leaves nothing, `c` is `bk`.

    Paper: Mehta, Rastegari, "Separable Self-attention for Mobile Vision Transformers", TMLR 2023 (MobileViTv2), section
    3.2. The biases are those of the authors' code.

    Args:
        channels: channels `C` of the tokens.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        context: `(batch, key)`, sums to one over the keys.

    Raises:
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "separable"
    aliases: ClassVar[tuple[str, ...]] = ("mobilevitv2", "separable_attention", "mobilevitv2_attention")
    paper: ClassVar[Paper] = Paper(
        "Separable Self-attention for Mobile Vision Transformers", "Mehta and Rastegari", "TMLR", 2023
    )
    formula: ClassVar[str] = "y = Wo (relu(Wv x + bv) · Σ_n softmax_n(w · x_n + b) (Wk x_n + bk)) + bo"
    layout = "tokens"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("context", ("batch", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "3*C*C + 4*C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of multi-head self-attention on devices with little compute"
    place = "branch"

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.score = nn.Linear(channels, 1, bias=bias)
        self.key = nn.Linear(channels, channels, bias=bias)
        self.value = nn.Linear(channels, channels, bias=bias)
        self.output = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        self.check_mask(mask, x)
        if mask is not None:
            x = functional.mask_nonfinite(x, mask[:, None])
        weights = functional.masked_softmax(self.score(x)[:, :, 0], mask)  # (B, N)
        weights = self.offer("context", weights)
        context = self.key(functional.read(weights[:, None], x))  # (B, 1, C)
        return self.output(self.value(x).relu() * context)  # (B, N, C)

    def check_mask(self, mask: Tensor | None, x: Tensor) -> None:
        """Refuse a mask that is not boolean or not one number a token."""
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise self.refuse(
                f"a mask of type {mask.dtype} and shape {tuple(mask.shape)}",
                f"torch.bool and {tuple(x.shape[:2])}",
                "give one boolean for each token, True = takes part",
            )
