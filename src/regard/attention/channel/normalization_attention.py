"""Normalization-based attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class NormalizationAttention(Refine):
    """Normalization-based attention: the scales of a batch normalisation say how much a channel counts.

        z   = batch normalisation of x, with scales γ and shifts    (B, C, *spatial)
        w_c = |γ_c| / Σ_j |γ_j|                                     (C,)
        y   = x · sigmoid(w · z)                                    (B, C, *spatial)

    The channel attention of the paper; its pixel attention has one scale for each position of a map of fixed size. In
    training on one image whose map is one cell, the normalisation uses its running statistics.

    Paper: Liu, Shao, Teng, Hoffmann, "NAM: Normalization-based Attention Module", NeurIPS workshop ImageNet PPF 2021,
    equations 1 and 2.

    Args:
        channels: channels `C` of the map.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        gate: `(batch, channel, *spatial)`, each in 0..1.

    Raises:
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "normalization_attention"
    aliases: ClassVar[tuple[str, ...]] = ("nam",)
    paper: ClassVar[Paper] = Paper("NAM: Normalization-based Attention Module", "Liu et al.", "NeurIPS workshop", 2021)
    formula: ClassVar[str] = "y = x · sigmoid(|γ| / Σ|γ| · norm(x))"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "at the end of every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = BatchNorm(channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        size = self.norm.weight.abs()  # (C,)
        weight = (size / size.sum()).reshape(-1, *[1] * (x.ndim - 2))  # (C, *ones)
        gate = (self.norm(x) * weight).sigmoid()  # (B, C, *spatial)
        gate = self.offer("gate", gate)
        return x * gate  # (B, C, *spatial)
