"""IDX files are read as their format says, and what is none is refused in one line."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from regard.errors import UserError
from regard.tasks.idx import read_idx, read_labelled

VALUES = {
    0x08: ("B", [0, 1, 127, 128, 255, 3]),
    0x09: ("b", [0, 1, 127, -128, -1, 3]),
    0x0B: ("h", [0, 1, 256, -32768, 32767, -2]),
    0x0C: ("i", [0, 1, 65536, -(2**31), 2**31 - 1, -2]),
    0x0D: ("f", [0.0, 1.5, -2.25, 1e10, 0.5, -0.0]),
    0x0E: ("d", [0.0, 1.5, -2.25, 1e300, 0.1, -0.0]),
}


def idx(kind: int, shape: tuple[int, ...], values: list[float] | list[int], letter: str) -> bytes:
    """A file as the format's description has it, byte by byte."""
    head = bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape)
    return head + b"".join(struct.pack(f">{letter}", value) for value in values)


GOOD = idx(0x08, (2, 3), [0, 1, 127, 128, 255, 3], "B")


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_type_is_read_compressed_or_not(tmp_path: Path, kind: int, compressed: bool) -> None:
    letter, values = VALUES[kind]
    data = idx(kind, (2, 3), values, letter)
    path = tmp_path / "values"  # the name does not matter
    path.write_bytes(gzip.compress(data, mtime=0) if compressed else data)
    array = read_idx(path)
    assert array.dtype == np.dtype(letter)
    assert array.dtype.isnative
    assert array.flags.writeable
    expected = np.array(values, array.dtype).reshape(2, 3)
    assert np.array_equal(array, expected)
    assert np.array_equal(np.signbit(array), np.signbit(expected))


@pytest.mark.parametrize("shape", [(), (0,), (6,), (1, 6), (2, 1, 3), (3, 0, 2), (1, 2, 1, 3)])
def test_any_number_of_axes_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "values.gz"
    values = list(range(int(np.prod(shape))))
    path.write_bytes(gzip.compress(idx(0x08, shape, values, "B"), mtime=0))
    array = read_idx(path)
    assert array.shape == shape
    assert array.ravel().tolist() == values


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "starts with nothing"),
        (b"\0\0\x08", "starts with 00 00 08"),
        (b"<html>no such file</html>", "starts with 3c 68 74 6d"),
        (b"\0\x01" + GOOD[2:], "starts with 00 01 08 02"),
        (b"\0\0\x0a" + GOOD[3:], "starts with 00 00 0a 02"),
        (GOOD[:11], "is truncated: it has 11 bytes, expected at least 12"),
        (GOOD[:-1], "is truncated: 5 bytes of values, expected 6 for an array of 2 x 3 (uint8)"),
        (GOOD[:12], "is truncated: 0 bytes of values, expected 6"),
        (GOOD + b"\0", "holds more than it says: 7 bytes of values, expected 6"),
        (idx(0x0C, (2**31, 2**31, 2**31), [5], "i"), "is truncated: 4 bytes of values, expected 39614081257132168796"),
        (gzip.compress(GOOD, mtime=0)[:-9], "cannot be decompressed (Compressed file ended"),
        (gzip.compress(GOOD, mtime=0)[:5], "cannot be decompressed"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "cannot be decompressed (CRC check failed"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 9, "cannot be decompressed"),
        (gzip.compress(GOOD[:-1], mtime=0), "is truncated: 5 bytes of values"),
        (b"\x1f\x8bno gzip", "cannot be decompressed"),
    ],
)
def test_what_is_no_complete_idx_file_is_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "values.gz"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_idx(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert said in message
    assert "expected" in message
    assert "\n" not in message


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*none\.gz: expected an IDX file; check the path$"):
        read_idx(tmp_path / "none.gz")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): expected an IDX file"):
        read_idx(tmp_path)


def test_pictures_and_labels_are_read_together(tmp_path: Path) -> None:
    pictures, labels, more = tmp_path / "pictures.gz", tmp_path / "labels", tmp_path / "more"
    pictures.write_bytes(gzip.compress(idx(0x08, (3, 2, 5), list(range(30)), "B"), mtime=0))
    labels.write_bytes(idx(0x08, (3,), [7, 0, 2], "B"))
    more.write_bytes(idx(0x08, (4,), [7, 0, 2, 1], "B"))
    shown, named = read_labelled(pictures, labels)
    assert shown.shape == (3, 2, 5)
    assert shown[2, 1].tolist() == [25, 26, 27, 28, 29]
    assert named.tolist() == [7, 0, 2]
    with pytest.raises(UserError, match=r"labels holds an array of 1 axes, expected 3, .* are not exchanged$"):
        read_labelled(labels, pictures)
    with pytest.raises(UserError, match=r"pictures\.gz holds 3 pictures and .*more holds 4 labels, .* the same part"):
        read_labelled(pictures, more)
