"""Pictures from files: decoded, upright, in RGB, and no larger than is of use; and which files are bad."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from regard.errors import UserError, in_one_line

KEPT_BYTES = 1 << 30
"""Decoded pictures stay in memory up to this many bytes in all; the others are decoded again whenever they are used."""

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode: Pillow works outside the interpreter's lock."""


@dataclass(frozen=True)
class Bad:
    """A file that is no picture, and why."""

    path: Path
    reason: str


class Pictures:
    """The pictures of some files, by index; each is at most `shorter` pixels on its shorter side.

    Attributes:
        paths: the files.
        bad: by index, those that cannot be decoded.
    """

    def __init__(self, paths: Sequence[Path], shorter: int) -> None:
        """Decode every file once: a bad one is found now and not in the middle of training."""
        self.paths = tuple(paths)
        self.bad: dict[int, Bad] = {}
        self._shorter = shorter
        self._kept: dict[int, Image.Image] = {}
        room = KEPT_BYTES
        # Filters belong to the process, so they are set here and not in the threads.
        with warnings.catch_warnings(), ThreadPoolExecutor(WORKERS) as pool:
            warnings.simplefilter("ignore")
            # A part at a time: what has no room is let go soon.
            for start in range(0, len(self.paths), 16 * WORKERS):
                part = self.paths[start : start + 16 * WORKERS]
                for index, result in enumerate(pool.map(self._try, part), start):
                    if isinstance(result, Bad):
                        self.bad[index] = result
                    elif room >= (size := 4 * result.width * result.height):  # Pillow takes 4 bytes for a pixel
                        self._kept[index] = result
                        room -= size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        """One picture.

        Raises:
            UserError: it cannot be decoded, or not any more.
        """
        known = self._kept.get(index) or self.bad.get(index)
        result = known or self._try(self.paths[index])
        if isinstance(result, Bad):
            advice = ": repair it, or take it away" if known else ", and could when the run began: put it back"
            raise UserError(f"{result.path} cannot be read ({result.reason}){advice}, then run the same command again")
        return result

    def _try(self, path: Path) -> Image.Image | Bad:
        try:
            return decode(path, self._shorter)
        except UnidentifiedImageError:
            return Bad(path, "empty file" if path.stat().st_size == 0 else "not a picture")
        except Image.DecompressionBombError:
            return Bad(path, f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels")
        except OSError as error:
            return Bad(path, error.strerror or in_one_line(error))
        except Exception as error:  # whatever a decoder stumbles over in a broken file
            return Bad(path, in_one_line(error))


def decode(picture: Path | str | Image.Image, shorter: int) -> Image.Image:
    """A picture, turned upright as its EXIF says, in RGB, at most so large on its shorter side.

    What is transparent is laid on white. 16-bit and floating-point greys are scaled to 8 bits, which Pillow's own
    conversion would clip; of the latter, what is no number is black, infinity white.

    Args:
        picture: a file, or a picture in memory.
        shorter: of its sides, in pixels; what is smaller stays as it is.

    Raises:
        Exception: whatever Pillow raises for a file that it cannot decode, wholly or in part; an
            `Image.DecompressionBombError` also where it only warns.
    """
    if isinstance(picture, Image.Image):
        upright = _upright(picture)
    else:
        with Image.open(picture) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            image.draft(None, (shorter, shorter))  # JPEG alone: decoded at 1/2, 1/4 or 1/8 where that is still enough
            image.load()
            upright = _upright(image)
    scale = shorter / min(upright.size)
    if scale >= 1:
        return upright
    width, height = (max(1, round(side * scale)) for side in upright.size)
    return upright.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3)


def _upright(image: Image.Image) -> Image.Image:
    # Pillow reads a 16-bit PNG as 32-bit greys in older versions.
    return _rgb(ImageOps.exif_transpose(image), deep=image.format == "PNG")


def _rgb(image: Image.Image, deep: bool) -> Image.Image:
    """In RGB; `deep` where greys in 32 bits hold 16-bit values, as older versions of Pillow read a PNG."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        top = values.max(initial=0, where=np.isfinite(values))
        if deep or image.mode.startswith("I;16"):
            white = 65535.0
        elif image.mode == "F" and top <= 1:
            white = 1.0
        else:
            white = next((white for white in (255.0, 65535.0) if top <= white), top)
        image = Image.fromarray(np.nan_to_num(255 * values / white).clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
