"""Effective squeeze-and-excitation."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact

Gate = Literal["sigmoid", "hard_sigmoid"]


class EffectiveSqueezeExcitation(Refine):
    """Effective squeeze-and-excitation: one gate a channel, through one layer that loses no channel in a bottleneck.

        s = mean over positions of x     (B, C)
        g = sigmoid(W s + b)             (B, C)
        y = g · x

    Paper: Lee, Park, "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020, section 3.3; the bias is
    that of the authors' code.

    Args:
        channels: channels `C` of the map.
        gate: `"sigmoid"`, the default and the paper's, or `"hard_sigmoid"`, `clip(z + 3, 0, 6) / 6`, as in the authors'
            code.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: there is no such `gate`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "ese"
    aliases: ClassVar[tuple[str, ...]] = ("effective_se", "effective_se_module")
    paper: ClassVar[Paper] = Paper(
        "CenterMask: Real-Time Anchor-Free Instance Segmentation", "Lee and Park", "CVPR", 2020
    )
    formula: ClassVar[str] = "y = x · sigmoid(W mean(x) + b)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "C*C + C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "gate='hard_sigmoid': clip(z + 3, 0, 6) / 6 in place of the sigmoid, as in the authors' code and in timm",
    )
    placement: ClassVar[str] = "after the convolution that joins the outputs of a block of VoVNet, inside its residual"
    place = "branch"

    def __init__(self, channels: int, gate: Gate = "sigmoid") -> None:
        super().__init__()
        self.channels = channels
        self.gate = gate
        self.excite = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        score = self.excite(x.mean(dim=tuple(range(2, x.ndim))))  # (B, C)
        gate = score.sigmoid() if self.gate == "sigmoid" else F.hardsigmoid(score)  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
