"""The convolutional block attention module."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import convolution_over, reduced
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class CBAM(Refine):
    """Convolutional block attention module: a gate a channel, then a gate a position.

        g = sigmoid(mlp(mean over positions of x) + mlp(max over positions of x))         (B, C)
        z = g · x
        a = sigmoid(norm(conv_k([max over channels of z; mean over channels of z])))      (B, *spatial)
        y = a · z

    where `mlp(s) = W2 relu(W1 s + b1) + b2` is one network for both.

    Paper: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, equations 1 to 3; the order
    of the two statistics, the biases, and the batch normalisation with its momentum 0.01 are those of the authors'
    code. In training on one image whose map is one cell, that normalisation uses its running statistics.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`, the paper's r; default 16, the paper's choice. The bottleneck has at least one channel.
        kernel_size: size `k` of the spatial convolution, odd; default 7, the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.
        bias: whether the two linear layers have biases; default True, as in the authors' code.
        norm: whether batch normalisation follows the spatial convolution; default True, as in the authors' code.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.
        spatial: the gate `(batch, *spatial)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one; `kernel_size` is even or less than one, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "cbam"
    aliases: ClassVar[tuple[str, ...]] = ("cbam_module", "cbam_block")
    paper: ClassVar[Paper] = Paper("CBAM: Convolutional Block Attention Module", "Woo et al.", "ECCV", 2018)
    formula: ClassVar[str] = (
        "z = x · sigmoid(mlp(mean(x)) + mlp(max(x))); y = z · sigmoid(norm(conv_k([max_c(z); mean_c(z)])))"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("channel", ("batch", "channel")),
        MapFact("spatial", ("batch", SPATIAL)),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*C*d + d + C + 2*k*k + 2"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels", "k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: linear layers without biases, as in timm",
        "norm=False: no batch normalisation before the spatial gate, as the paper's equation is written",
    )
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        dims: int = 2,
        bias: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.kernel_size = kernel_size
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.squeeze = nn.Linear(channels, self.hidden_channels, bias=bias)
        self.excite = nn.Linear(self.hidden_channels, channels, bias=bias)
        self.spatial = convolution_over(dims)(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = BatchNorm(1, momentum=0.01) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        positions = tuple(range(2, x.ndim))
        channel = (self.score(x.mean(dim=positions)) + self.score(x.amax(dim=positions))).sigmoid()  # (B, C)
        channel = self.offer("channel", channel)
        x = x * functional.spread(channel, x)  # (B, C, *spatial)
        spatial = self.norm(self.spatial(functional.peak_and_mean(x, 1))).sigmoid()  # (B, 1, *spatial)
        return x * self.offer("spatial", spatial[:, 0])[:, None]  # (B, C, *spatial)

    def score(self, statistic: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """The network that the mean and the maximum share."""
        return self.excite(self.squeeze(statistic).relu())
