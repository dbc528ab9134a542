"""Squeeze-and-excitation."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class SqueezeExcitation(Refine):
    """Squeeze-and-excitation: one gate a channel, from the means of all channels.

        s = mean over positions of x          squeeze        (B, C)
        g = sigmoid(W2 relu(W1 s + b1) + b2)  excitation     (B, C)
        y = g · x

    Paper: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-Excitation Networks", CVPR 2018, equations 2 to 4.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`, the paper's r; default 16, the paper's choice. The bottleneck has at least one channel.
        bias: whether the two linear layers have biases; default True, as in the paper's released models.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "se"
    aliases: ClassVar[tuple[str, ...]] = (
        "senet",
        "se_layer",
        "se_module",
        "se_block",
        "se_attention",
        "squeeze_excite",
        "squeeze_and_excitation",
        "channel_se",
        "channel_se_layer",
        "cse",
    )
    paper: ClassVar[Paper] = Paper("Squeeze-and-Excitation Networks", "Hu et al.", "CVPR", 2018)
    formula: ClassVar[str] = "y = x · sigmoid(W2 relu(W1 mean(x) + b1) + b2)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*d + d + C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=False: linear layers without biases, as in SENet-PyTorch",)
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int, reduction: int = 16, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.squeeze = nn.Linear(channels, self.hidden_channels, bias=bias)
        self.excite = nn.Linear(self.hidden_channels, channels, bias=bias)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mean = x.mean(dim=tuple(range(2, x.ndim)))  # (B, C)
        gate = self.excite(self.squeeze(mean).relu()).sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))  # (B, C, *spatial)
