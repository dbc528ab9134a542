"""Gather-excite."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.arguments import LINEAR, convolution_over, reduced
from regard.attention.contract import Paper, Refine
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact
from regard.functional.precision import at_least_single

Variant = Literal["theta_minus", "theta", "theta_plus"]
MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class GatherExcite(Refine):
    """Gather-excite: every channel gathers its own surroundings, and gates itself with what it found there.

        z = gather_e(x)                          one cell for every e positions along each axis    (B, C, *cells)
        y = x · sigmoid(interp(z))               `interp` to the size of x: the nearest cell

    Without parameters (θ⁻) `gather` is the mean over `2e - 1` positions along each axis, e apart, or over the whole
    map. With parameters (θ) it is `log2 e` depthwise convolutions of size 3 and stride 2, or one as large as the map,
    each followed by batch normalisation and all but the last by a ReLU. With parameters in both operators (θ⁺) the
    gate is `sigmoid(interp(W2 relu(W1 z + b1) + b2))`.

    Paper: Hu, Shen, Albanie, Sun, Vedaldi, "Gather-Excite: Exploiting Feature Context in Convolutional Neural
    Networks", NeurIPS 2018, sections 3 and 4.

    Args:
        channels: channels `C` of the map.
        variant: `"theta_minus"`, the default, `"theta"` or `"theta_plus"`; all three are the paper's.
        extent: the extent ratio e, at least 2, for the last two variants a power of two; default None, the whole map,
            the paper's best.
        size: the size of the map that the convolution over the whole map is made for, one number an axis; needed by the
            last two variants without `extent`. For a map of another size its kernel is interpolated linearly, and
            scaled by the ratio of the numbers of positions.
        reduction: `C / d` in θ⁺; default 16, the paper's choice. The bottleneck has at least one channel.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        gate: `(batch, channel, *spatial)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one; there is no such `variant`, `extent` is too small or no power of two
            where it has to be one, `size` is missing or not of `dims` numbers, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "gather_excite"
    aliases: ClassVar[tuple[str, ...]] = ("ge", "genet")
    paper: ClassVar[Paper] = Paper(
        "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", "Hu et al.", "NeurIPS", 2018
    )
    formula: ClassVar[str] = "y = x · sigmoid(interp(gather_e(x)))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "0"
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(
        self,
        channels: int,
        variant: Variant = "theta_minus",
        extent: int | None = None,
        size: tuple[int, ...] | None = None,
        reduction: int = 16,
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        learned = variant != "theta_minus"
        if extent is not None and learned and not math.log2(extent).is_integer():
            raise ValueError(f"extent={extent} cannot be gathered by variant={variant!r}: give 2, 4 or 8, or None.")
        if learned and extent is None and (size is None or len(size) != dims):
            raise ValueError(
                f"size={size} does not say how large a map of {dims} axes is: give one number an axis, or an extent."
            )
        self.channels = channels
        self.variant = variant
        self.extent = extent
        self.hidden_channels = reduced(channels, reduction)
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.kernel = None
        self.steps = nn.Sequential()
        if learned and extent is not None:
            for step in range(int(math.log2(extent))):
                if step:
                    self.steps.append(nn.ReLU())
                self.steps.append(convolution(channels, channels, 3, 2, 1, groups=channels, bias=False))
                self.steps.append(BatchNorm(channels))
        elif learned and size is not None:
            bound = math.prod(size) ** -0.5  # as of a convolution
            self.kernel = nn.Parameter(torch.empty(channels, *size).uniform_(-bound, bound))
            self.steps.append(BatchNorm(channels))
        if variant == "theta_plus":
            self.squeeze = convolution(channels, self.hidden_channels, 1)
            self.excite = convolution(self.hidden_channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        gathered = self.gather(x)  # (B, C, *cells)
        if self.variant == "theta_plus":
            gathered = self.excite(self.squeeze(gathered).relu())  # (B, C, *cells)
        gate = gathered.sigmoid()  # (B, C, *cells), before it is spread: fewer values
        if self.extent is not None:
            gate = F.interpolate(gate, size=x.shape[2:])  # (B, C, *spatial)
        return x * self.offer("gate", gate.expand_as(x))  # (B, C, *spatial)

    def gather(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *cells"]:
        """What every channel finds around the cells of a coarser grid, or in the one cell of the whole map."""
        positions = tuple(range(2, x.ndim))
        if self.variant != "theta_minus":
            if self.kernel is not None:
                x = (x * resize(self.kernel, x.shape[2:])).sum(dim=positions, keepdim=True)  # (B, C, *ones)
            return self.steps(x)
        if self.extent is None:
            return x.mean(dim=positions, keepdim=True)
        # Padding is left to `pad`, and to the share of a window that lies in the map: PyTorch's own refuses a window
        # larger than a map of three axes. Of halves it knows no means over three axes on every device.
        average = MEANS[len(positions)]
        margin, window = [self.extent - 1] * (2 * len(positions)), 2 * self.extent - 1
        single = at_least_single(x)  # (B, C, *spatial)
        inside = average(F.pad(single.new_ones(1, 1, *x.shape[2:]), margin), window, self.extent)  # (1, 1, *cells)
        return (average(F.pad(single, margin), window, self.extent) / inside).to(x.dtype)  # (B, C, *cells)


def resize(kernel: Float[Tensor, "C *size"], spatial: torch.Size) -> Float[Tensor, "C *spatial"]:
    """A kernel for maps of another size, with the same answer to a constant one."""
    if kernel.shape[1:] == spatial:
        return kernel
    resized = F.interpolate(kernel[None], size=spatial, mode=LINEAR[len(spatial)])[0]  # (C, *spatial)
    return resized * (kernel[0].numel() / resized[0].numel())
