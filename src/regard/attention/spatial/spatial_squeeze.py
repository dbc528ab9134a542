"""Spatial squeeze-and-excitation."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact


class SpatialSqueezeExcitation(Refine):
    """Spatial squeeze-and-excitation: a gate a position, of that position's channels alone.

        a_p = sigmoid(w · x_p + b)     at every position p, (B, *spatial)
        y   = a · x

    Paper: Roy, Navab, Wachinger, "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
    MICCAI 2018, section 2, where it is called sSE; the bias is that of the authors' code.

    Args:
        channels: channels `C` of the map.
        bias: whether the score has a bias `b`; default True, as in the authors' code.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        spatial: the gate `(batch, *spatial)`, each in 0..1.

    Raises:
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "spatial_squeeze"
    aliases: ClassVar[tuple[str, ...]] = ("sse", "spatial_se")
    paper: ClassVar[Paper] = Paper(
        "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks",
        "Roy et al.",
        "MICCAI",
        2018,
    )
    formula: ClassVar[str] = "y = x · sigmoid(w · x_p + b)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=False: a score without bias, as the paper's equation is written",)
    placement: ClassVar[str] = "after every stage of the encoder and every decoder block of a segmentation network"
    place = "stage"

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.score = nn.Linear(channels, 1, bias=bias)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        bias = x.new_zeros(1) if self.score.bias is None else self.score.bias
        gate = functional.position_scores(x, self.score.weight, bias).sigmoid()  # (B, *spatial)
        gate = self.offer("spatial", gate)
        return x * gate[:, None]  # (B, C, *spatial)
