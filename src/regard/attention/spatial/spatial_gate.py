"""The spatial gate of the convolutional block attention module."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class SpatialGate(Refine):
    """The spatial half of CBAM: a gate a position, from the largest and the mean channel around it.

        a = sigmoid(norm(conv_k([max over channels of x; mean over channels of x])))      (B, *spatial)
        y = a · x

    Paper: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, equation 3; the order of the
    two statistics and the batch normalisation with its momentum 0.01 are those of the authors' code. In training on one
    image whose map is one cell, that normalisation uses its running statistics.

    Args:
        channels: channels `C` of the map, which the parameters do not depend on.
        kernel_size: size `k` of the convolution, odd; default 7, the paper's choice.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.
        norm: whether batch normalisation follows the convolution; default True, as in the authors' code.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        spatial: the gate `(batch, *spatial)`, each in 0..1.

    Raises:
        ValueError: `kernel_size` is even or less than one, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "spatial_gate"
    aliases: ClassVar[tuple[str, ...]] = ("cbam_spatial", "spatial_attention_module")
    paper: ClassVar[Paper] = Paper("CBAM: Convolutional Block Attention Module", "Woo et al.", "ECCV", 2018)
    formula: ClassVar[str] = "y = x · sigmoid(norm(conv_k([max_c(x); mean_c(x)])))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", SPATIAL)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*k*k + 2"
    letters: ClassVar[dict[str, str]] = {"k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        "norm=False: no batch normalisation before the gate, as the paper's equation is written",
    )
    placement: ClassVar[str] = "in every residual block, before the addition, most often behind a channel gate"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 7, dims: int = 2, norm: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.convolution = convolution_over(dims)(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = BatchNorm(1, momentum=0.01) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        gate = self.norm(self.convolution(functional.peak_and_mean(x, 1))).sigmoid()  # (B, 1, *spatial)
        return x * self.offer("spatial", gate[:, 0])[:, None]  # (B, C, *spatial)
