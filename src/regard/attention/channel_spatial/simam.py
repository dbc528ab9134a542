"""SimAM."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact


class SimAM(Refine):
    """SimAM: a gate for every single value, high where it stands out in its channel; without parameters.

        μ, σ² = mean and variance of a channel over its positions
        1/e   = (x - μ)² / (4 (σ² + λ)) + 1/2
        y     = sigmoid(1/e) · x

    No gate is below `sigmoid(1/2)`, about 0.62.

    Paper: Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
    ICML 2021, its listing, whose variance is divided by the number of positions less one. The variance of a map of one
    position, which the listing leaves undefined, is zero here.

    Args:
        channels: channels `C` of the map.
        regularization: the paper's λ; default 1e-4, the paper's choice.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        neuron: the gate `(batch, channel, *spatial)`, each in 0.62..1.

    Raises:
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "simam"
    aliases: ClassVar[tuple[str, ...]] = ("simam_module",)
    paper: ClassVar[Paper] = Paper(
        "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
        "Yang et al.",
        "ICML",
        2021,
    )
    formula: ClassVar[str] = "y = x · sigmoid((x - μ)² / (4 (σ² + λ)) + 1/2)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("neuron", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "0"
    placement: ClassVar[str] = "in every residual block, after the second convolution"
    place = "branch"

    def __init__(self, channels: int, regularization: float = 1e-4) -> None:
        super().__init__()
        self.channels = channels
        self.regularization = regularization

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        gate = functional.energy_gate(x, self.regularization)  # (B, C, *spatial)
        gate = self.offer("neuron", gate)
        return x * gate  # (B, C, *spatial)
