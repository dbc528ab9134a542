"""Focal modulation."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.arguments import convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact


class FocalModulation(Refine):
    """Focal modulation: a position's query is multiplied by the context around it, gathered at several ranges.

        q, z⁰, g = Wq x + bq, Wz x + bz, Wg x + bg
        zˡ       = gelu(conv_l(zˡ⁻¹))                        l = 1..L, depthwise, of growing kernel size
        zᴸ⁺¹     = gelu(mean over positions of zᴸ)
        y        = Wo (q · (Wh Σ_l gˡ · zˡ + bh)) + bo       l = 1..L+1

    Paper: Yang, Li, Dai, Yuan, Gao, "Focal Modulation Networks", NeurIPS 2022; the last projection is that of the
    authors' code.

    Args:
        channels: channels `C` of the map.
        levels: number of convolutions `L`; default 2, that of the paper's small receptive field.
        kernel_size: size `k` of the first convolution, odd; default 3, the paper's choice. Each further one is by 2
            larger.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.
        normalized: whether the context is divided by `L + 1`; default False.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        gate: `(batch, range, *spatial)`, the factors `g` of all convolutions and of the mean, of any sign.

    Raises:
        ValueError: `levels` is less than one, `kernel_size` is even, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "focal_modulation"
    aliases: ClassVar[tuple[str, ...]] = ("focalnet",)
    paper: ClassVar[Paper] = Paper("Focal Modulation Networks", "Yang et al.", "NeurIPS", 2022)
    formula: ClassVar[str] = "y = Wo (q(x) · h(Σ_l gˡ · zˡ)) with zˡ = gelu(conv_l(zˡ⁻¹)), zᴸ⁺¹ = gelu(mean(zᴸ))"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "range", SPATIAL)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "(C + 1)*(4*C + L + 1) + C*(L*k*k + 2*k*L*(L - 1) + 2*L*(L - 1)*(2*L - 1)//3)"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "L": "levels", "k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        "normalized=True: the context is divided by the number of ranges, as in the authors' larger models",
    )
    placement: ClassVar[str] = "in place of self-attention in every block of a transformer of maps"
    place = "branch"

    def __init__(
        self, channels: int, levels: int = 2, kernel_size: int = 3, dims: int = 2, normalized: bool = False
    ) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.levels = levels
        self.ranges = levels + 1
        self.kernel_size = kernel_size
        self.normalized = normalized
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.project = convolution(channels, 2 * channels + self.ranges, 1)
        self.convolutions = nn.ModuleList(
            convolution(channels, channels, size, padding=size // 2, groups=channels, bias=False)
            for size in range(kernel_size, kernel_size + 2 * levels, 2)
        )
        self.modulate = convolution(channels, channels, 1)
        self.output = convolution(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        query, context, gates = self.project(x).split((self.channels, self.channels, self.ranges), dim=1)
        *near, far = self.offer("gate", gates).split(1, dim=1)  # (B, 1, *spatial) each
        total = torch.zeros_like(query)
        for convolution, gate in zip(self.convolutions, near, strict=True):
            context = F.gelu(convolution(context))  # (B, C, *spatial)
            total = total + gate * context
        total = total + far * F.gelu(context.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        if self.normalized:
            total = total / self.ranges
        return self.output(query * self.modulate(total))  # (B, C, *spatial)
