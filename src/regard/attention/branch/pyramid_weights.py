"""Attention to scale."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import convolution_over
from regard.attention.contract import Merge, Paper
from regard.attention.offering import SPATIAL, MapFact


class AttentionToScale(Merge):
    """Attention to scale: at every position the scales, or levels of a pyramid, compete for it.

        h = V relu(W * [x_1; ..; x_R] + b) + c        a convolution of size k, then one of size 1     (B, R, *spatial)
        a = softmax over the scales of h
        y = Σ_r a_r · x_r

    Paper: Chen, Yang, Wang, Xu, Yuille, "Attention to Scale: Scale-aware Semantic Image Segmentation", CVPR 2016,
    equations 1 and 2. There the weights are found in the layer before the maps that they weigh; here in these maps.

    Args:
        channels: channels `C` of every map.
        scales: number `R` of maps; default 2, the paper's first choice.
        hidden_channels: width `d` of the scoring network; default 512, the paper's choice.
        kernel_size: size `k` of its first convolution, odd; default 3, the paper's choice.
        dims: how many spatial axes the maps have, 1, 2 or 3; default 2.

    Shapes:
        x_1 .. x_R: `(B, C, *spatial)`, resized to one shape, with `dims` spatial axes of any size. Gives that shape.

    Maps:
        scale: `(batch, branch, *spatial)`, sums to one over the branches, which are the scales.

    Raises:
        ValueError: `scales` is less than one, `kernel_size` is even, or `dims` is not 1, 2 or 3.
        ShapeError: the inputs differ in shape, or have another channel count, number of axes, or number than `scales`.
    """

    name: ClassVar[str] = "pyramid_weights"
    aliases: ClassVar[tuple[str, ...]] = ("scale_attention",)
    paper: ClassVar[Paper] = Paper(
        "Attention to Scale: Scale-aware Semantic Image Segmentation", "Chen et al.", "CVPR", 2016
    )
    formula: ClassVar[str] = "y = Σ_r softmax_r(V relu(W * [x_1; ..; x_R] + b) + c) · x_r"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("scale", ("batch", "branch", SPATIAL), ("branch",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "k*k*R*C*d + d + d*R + R"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "R": "inputs",
        "d": "hidden_channels",
        "k": "kernel_size",
    }
    placement: ClassVar[str] = "where predictions or features of several scales are merged"
    place = "output"

    def __init__(
        self, channels: int, scales: int = 2, hidden_channels: int = 512, kernel_size: int = 3, dims: int = 2
    ) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.inputs = scales  # pyright: ignore[reportAttributeAccessIssue]
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.dims = dims
        self.score = nn.Sequential(
            convolution(scales * channels, hidden_channels, kernel_size, padding=kernel_size // 2),
            nn.ReLU(),
            convolution(hidden_channels, scales, 1),
        )

    def forward(self, *maps: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(*maps)
        weights = self.score(torch.cat(maps, 1)).softmax(1)  # (B, R, *spatial)
        weights = self.offer("scale", weights)
        y = weights[:, :1] * maps[0]  # (B, C, *spatial)
        for r, x in enumerate(maps[1:], start=1):
            y = torch.addcmul(y, weights[:, r : r + 1], x)
        return y

    def check(self, *inputs: Tensor) -> None:
        """Refuse, besides, another number of maps, or of spatial axes."""
        if len(inputs) != self.inputs or inputs[0].ndim != self.dims + 2:
            raise self.refuse(
                f"{len(inputs)} maps of shapes {', '.join(str(tuple(x.shape)) for x in inputs)}",
                f"{self.inputs} maps of one shape (batch, {self.channels}, *spatial) with {self.dims} spatial axes",
                "build it with the number of maps as scales and their number of spatial axes as dims",
            )
        super().check(*inputs)
