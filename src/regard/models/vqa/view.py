"""From a picture in a file to what a model sees of it: the same in training, in answering and after export."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regard.errors import UserError, in_one_line


@dataclass(frozen=True)
class View:
    """The whole picture at one size, in the colours that a model expects. Needs Pillow.

    A picture is made a square whatever its shape, as in SAN and MCB, so that nothing at its border is lost.

    Attributes:
        size: side of the square in pixels.
        mean, deviation: by which each colour, from 0 to 1, is normalised.
    """

    size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)

    # `Any`: a path, or a picture of Pillow, which is not imported before it is used.
    def __call__(self, picture: Any) -> Float[Tensor, "3 size size"]:
        """What the model sees of a file or a picture of Pillow.

        Raises:
            UserError: it cannot be read.
        """
        return self.normalized(self.pixels(picture))

    def pixels(self, picture: Any) -> UInt8[Tensor, "3 size size"]:
        """The same before `normalized`: a quarter of the memory.

        Raises:
            UserError: the picture cannot be read.
        """
        import numpy as np
        from PIL import Image

        from regard.models.decoding import decode

        try:
            whole = decode(picture, self.size)
        except Exception as error:  # whatever a decoder stumbles over in a broken file
            reason = getattr(error, "strerror", None) or in_one_line(error)
            raise UserError(
                f"the picture {picture} cannot be read ({reason}): give a file that decodes to the end"
            ) from error
        square = whole.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).movedim(2, 0)

    def normalized(self, pixels: UInt8[Tensor, "*B 3 size size"]) -> Float[Tensor, "*B 3 size size"]:
        """Pixels as the model takes them."""
        mean, deviation = (
            pixels.new_tensor(each, dtype=torch.float32)[:, None, None] for each in (self.mean, self.deviation)
        )
        return (pixels / 255 - mean) / deviation
