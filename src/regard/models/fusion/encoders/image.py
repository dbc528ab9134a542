"""Pictures."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from regard.models.fusion.encoders.encoder import Encoder
from regard.models.fusion.encoders.picture import body, drown, open_picture


class ImageEncoder(Encoder):
    """A picture as the cells of a grid, each with a learned vector of its place.

    Args:
        width: width `W` of a token.
        size: side in pixels to which every picture is stretched.
        backbone: the name of a timm backbone; None for a small convolutional network.
        pretrained: whether the backbone starts from the weights that timm downloads.
    """

    kind: ClassVar[str] = "image"

    def __init__(self, width: int, size: int = 32, backbone: str | None = None, pretrained: bool = False) -> None:
        super().__init__()
        self.width = width
        self.size = size
        self.backbone = backbone
        self.body = body(size, width, backbone, pretrained)
        self.project = nn.Sequential(nn.LayerNorm(self.body.channels), nn.Linear(self.body.channels, width))
        self.place = nn.Parameter(torch.randn(self.body.cells, width) * 0.02)

    @classmethod
    def learn(cls, values: Sequence[Any], width: int, **options: Any) -> "ImageEncoder":
        return cls(width, **options)

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "size": self.size, "backbone": self.backbone}

    def read(self, value: Any) -> UInt8[Tensor, "3 S S"]:
        return open_picture(value, self.size)

    def batch(self, cells: Sequence[Tensor]) -> tuple[UInt8[Tensor, "B 3 S S"]]:
        return (torch.stack(list(cells)),)

    def parts(self, cell: Tensor, count: int) -> list[str]:
        """The cells of the grid, from the upper left; other tokens that a backbone has come before them."""
        side = math.isqrt(count)
        first = count - side * side
        extra = [f"token {token + 1}" for token in range(first)]
        return extra + [f"row {cell // side + 1}, column {cell % side + 1}" for cell in range(side * side)]

    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return drown(cell, level, generator)

    def forward(self, *inputs: Tensor) -> tuple[Float[Tensor, "B N W"], Bool[Tensor, "B N"]]:
        tokens = self.project(self.body(inputs[0])) + self.place
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
