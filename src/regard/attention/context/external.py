"""External attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class ExternalAttention(Refine):
    """External attention: every token reads a small memory that all samples share, and that is learned.

        s_nu = x_n · k_u                                      with the units u = 1..S of the memory
        a_nu = softmax over all tokens n of s_nu,             then divided by its sum over the units
        y_n  = Σ_u a_nu v_u

    The double normalisation is computed from logarithms, so that no sum over the units can be zero. A token that the
    mask leaves out counts in no sum, and reads zeros. Without a residual.

    Paper: Guo, Liu, Mu, Hu, "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
    TPAMI 2022, section 3.

    Args:
        channels: channels `C` of the tokens.
        units: how many units `S` the memory has; default 64, the paper's choice.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, query, unit)`, sums to one over the units.

    Raises:
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "external"
    aliases: ClassVar[tuple[str, ...]] = ("eanet", "external_attn")
    paper: ClassVar[Paper] = Paper(
        "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
        "Guo et al.",
        "TPAMI",
        2022,
    )
    formula: ClassVar[str] = "y_n = Σ_u a_nu v_u with a = softmax_n(x_n · k_u) / Σ_u softmax_n(x_n · k_u)"
    layout = "tokens"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "unit"), ("unit",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*S"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "S": "units"}
    placement: ClassVar[str] = "in place of self-attention, between two projections and inside a residual"
    place = "branch"

    def __init__(self, channels: int, units: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.units = units
        self.key = nn.Linear(channels, units, bias=False)
        self.value = nn.Linear(units, channels, bias=False)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        part = None if mask is None else self.check_mask(mask, x)[:, None]  # (B, 1, N)
        x = functional.mask_nonfinite(x, part)
        part = None if part is None else part.transpose(1, 2)  # (B, N, 1)
        logarithms = functional.masked_log_softmax(self.key(x), part, dim=1)  # (B, N, S)
        weights = functional.masked_softmax(logarithms, part)  # (B, N, S)
        weights = self.offer("attention", weights)
        return self.value(weights)  # (B, N, C)

    def check_mask(self, mask: Tensor, x: Tensor) -> Bool[Tensor, "B N"]:
        """Refuse a mask that is not one boolean a token."""
        if mask.dtype != torch.bool:
            raise self.refuse(
                f"a mask of type {mask.dtype}", "a boolean mask, True = takes part", "convert it with .bool()"
            )
        if mask.shape != x.shape[:2]:
            raise self.refuse(
                f"a mask of shape {tuple(mask.shape)}", f"{tuple(x.shape[:2])}", "give one boolean for each token"
            )
        return mask
