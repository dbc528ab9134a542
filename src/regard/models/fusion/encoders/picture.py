"""Pictures: how they are read, and the networks that look at them, alone and as frames of a video."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

SIDE = 4
"""Of the grid of cells that the small network makes of any picture."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def open_picture(value: Any, size: int) -> UInt8[Tensor, "3 size size"]:
    """A file, a Pillow image or an array `(H, W)` or `(H, W, 3)` of bytes: upright, RGB, stretched to a square."""
    import numpy as np
    from PIL import Image

    if isinstance(value, Image.Image):
        return to_tensor(value, size)
    if isinstance(value, np.ndarray):
        return to_tensor(Image.fromarray(value), size)
    if not Path(value).exists():
        raise FileNotFoundError(f"there is no file {value}")
    with Image.open(value) as image:
        return to_tensor(image, size)


def to_tensor(image: Any, size: int) -> UInt8[Tensor, "3 size size"]:
    """A Pillow image as a square of bytes; 16-bit greys are scaled, which Pillow's own conversion would clip."""
    import numpy as np
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    image = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def drown(picture: UInt8[Tensor, "*shape"], level: float, generator: torch.Generator) -> UInt8[Tensor, "*shape"]:
    """`(1 - level)` of the picture and `level` of noise in which every byte is alike likely."""
    noise = torch.randint(0, 256, picture.shape, generator=generator)
    return ((1 - level) * picture + level * noise).round().to(torch.uint8)


class SmallBody(nn.Module):
    """A small convolutional network: any picture to a grid of `SIDE` by `SIDE` cells.

    Args:
        size: side of the pictures; it halves them until they are at most 8 pixels wide.
        width: channels `C` of a cell.
        channels: of the first layer; twice as many in each that follows, up to 64.
    """

    def __init__(self, size: int, width: int, channels: int = 16) -> None:
        super().__init__()
        self.channels = width
        self.cells = SIDE * SIDE
        layers: list[nn.Module] = []
        before = 3
        while size > 2 * SIDE:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU(), nn.MaxPool2d(2)]
            before, channels, size = channels, min(2 * channels, 64), size // 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, width, 3, padding=1), nn.AdaptiveAvgPool2d(SIDE))

    def forward(self, pictures: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B N C"]:
        x = pictures.to(next(self.parameters()).dtype) / 127.5 - 1
        return self.layers(x).flatten(2).transpose(1, 2)


class TimmBody(nn.Module):
    """A backbone of timm: its last features, as tokens.

    Args:
        size: side of the pictures.
        name: as timm names it.
        pretrained: whether with the weights that timm downloads.
    """

    mean: Float[Tensor, "3 1 1"]
    deviation: Float[Tensor, "3 1 1"]

    def __init__(self, size: int, name: str, pretrained: bool) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
        self.network = network
        config = network.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None])
        self.register_buffer("deviation", torch.tensor(config["std"])[:, None, None])
        self.channels = int(network.num_features)
        network.eval()  # a batch of one has no statistics
        with torch.no_grad():
            self.cells = self(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]
        network.train()

    def forward(self, pictures: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B N C"]:
        x: Tensor = self.network.forward_features((pictures.to(self.mean.dtype) / 255 - self.mean) / self.deviation)  # pyright: ignore
        if x.ndim == 3:
            return x
        # Some backbones hold channels last.
        return x.flatten(2).transpose(1, 2) if x.shape[1] == self.channels else x.flatten(1, 2)


def body(size: int, width: int, backbone: str | None, pretrained: bool, channels: int = 16) -> SmallBody | TimmBody:
    """The small network, or the backbone of that name."""
    return SmallBody(size, width, channels) if backbone is None else TimmBody(size, backbone, pretrained)
