"""What a drawing of a map lets one see: the object below it, the cells, the scale and the words."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from regard.watching import colour, drawing


def checkers(width: int = 240, height: int = 160, side: int = 8) -> Image.Image:
    """Black and white squares, an object that has contrast everywhere."""
    down, across = np.indices((height, width)) // side
    return Image.fromarray((255 * ((down + across) % 2)).astype(np.uint8)).convert("RGB")


def lightness(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"), float)


def contrast(picture: Image.Image, columns: slice, rows: slice) -> float:
    """Between light and dark within a part: of the 90th and the 10th of a hundred pixels."""
    part = lightness(picture)[rows, columns]
    return float(np.percentile(part, 90) - np.percentile(part, 10))


@pytest.mark.parametrize(
    "weights", [torch.full((4, 4), 1 / 16), torch.eye(4) / 4, torch.rand(4, 4), torch.rand(56, 84)]
)
def test_the_object_is_seen_below_any_weight(weights: Tensor) -> None:
    drawn = drawing.over(checkers(), weights)
    for row in range(4):
        for column in range(4):
            part = slice(60 * column + 20, 60 * column + 44), slice(40 * row + 20, 40 * row + 36)
            assert contrast(drawn, *part) > 0.3 * 255


def test_where_the_weight_is_zero_the_grey_picture_shows() -> None:
    weights = torch.zeros(4, 4)
    weights[1, 2] = 0.7
    given = Image.fromarray(np.full((160, 240, 3), (10, 200, 90), np.uint8))
    drawn = np.asarray(drawing.over(given, weights))
    grey = np.asarray(drawing.grey(given))
    assert (drawn[:, :116] == grey[:, :116]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    inside = drawn[60:76, 140:170].reshape(-1, 3).astype(int)
    assert (inside[:, 0] - inside[:, 2]).min() > 10  # pale yellow


def test_cells_of_a_coarse_grid_have_edges_and_fine_ones_none() -> None:
    plain = Image.new("RGB", (240, 160), (128, 128, 128))
    step = torch.tensor([[0.1, 0.4, 0.1, 0.1]] * 4)
    jump = np.abs(np.diff(lightness(drawing.over(plain, step))[100])).max()
    assert jump > 40
    inner = lightness(drawing.over(plain, step))[130:150, 70:110]
    assert np.ptp(inner) == 0
    smooth = torch.tensor([[0.1 + 0.3 * (column > 60) for column in range(120)]] * 80)
    assert len(np.unique(lightness(drawing.over(plain, smooth))[81])) > 2  # what lies between the two weights


def test_a_line_goes_around_the_cells_of_at_least_half_the_largest_weight() -> None:
    weights = torch.tensor([[0.02] * 4, [0.02, 0.4, 0.25, 0.02], [0.02] * 4, [0.02, 0.19, 0.02, 0.02]])
    drawn = np.asarray(drawing.over(Image.new("RGB", (240, 160)), weights)).astype(int)
    white = (drawn == 255).all(-1)
    assert white[45:75, 60:62].any(1).all()  # left of the heaviest
    assert white[45:75, 178:180].any(1).all()  # right of its neighbour, which is more than half of it
    assert not white[50:75, 116:124].any()  # none between the two
    assert not white[125:160, 55:65].any()  # none around 0.19, which is less than half


def test_weights_that_are_negative_or_all_zero_are_drawn_as_nothing() -> None:
    picture = checkers()
    for weights in (torch.zeros(3, 5), -torch.rand(3, 5)):
        assert (np.asarray(drawing.over(picture, weights)) == np.asarray(picture)).all()


def panels(words: str = "red (0.87)", count: int = 2) -> tuple[Image.Image, list[drawing.Panel]]:
    picture = drawing.fitted(checkers(60, 40, 2))
    weights = torch.eye(4) / 4
    return picture, [
        drawing.Panel(f"model {number}", words, drawing.over(picture, weights), 0.25) for number in range(count)
    ]


def test_a_figure_shows_the_original_the_maps_and_grows_with_the_words() -> None:
    picture, shown = panels()
    assert picture.size == (384, 256)
    short = drawing.figure(picture, "what?", shown)
    long = drawing.figure(picture, "what " * 80 + "?", shown)
    cut = drawing.figure(picture, "what" * 200, shown)  # of a language without spaces
    answers = drawing.figure(*(lambda picture, shown: (picture, "what?", shown))(*panels("a long answer " * 9)))
    assert short.width == long.width == cut.width
    assert short.height + 20 < min(long.height, cut.height)
    assert short.height + 20 < answers.height
    pixels = np.asarray(short)
    found = [
        (top, left)
        for top in range(short.height - 256)
        for left in (16,)
        if (pixels[top : top + 256, left : left + 384] == np.asarray(picture)).all()
    ]
    assert len(found) == 1  # the original, whole and unchanged
    ((top, _),) = found
    map_ = pixels[top : top + 256, 16 + 400 : 16 + 784]
    assert (map_ == np.asarray(shown[0].picture)).all()


def test_every_map_has_its_scale_of_colours_and_numbers_under_it() -> None:
    picture, shown = panels(count=1)
    with_scale = np.asarray(drawing.figure(picture, "what?", shown)).astype(int)
    without = drawing.figure(picture, "what?", [drawing.Panel("model", "red (0.87)", shown[0].picture)])
    assert with_scale.shape[0] > without.height
    rows = with_scale[-70:, 416:800]
    scale = max(rows, key=lambda line: len(np.unique(line, axis=0)))
    assert len(np.unique(scale, axis=0)) > 100  # the colours from low to high
    *colours, opacity = colour.overlay()[-1]
    for end in (np.full(3, 128), opacity / 255 * np.array(colours) + (1 - opacity / 255) * 128):
        assert np.abs(scale - end).sum(1).min() < 12


def test_questions_in_other_scripts_are_drawn() -> None:
    picture, shown = panels(count=1)
    for question in ("猫是什么颜色的？", "какого цвета кошка?", "هل هي نائمة؟"):
        assert drawing.figure(picture, question, shown).height > 256
