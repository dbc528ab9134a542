"""Spatial group-wise enhancement."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact
from regard.functional.precision import at_least_single


class SpatialGroupEnhance(Refine):
    """Spatial group-wise enhancement: a gate a position in every group of channels, by likeness to the group's mean.

        g   = mean over positions of x                           in every group
        c_p = g · x_p                                            at every position p
        a_p = sigmoid(γ (c_p - μ) / (σ + ε) + β)                 with mean μ and deviation σ of c over the positions
        y_p = a_p x_p

    `γ` and `β` are one number each a group, which start at 0 and 1: at first, every gate is `sigmoid(1)`, about 0.73.

    Paper: Li, Hu, Yang, "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
    arXiv 2019, section 3.

    Args:
        channels: channels `C` of the map.
        groups: the paper's G; default 64, the paper's choice. The largest divisor of `C` not above it is taken.
        unbiased: whether `σ²` is over one position less; default False. Of one position it is zero either way.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        spatial: the gate `(batch, group, *spatial)`, each in 0..1.

    Raises:
        ValueError: `groups` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "spatial_group"
    aliases: ClassVar[tuple[str, ...]] = ("sge",)
    paper: ClassVar[Paper] = Paper(
        "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional Networks",
        "Li et al.",
        "arXiv",
        2019,
    )
    formula: ClassVar[str] = "y = x · sigmoid(γ (c - mean(c)) / (deviation(c) + ε) + β) with c_p = mean(x) · x_p"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", "group", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*G"
    letters: ClassVar[dict[str, str]] = {"G": "groups"}
    deviations: ClassVar[tuple[str, ...]] = (
        "unbiased=True: the variance is divided by the number of positions less one, as in the authors' code",
    )
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    eps: ClassVar[float] = 1e-5

    def __init__(self, channels: int, groups: int = 64, unbiased: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.groups = functional.largest_divisor(channels, groups)
        self.unbiased = unbiased
        self.weight = nn.Parameter(torch.zeros(self.groups, 1))
        self.bias = nn.Parameter(torch.ones(self.groups, 1))

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        grouped = x.flatten(2).unflatten(1, (self.groups, -1))  # (B, G, C/G, N)
        likeness = at_least_single((grouped.mean(3)[:, :, None] @ grouped)[:, :, 0])  # (B, G, N)
        centred = likeness - likeness.mean(2, keepdim=True)  # (B, G, N)
        freedom = max(centred.shape[2] - 1, 1) if self.unbiased else centred.shape[2]
        # Of a norm, the gradient at zero is zero: a map of one position, or of equal ones, has no deviation.
        deviation = centred.norm(dim=2, keepdim=True) / freedom**0.5  # (B, G, 1)
        gate = (self.weight * centred / (deviation + self.eps) + self.bias).sigmoid()  # (B, G, N)
        gate = gate.to(x.dtype).unflatten(2, x.shape[2:])  # (B, G, *spatial)
        gate = self.offer("spatial", gate)
        return (x.unflatten(1, (self.groups, -1)) * gate[:, :, None]).flatten(1, 2)  # (B, C, *spatial)
