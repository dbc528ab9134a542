"""Pictures from files: what is no colour, and files that are no pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.errors import UserError
from regard.models.decoding import Pictures, decode

GREYS = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.2]], np.float32)
STRANGE = {np.nan: 0, np.inf: 255, -np.inf: 0}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("white", [1, 255, 65535, 70000])
def test_a_pixel_that_is_no_finite_grey_leaves_all_others_as_they_are(strange: float, white: float) -> None:
    greys = GREYS * white
    plain = np.asarray(decode(Image.fromarray(greys), 100)).copy()
    np.testing.assert_array_equal(plain[..., 0], (255 * GREYS).round())
    greys[0, 1], plain[0, 1] = strange, STRANGE[strange]
    np.testing.assert_array_equal(np.asarray(decode(Image.fromarray(greys), 100)), plain)


def test_a_picture_without_any_finite_grey_is_black_or_white() -> None:
    for strange, shade in STRANGE.items():
        picture = np.asarray(decode(Image.fromarray(np.full((2, 3), strange, np.float32)), 100))
        assert (picture == shade).all()


def test_a_file_that_never_was_a_picture_is_told_from_one_that_vanished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.models.decoding.KEPT_BYTES", 0)
    paths = [tmp_path / name for name in ("whole.png", "text.png", "empty.png")]
    Image.new("RGB", (3, 2)).save(paths[0])
    paths[1].write_text("no picture")
    paths[2].touch()
    pictures = Pictures(paths, 100)
    assert pictures[0].size == (3, 2)
    assert {index: bad.reason for index, bad in pictures.bad.items()} == {1: "not a picture", 2: "empty file"}
    for index in (1, 2):
        with pytest.raises(UserError, match=rf"{paths[index].name} cannot be read .*: repair it, or take it away"):
            pictures[index]
    paths[0].unlink()
    with pytest.raises(UserError, match=r"whole\.png cannot be read .*, and could when the run began: put it back"):
        pictures[0]
