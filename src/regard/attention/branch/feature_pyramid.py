"""Feature pyramid attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import LINEAR, convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class FeaturePyramidAttention(Refine):
    """Feature pyramid attention: a weight a position, from a pyramid of three scales, and a global context added.

        d_1 = conv_7(half(x)),  d_2 = conv_5(half(d_1)),  d_3 = conv_3(half(d_2))          down      (B, 1, *coarse)
        u_i = conv_i'(d_i) + double(u_{i+1})                                               up, u_4 = 0
        a   = double(u_1)                                                                            (B, *spatial)
        y   = a · conv_1(x) + conv_1(mean over positions of x)

    where every conv is followed by batch normalisation and a ReLU, `conv_i'` has the size of its level, `half` is the
    maximum of 2 by 2 positions and `double` linear interpolation to the next size.

    Paper: Li, Xiong, An, Wang, "Pyramid Attention Network for Semantic Segmentation", BMVC 2018, section 3.1, figure 3.
    The paper does not say how many channels the pyramid has; it has one here, a weight a position, as in
    segmentation_models_pytorch. A batch of one trains: where a mean has no variance, its running one is used.

    Args:
        channels: channels `C` of the map.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        spatial: the weight `(batch, *spatial)`, not negative.

    Raises:
        ValueError: `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "feature_pyramid"
    aliases: ClassVar[tuple[str, ...]] = ("fpa", "fpa_block")
    paper: ClassVar[Paper] = Paper("Pyramid Attention Network for Semantic Segmentation", "Li et al.", "BMVC", 2018)
    formula: ClassVar[str] = "y = a · conv_1(x) + conv_1(mean(x)) with a = pyramid of convolutions of size 7, 5, 3"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", SPATIAL)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*(C*C + 2*C) + 49*C + 49 + 2*25 + 2*9 + 6*2"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "after the last stage of a segmentation encoder"
    place = "last_stage"

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.dims = dims
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.main = self.unit(channels, channels, 1)
        self.context = self.unit(channels, channels, 1)
        self.down = nn.ModuleList(self.unit(inputs, 1, size) for inputs, size in ((channels, 7), (1, 5), (1, 3)))
        self.across = nn.ModuleList(self.unit(1, 1, size) for size in (7, 5, 3))

    def unit(self, inputs: int, outputs: int, size: int) -> nn.Sequential:
        """Convolution, batch normalisation, ReLU."""
        convolution = convolution_over(self.dims)(inputs, outputs, size, padding=size // 2, bias=False)
        return nn.Sequential(convolution, BatchNorm(outputs), nn.ReLU())

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        mean = functional.spread(x.mean(dim=tuple(range(2, x.ndim))), x)  # (B, C, *ones)
        weight = self.offer("spatial", self.pyramid(x)[:, 0])[:, None]  # (B, 1, *spatial)
        return weight * self.main(x) + self.context(mean)  # (B, C, *spatial)

    def pyramid(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B 1 *spatial"]:
        """Down three levels and up again, which gives the weights."""
        levels, sizes = [x], [x.shape[2:]]
        for down in self.down:
            levels.append(down(POOLS[self.dims](levels[-1], 2, ceil_mode=True)))
            sizes.append(levels[-1].shape[2:])
        weight = self.across[2](levels[3])
        for i in (2, 1):
            weight = self.across[i - 1](levels[i]) + self.resize(weight, sizes[i])
        return self.resize(weight, sizes[0])

    def resize(self, x: Float[Tensor, "B 1 *coarse"], size: tuple[int, ...]) -> Float[Tensor, "B 1 *fine"]:
        """Interpolate linearly to this size."""
        return F.interpolate(x, size, mode=LINEAR[self.dims], align_corners=False)
