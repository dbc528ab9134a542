"""Compose pictures of coloured digits at free positions among clutter."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from regard.tasks.digit_scenes.digits import SIDE, Digits

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 50, 50),
    "green": (40, 210, 60),
    "blue": (60, 110, 255),
    "yellow": (250, 225, 40),
    "purple": (190, 70, 230),
    "cyan": (50, 225, 230),
    "white": (255, 255, 255),
}
"""The colours of digits, as red, green and blue in 0..255."""

MOST_DIGITS = 6
FRAGMENTS_PER_SCENE = 10
FRAGMENT_SIDE = SIDE // 2
ABSENT = -1
GAP = 2
"""Fewest pixels between the boxes of two digits."""


@dataclass(frozen=True)
class Scenes:
    """A set of scenes and what is in them.

    Attributes:
        pictures: red, green, blue in 0..255.
        labels: the digit that each object is, or `ABSENT` in a scene of fewer objects.
        colours: its colour, an index into `COLOURS`, or `ABSENT`.
        corners: the row and column of its top left pixel; its box is `SIDE` pixels wide and high.
    """

    pictures: UInt8[np.ndarray, "scenes 3 size size"]
    labels: Int[np.ndarray, "scenes objects"]
    colours: Int[np.ndarray, "scenes objects"]
    corners: Int[np.ndarray, "scenes objects 2"]

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, keep: Int[np.ndarray, " some"]) -> "Scenes":
        """The scenes with these indices."""
        return Scenes(self.pictures[keep], self.labels[keep], self.colours[keep], self.corners[keep])


def free_corners(random: np.random.Generator, count: int, size: int, boxes: int) -> Int[np.ndarray, "scenes objects 2"]:
    """Corners of boxes that lie inside the canvas with a gap between any two of them, wherever that may be."""
    roomy = ((size + GAP) // (SIDE + GAP)) ** 2
    if 2 * boxes > max(2, roomy):
        raise ValueError(
            f"{boxes} digits do not fit freely on a canvas of {size} pixels, which has room for {roomy} in rows: "
            f"ask for at most {max(1, roomy // 2)}, or a larger canvas"
        )
    corners = np.zeros((0, MOST_DIGITS, 2), np.int64)
    while len(corners) < count:
        # Too many boxes drawn independently of each other; keep greedily those that are clear of the ones before.
        tries = random.integers(0, size - SIDE + 1, (count, 4 * boxes, 2))
        apart = np.abs(tries[:, :, None] - tries[:, None]).max(-1) >= SIDE + GAP  # (scenes, tries, tries)
        kept = np.zeros(tries.shape[:2], bool)
        for attempt in range(tries.shape[1]):
            kept[:, attempt] = (apart[:, attempt] | ~kept).all(-1) & (kept.sum(1) < boxes)
        full = kept.sum(1) == boxes
        drawn = tries[full][kept[full]].reshape(-1, boxes, 2)
        corners = np.concatenate([corners, np.pad(drawn, ((0, 0), (0, MOST_DIGITS - boxes), (0, 0)))])
    return corners[:count]


def draw_colours(random: np.random.Generator, count: int) -> Int[np.ndarray, "scenes objects"]:
    """A colour of its own for each object; then twice, every other time, one takes the colour of another."""
    colours = np.argsort(random.random((count, len(COLOURS))), axis=1)[:, :MOST_DIGITS]
    for _ in range(2):
        giver, taker = random.integers(0, MOST_DIGITS, (2, count))
        some = np.flatnonzero(random.random(count) < 0.5)
        colours[some, taker[some]] = colours[some, giver[some]]
    return colours


def paste(canvas: np.ndarray, scene: np.ndarray, corners: np.ndarray, patches: np.ndarray) -> None:
    """Write patches `(many, side, side, 3)` with these corners onto the canvases `(scenes, size, size, 3)` named."""
    side = np.arange(patches.shape[1])
    row, column = corners[:, 0, None, None] + side[:, None], corners[:, 1, None, None] + side
    canvas[scene[:, None, None], row, column] = patches


def compose(
    digits: Digits,
    random: np.random.Generator,
    count: int,
    size: int = 40,
    fewest: int = MOST_DIGITS,
    most: int = MOST_DIGITS,
) -> Scenes:
    """Draw scenes: digits, each of any class and colour, among clutter on a dark noisy ground.

    Clutter is fragments of other digits, a quarter of one each, in the digits' colours at less than half their
    strength; it never covers a digit.

    Args:
        digits: the digits to draw from.
        random: where chance comes from; the same state gives the same scenes.
        count: how many scenes.
        size: side of the picture in pixels.
        fewest: each scene has between this many and `MOST_DIGITS` digits, all numbers alike likely.
    """
    palette = np.array(list(COLOURS.values()), np.float32)  # (colours, 3)
    canvas = np.repeat(random.uniform(0, 45, (count, size, size, 1)).astype(np.float32), 3, axis=3)

    many = count * FRAGMENTS_PER_SCENE
    quarters = digits.images.reshape(-1, 2, FRAGMENT_SIDE, 2, FRAGMENT_SIDE).swapaxes(2, 3)
    quarters = quarters.reshape(-1, FRAGMENT_SIDE, FRAGMENT_SIDE, 1)
    tint = palette[random.integers(0, len(palette), many)] * random.uniform(0.25, 0.45, (many, 1))
    ink = quarters[random.integers(0, len(quarters), many)] * tint[:, None, None]
    paste(
        canvas,
        np.repeat(np.arange(count), FRAGMENTS_PER_SCENE),
        random.integers(0, size - FRAGMENT_SIDE + 1, (many, 2)),
        np.maximum(ink, 20),
    )

    # Digits, each on its own dark box.
    present = np.arange(MOST_DIGITS) < random.integers(fewest, most + 1, (count, 1))
    chosen = random.integers(0, len(digits.images), present.shape)
    colours = np.where(present, draw_colours(random, count), ABSENT)
    corners = free_corners(random, count, size, most)
    ink = digits.images[chosen[present]][..., None]  # (many, side, side, 1)
    ground = random.uniform(0, 45, ink.shape)
    colour = palette[colours[present]][:, None, None]
    paste(canvas, np.nonzero(present)[0], corners[present], ink * colour + (1 - ink) * ground)

    pictures = np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2))
    return Scenes(pictures, np.where(present, digits.labels[chosen], ABSENT), colours, corners)
