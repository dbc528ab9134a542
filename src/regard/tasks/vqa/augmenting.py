"""Training pictures varied so that no answer becomes wrong: no mirrors, and no other colours."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

AUGMENTATIONS = ("none", "shift")

SHIFT, ANGLE = 4 / 128, 0.05
"""How far a picture moves at most, of its side, and how many radians it turns."""


def drawn(pictures: int, draw: np.random.Generator) -> Float[Tensor, "pictures 3"]:
    """How each picture moves: across, down, and turning, each as a share of the most, from -1 to 1."""
    return torch.from_numpy(draw.uniform(-1, 1, (pictures, 3))).float()


def shifted(pixels: UInt8[Tensor, "B 3 S S"], by: Float[Tensor, "B 3"]) -> UInt8[Tensor, "B 3 S S"]:
    """Pictures moved and turned a little; what comes in at a border repeats it.

    As relation networks were trained on CLEVR, by up to 4 of 128 pixels each way and 0.05 radians (Santoro et al., “A
    simple neural network module for relational reasoning”, 2017).

    Args:
        pixels: of square pictures.
        by: see `drawn`.
    """
    across, down, turn = by.unbind(1)
    cosine, sine = torch.cos(ANGLE * turn), torch.sin(ANGLE * turn)
    # From a place in the outcome to its place in the picture, where a side has the length 2.
    rows = (cosine, -sine, 2 * SHIFT * across), (sine, cosine, 2 * SHIFT * down)
    places = functional.affine_grid(torch.stack([torch.stack(row, 1) for row in rows], 1), list(pixels.shape), False)
    found = functional.grid_sample(pixels.float(), places, padding_mode="border", align_corners=False)
    return found.round().to(torch.uint8)
