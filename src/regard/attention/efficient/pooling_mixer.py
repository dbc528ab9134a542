"""The pooling token mixer."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class PoolingMixer(Refine):
    """Pooling token mixer: the mean of a neighbourhood in place of attention; the control for all that weighs.

        y_i = mean of x_j over the positions j of the k x k window around i that lie in the map  -  x_i

    The block around it adds `x` again. It has no parameters and no weights to show.

    Paper: Yu, Luo, Zhou, Si, Zhou, Wang, Feng, Yan, "MetaFormer Is Actually What You Need for Vision", CVPR 2022,
    equation 4 and algorithm 1 (PoolFormer).

    Args:
        channels: channels `C` of the map.
        kernel_size: side `k` of the window, odd; default 3, the paper's choice.

    Shapes:
        x: `(B, C, *spatial)`, one to three spatial axes of any size. Gives the same shape.

    Maps:
        none: every weight of a window is the same.

    Raises:
        ValueError: `kernel_size` is even or less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "pooling_mixer"
    aliases: ClassVar[tuple[str, ...]] = ("poolformer", "metaformer")
    paper: ClassVar[Paper] = Paper("MetaFormer Is Actually What You Need for Vision", "Yu et al.", "CVPR", 2022)
    formula: ClassVar[str] = "y = mean over the window of x - x"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = ()
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "0"
    placement: ClassVar[str] = "where a transformer's block has its attention, after a normalisation, inside a residual"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        size = self.kernel_size
        if x.ndim == 3:
            return F.avg_pool1d(x, size, 1, size // 2, count_include_pad=False) - x
        if x.ndim == 4:
            return F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False) - x
        # PyTorch's pool of three axes refuses a map smaller than its window: planes first, then along the depth.
        planes = F.avg_pool2d(x.flatten(1, 2), size, 1, size // 2, count_include_pad=False)  # (B, C·D, H, W)
        lines = planes.unflatten(1, x.shape[1:3]).flatten(3)  # (B, C, D, H·W)
        near = F.avg_pool2d(lines, (size, 1), 1, (size // 2, 0), count_include_pad=False)
        return near.unflatten(3, x.shape[3:]) - x
