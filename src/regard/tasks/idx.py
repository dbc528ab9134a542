"""Files in the IDX format, in which MNIST and the data sets made after it are published."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from regard.errors import UserError, in_one_line

_GZIP = b"\x1f\x8b"

_KINDS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The type of the values, by the third byte."""


def read_idx(path: Path) -> Shaped[np.ndarray, "..."]:
    """Return the array in an IDX file, compressed with gzip or not.

    The file holds two zero bytes, one for the type of the values, one for the number of axes, the size of each axis as
    four bytes, and the values; all of it with the most significant byte first.

    Args:
        path: The file, such as `train-images-idx3-ubyte.gz`.

    Raises:
        UserError: the file is missing, cannot be decompressed, or is not a complete IDX file.
    """
    data = _content(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _KINDS:
        start = data[:4].hex(" ") or "nothing"
        kinds = ", ".join(f"{kind:02x}" for kind in _KINDS)
        raise UserError(
            f"{path} is not an IDX file: it starts with {start}, expected 00 00, a type ({kinds}) and the number of "
            "axes; check that it is the file that was published"
        )
    kind, axes = np.dtype(_KINDS[data[2]]), data[3]
    begin = 4 + 4 * axes
    if len(data) < begin:
        raise UserError(
            f"{path} is truncated: it has {len(data)} bytes, expected at least {begin} for the sizes of its {axes} "
            "axes; fetch it again"
        )
    shape = struct.unpack(f">{axes}I", data[4:begin])
    expected = math.prod(shape) * kind.itemsize
    if len(data) - begin != expected:
        what = "is truncated" if len(data) - begin < expected else "holds more than it says"
        raise UserError(
            f"{path} {what}: {len(data) - begin} bytes of values, expected {expected} for an array of "
            f"{' x '.join(map(str, shape)) or 'one value'} ({kind.newbyteorder('=').name}); fetch it again"
        )
    return np.frombuffer(data, kind, offset=begin).reshape(shape).astype(kind.newbyteorder("="))


def read_labelled(
    pictures: Path, labels: Path
) -> tuple[Shaped[np.ndarray, "pictures height width"], Shaped[np.ndarray, " pictures"]]:
    """Return the pictures and the labels of two IDX files that belong together.

    Args:
        pictures: The file of the pictures, three axes.
        labels: The file of their labels, one axis.

    Raises:
        UserError: as `read_idx`, or the two do not fit together.
    """
    shown, named = read_idx(pictures), read_idx(labels)
    for path, array, axes in ((pictures, shown, 3), (labels, named, 1)):
        if array.ndim != axes:
            raise UserError(
                f"{path} holds an array of {array.ndim} axes, expected {axes}, as the file of "
                f"{'pictures' if axes == 3 else 'labels'} has: check that the two files are not exchanged"
            )
    if len(shown) != len(named):
        raise UserError(
            f"{pictures} holds {len(shown)} pictures and {labels} holds {len(named)} labels, expected one label a "
            "picture: take both from the same part of the data set"
        )
    return shown, named


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: expected an IDX file; check the path") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected an IDX file; check the path") from error
    if not raw.startswith(_GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error, struct.error) as error:
        raise UserError(
            f"{path} cannot be decompressed ({in_one_line(error)}): expected a complete gzip file; fetch it again"
        ) from error
