"""Residual attention."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.arguments import LINEAR, convolution_over, reduced
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact

Mask = Literal["mixed", "channel", "spatial"]
POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class ResidualAttention(Refine):
    """Residual attention: a mask from an hourglass over the map amplifies what it marks, and suppresses nothing.

        e_l = units(pool(e_l-1))                         down, for the levels l = 1..L, from e_0 = x
        u_L = resize(units(e_L))                         up again, to the size of e_l-1
        u_l = resize(units(units(e_l) + u_l+1))
        s   = W2 relu(norm(W1 relu(norm(u_1))))          on each position alone
        y   = (1 + sigmoid(s)) · x

    where `pool` is the maximum over 3 by 3 positions at every second one, `resize` a linear interpolation, and `units`
    are `r` residual units of their own, `v + W relu(norm(W' * relu(norm(W'' relu(norm(v))))))`, with a 3 by 3
    convolution `W'` of `d` channels. It is the soft mask branch of an attention module, whose trunk branch is what
    comes before it. Where a channel has one value only, training uses its running statistics.

    Paper: Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang, "Residual Attention Network for Image Classification", CVPR
    2017, equations 3 to 6 and figures 2 and 3. Whether its interpolation aligns corners it does not say; here not.

    Args:
        channels: channels `C` of the map.
        levels: how many times the map is halved; default 2, as in the paper's figure 2. The paper has 3, 2 and 1 in
            its three stages, so that the lowest map is 7 by 7.
        units: how many residual units `r` there are between two changes of size; default 1, the paper's choice.
        reduction: `C / d`; default 4. A unit's bottleneck has at least one channel.
        mask: `"mixed"`, the default, as above, the paper's best; `"channel"`, `s` is divided by its l2 norm over the
            channels of the position; `"spatial"`, the sigmoid is of `s` normalised over the positions of its channel.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        mask: `(batch, channel, *spatial)`, each in 0..1, in -1..1 of the mask `"channel"`.

    Raises:
        ValueError: `reduction` is less than one; `levels` or `units` is less than one, there is no such mask, or `dims`
            is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "residual_attention"
    aliases: ClassVar[tuple[str, ...]] = ("resattnet", "residual_attention_network")
    paper: ClassVar[Paper] = Paper("Residual Attention Network for Image Classification", "Wang et al.", "CVPR", 2017)
    formula: ClassVar[str] = "y = (1 + sigmoid(W2 relu(norm(W1 relu(norm(hourglass(x)))))) · x"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("mask", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "r*(3*L - 1)*(2*C*d + 9*d*d + 2*C + 4*d) + 2*C*C + 4*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels", "L": "levels", "r": "units"}
    deviations: ClassVar[tuple[str, ...]] = (
        'mask="channel": a mask of unit length at every position, the paper\'s equation 5',
        'mask="spatial": a mask normalised within every channel, the paper\'s equation 6',
    )
    placement: ClassVar[str] = "behind a few residual blocks, the trunk branch, at the start of a stage"
    place = "stage"

    def __init__(
        self,
        channels: int,
        levels: int = 2,
        units: int = 1,
        reduction: int = 4,
        mask: Mask = "mixed",
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.levels = levels
        self.units = units
        self.hidden_channels = reduced(channels, reduction)
        self.mask = mask
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]

        def stack() -> nn.Sequential:
            return nn.Sequential(*(ResidualUnit(channels, self.hidden_channels, dims) for _ in range(units)))

        self.pool = POOLS[dims](3, stride=2, padding=1)
        self.down = nn.ModuleList(stack() for _ in range(levels))
        self.skip = nn.ModuleList(stack() for _ in range(levels - 1))
        self.up = nn.ModuleList(stack() for _ in range(levels))
        self.score = nn.Sequential(
            BatchNorm(channels),
            nn.ReLU(),
            convolution(channels, channels, 1, bias=False),
            BatchNorm(channels),
            nn.ReLU(),
            convolution(channels, channels, 1, bias=False),
        )

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mask = self.squash(self.score(self.hourglass(x)))  # (B, C, *spatial)
        mask = self.offer("mask", mask)
        return x + mask * x

    def hourglass(self, x: Float[Tensor, "B C *spatial"], level: int = 0) -> Float[Tensor, "B C *spatial"]:
        """Down to the lowest level and up again, each level on the map that the one above it has halved."""
        inner = self.down[level](self.pool(x))  # (B, C, *half)
        if level + 1 < self.levels:
            inner = self.skip[level](inner) + self.hourglass(inner, level + 1)
        return F.interpolate(self.up[level](inner), size=x.shape[2:], mode=LINEAR[x.ndim - 2], align_corners=False)

    def squash(self, score: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        """From scores to the mask."""
        if self.mask == "channel":
            return F.normalize(score, dim=1, eps=1e-6)
        if self.mask == "spatial":
            positions = tuple(range(2, score.ndim))
            centred = score - score.mean(positions, keepdim=True)
            score = centred * (centred.square().mean(positions, keepdim=True) + 1e-5).rsqrt()
        return score.sigmoid()


class ResidualUnit(nn.Module):
    """`x + W relu(norm(W' * relu(norm(W'' relu(norm(x))))))`, a bottleneck with its normalisations before its layers.

    Args:
        channels: channels `C`.
        hidden_channels: channels of the bottleneck.
        dims: how many spatial axes.
    """

    def __init__(self, channels: int, hidden_channels: int, dims: int) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.norms = nn.ModuleList(BatchNorm(width) for width in (channels, hidden_channels, hidden_channels))
        self.reduce = convolution(channels, hidden_channels, 1, bias=False)
        self.spatial = convolution(hidden_channels, hidden_channels, 3, padding=1, bias=False)
        self.expand = convolution(hidden_channels, channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        hidden = x
        for norm, layer in zip(self.norms, (self.reduce, self.spatial, self.expand), strict=True):
            hidden = layer(norm(hidden).relu())
        return x + hidden
