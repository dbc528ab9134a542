"""What a network sees of a picture, in training and in evaluation."""

from collections.abc import Mapping
from math import exp, log, sqrt

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from regard.tasks.showing import data_uri

SMALLEST_SHARE = 0.5
"""Of the picture's area, the least that a training crop shows. Classic: 0.08, for a thousand times as many pictures."""

AUGMENTATIONS: Mapping[str, str] = {
    "none": "none, training pictures are seen as test pictures are, their middle square",
    "crop": "random crops of at least half of the picture, stretched by up to 4/3; no flips",
    "crop-flip": "random crops of at least half of the picture, stretched by up to 4/3, half of them mirrored",
}
"""How training pictures are varied, and what that is in words. Mirrors are wrong for digits, text, left and right."""

_ratio = 4 / 3


def augmented(
    picture: Image.Image, size: int, interpolation: Image.Resampling, draw: np.random.Generator, augmentation: str
) -> UInt8[Tensor, "3 size size"]:
    """Return a training view by one of `AUGMENTATIONS` (Szegedy et al., “Going Deeper with Convolutions”, 2015)."""
    if augmentation == "none":
        return centred(picture, size, interpolation)
    left, top, width, height = _crop(picture.width, picture.height, draw)
    view = picture.crop((left, top, left + width, top + height)).resize((size, size), interpolation)
    mirrored = augmentation == "crop-flip" and draw.random() < 0.5
    return transforms.pil_to_tensor(ImageOps.mirror(view) if mirrored else view)


def centred(picture: Image.Image, size: int, interpolation: Image.Resampling) -> UInt8[Tensor, "3 size size"]:
    """The largest square in the middle, at the network's size."""
    return transforms.pil_to_tensor(_square(picture).resize((size, size), interpolation))


def normalized(
    views: list[UInt8[Tensor, "3 size size"]], mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Float[Tensor, "B 3 size size"]:
    """Views as a batch, with the mean and standard deviation that the backbone was trained with."""
    batch = transforms.to_dtype(torch.stack(views), torch.float32, scale=True)
    return transforms.normalize(batch, list(mean), list(deviation))


def shown(picture: Image.Image, most: int) -> tuple[str, int]:
    """What `centred` shows, for people: a PNG as a data URL, and its side in pixels, at most `most`."""
    square = _square(picture)
    if square.width > most:
        square = square.resize((most, most), Image.Resampling.BICUBIC)
    return data_uri(square), square.width


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _crop(width: int, height: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of random shape.

    As `v2.RandomResizedCrop`, which draws from the one global generator of PyTorch and so neither in threads nor
    without a trace in what the model draws afterwards.
    """
    for _ in range(10):
        area = width * height * draw.uniform(SMALLEST_SHARE, 1)
        ratio = exp(draw.uniform(-log(_ratio), log(_ratio)))
        wide, high = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = draw.integers(width - wide + 1), draw.integers(height - high + 1)
            return int(left), int(top), wide, high
    wide, high = min(width, round(height * _ratio)), min(height, round(width * _ratio))
    return (width - wide) // 2, (height - high) // 2, wide, high
