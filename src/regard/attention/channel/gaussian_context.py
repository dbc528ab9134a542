"""The Gaussian context transformer."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact
from regard.functional.precision import at_least_single


class GaussianContextTransformer(Refine):
    """Gaussian context transformer: a channel is damped the more, the further its mean is from that of all channels.

        s = mean over positions of x                                        (B, C)
        z = (s - mean of s) / √(variance of s + ε)     over the channels    (B, C)
        g = exp(-z² / (2 c²))                                               (B, C)
        y = g · x

    Paper: Ruan, Wang, Zheng, Zheng, Zheng, "Gaussian Context Transformer", CVPR 2021, with c = 2 (GCT-B0) and ε = 1e-5.

    Args:
        channels: channels `C` of the map.
        deviation: the standard deviation `c` of the Gaussian, above zero; default 2, the paper's choice.
        learned: whether `c` is a parameter that starts at `deviation`; default False.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `deviation` is not above zero.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "gaussian_context"
    paper: ClassVar[Paper] = Paper("Gaussian Context Transformer", "Ruan et al.", "CVPR", 2021)
    formula: ClassVar[str] = "y = x · exp(-standardized(mean(x))² / (2 c²))"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "0"
    deviations: ClassVar[tuple[str, ...]] = (
        "learned=True: the standard deviation is learned, as in the paper's GCT-B1, here as a plain number",
    )
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int, deviation: float = 2.0, learned: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.deviation = nn.Parameter(torch.tensor([float(deviation)])) if learned else deviation

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mean = at_least_single(x.mean(dim=tuple(range(2, x.ndim))))  # (B, C)
        standard = F.layer_norm(mean, (self.channels,))  # (B, C)
        gate = ((standard / self.deviation).square() * -0.5).exp().to(x.dtype)  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
