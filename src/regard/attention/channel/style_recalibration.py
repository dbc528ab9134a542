"""Style-based recalibration."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact
from regard.functional.precision import at_least_single


class StyleRecalibration(Refine):
    """Style-based recalibration: one gate a channel, from the mean and the deviation of that channel alone.

        μ_c, σ_c = mean and standard deviation over positions of x_c      style pooling        (B, C) each
        g_c      = sigmoid(norm(w_c1 μ_c + w_c2 σ_c))                     style integration    (B, C)
        y        = g · x

    `σ² = mean of (x - μ)² + ε` with ε = 1e-5, so that a map of one cell has a gradient. `w` starts at zero and every
    gate therefore at one half, as in the authors' code. In training on one image, `norm` uses its running statistics.

    Paper: Lee, Kim, Nam, "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", ICCV 2019,
    section 3. The authors' code divides the variance by `N - 1`, which no single position allows.

    Args:
        channels: channels `C` of the map.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "style_recalibration"
    aliases: ClassVar[tuple[str, ...]] = ("srm", "srm_layer")
    paper: ClassVar[Paper] = Paper(
        "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", "Lee et al.", "ICCV", 2019
    )
    formula: ClassVar[str] = "y_c = x_c · sigmoid(norm(w_c · [mean(x_c); deviation(x_c)]))"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "4*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.epsilon = 1e-5
        self.weight = nn.Parameter(torch.zeros(2, channels))
        self.norm = BatchNorm(channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        positions = tuple(range(2, x.ndim))
        mean = x.mean(dim=positions)  # (B, C)
        variance = at_least_single(x - functional.spread(mean, x)).square().mean(dim=positions)  # (B, C)
        deviation = (variance + self.epsilon).sqrt()  # (B, C)
        gate = (
            self.norm(self.weight[0] * at_least_single(mean) + self.weight[1] * deviation).sigmoid().to(x.dtype)
        )  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
