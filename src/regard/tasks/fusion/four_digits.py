"""Four digits, each told by another modality, and a label that depends on all of them.

Each row draws four digits, evenly and independently of each other, from `0..base - 1`:

    text    a sentence that names its digit in words, among words that say nothing
    image   a handwritten digit (scikit-learn's) at any place of a noisy ground, 32 by 32 pixels
    audio   a tone of 250 · 2^digit Hz (base up to 4) with any phase, in white noise, half a second at 8,000 Hz
    video   a bright spot that moves over 8 frames of 24 by 24 pixels in the direction 360° · digit / base

and the label is, by rule,

    sum      their sum, 0..4 (base - 1). What a modality tells shifts what the label may be, so that each alone helps,
             and no three of them suffice: the fourth can still be any digit.
    modulo   their sum modulo `base`. Any three of them, and so any fewer, tell nothing at all: the fourth makes every
             label alike likely. For base 2 it is the parity of four bits: only who sees all at once can learn it.

No modality is ambiguous: the Bayes accuracy of all four is 1, and that of every subset follows from counting the digits
alone; `bayes_accuracy` does. For base 3:

    modalities      0        1        2        3        4
    sum          19/81     7/27      1/3      1/3       1
    modulo        1/3      1/3      1/3      1/3       1

A vote cannot do it, however good the classifiers that vote: each knows its own digit alone, and the mean of what they
hold likely is likeliest near the middle whatever the digits are. `vote_accuracy` counts how often the vote of the best
possible classifiers is right: for base 2 and the sum 3/8, as often as who always says 2; for the parity 1/2, chance.

No handwritten digit of the training part is in the test part (`part`), and their noise differs.
"""

import csv
import wave
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from regard.tasks.digit_scenes.digits import SIDE, load_digits

Part = Literal["training", "test"]

MODALITIES = ("text", "image", "audio", "video")

RULES: dict[str, Callable[[Int[np.ndarray, "rows 4"], int], Int[np.ndarray, " rows"]]] = {
    "sum": lambda digits, base: digits.sum(1),
    "modulo": lambda digits, base: digits.sum(1) % base,
}
"""From the digits of all rows and the base to the labels."""

MOST = 4
"""The largest base: tones of 250 to 2,000 Hz and four directions are told apart beyond dispute."""

RATE = 8_000
PICTURE, FRAME, FRAMES = 32, 24, 8
NAMES = ("zero", "one", "two", "three")
SENTENCES = (
    "the number {digit} was written on the door",
    "somebody said {digit} and went home",
    "on the list there is {digit} beside my name",
    "it is {digit} again , as always on a Monday",
    "they counted {digit} of them before the rain",
)


@dataclass(frozen=True)
class FourDigits:
    """Rows of the task.

    Attributes:
        digits: of text, image, audio and video.
        labels: by the rule.
        texts, images, sounds, videos: what tells the digits; sounds in -1..1 at `RATE`, pictures in 0..255.
    """

    digits: Int[np.ndarray, "rows 4"]
    labels: Int[np.ndarray, " rows"]
    texts: list[str]
    images: UInt8[np.ndarray, "rows size size"]
    sounds: Float[np.ndarray, "rows samples"]
    videos: UInt8[np.ndarray, "rows frames side side"]

    def __len__(self) -> int:
        return len(self.labels)


def bayes_accuracy(known: Collection[str], base: int = 3, rule: str = "sum") -> Fraction:
    """How often the best possible guess is right for whoever sees these modalities alone: counted, not measured."""
    seen = _seen(known, base, rule)
    digits, labels = _all(base, rule)
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for row, label in zip(digits, labels.tolist(), strict=True):
        counts.setdefault(tuple(row[seen].tolist()), Counter())[label] += 1
    return Fraction(sum(max(each.values()) for each in counts.values()), len(digits))


def vote_accuracy(known: Collection[str], base: int = 3, rule: str = "sum") -> Fraction:
    """How often the mean of the probabilities that the best classifier of each of these modalities gives is right.

    Counted, not measured; labels that come out alike share what is right. All votes weigh alike, which
    makes the labels most likely: modalities can be exchanged, and the logarithm of a mean is concave in its weights.
    """
    seen = _seen(known, base, rule)
    digits, labels = _all(base, rule)
    told = [[Counter(labels[digits[:, m] == digit].tolist()) for digit in range(base)] for m in seen]
    right = Fraction(0)
    for row, label in zip(digits, labels.tolist(), strict=True):
        votes = Counter(dict.fromkeys(labels.tolist(), 0))
        for counts, m in zip(told, seen, strict=True):
            votes.update(counts[row[m]])
        winners = [each for each, count in votes.items() if count == max(votes.values())]
        right += Fraction(label in winners, len(winners))
    return right / len(digits)


def draw(rows: int, base: int = 3, rule: str = "sum", part: Part = "training", seed: int = 0) -> FourDigits:
    """So many rows; the same arguments give the same rows.

    Args:
        rows: how many.
        base: how many digits there are, 2 to 4.
        rule: a key of `RULES`.
        part: which handwritten digits are shown, and which noise.
        seed: where chance comes from.
    """
    check(base, rule)
    if part not in ("training", "test"):
        raise ValueError(f"part={part!r}: choose 'training' or 'test'.")
    random = np.random.default_rng([seed, part == "test"])
    digits = random.integers(0, base, (rows, len(MODALITIES)))
    return FourDigits(
        digits,
        RULES[rule](digits, base),
        _texts(random, digits[:, 0]),
        _images(random, digits[:, 1], part),
        _sounds(random, digits[:, 2]),
        _videos(random, digits[:, 3], base),
    )


def write(data: FourDigits, folder: str | Path) -> Path:
    """Write every row's picture, sound and frames as files, and a table of them: `table.csv`, whose path is given.

    Its columns are `text`, `image`, `audio`, `video` (a folder of frames) and `label`; paths begin where it lies.
    """
    from PIL import Image

    folder = Path(folder)
    for name in ("images", "sounds", "videos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    for row in range(len(data)):
        image, sound, video = f"images/{row:06}.png", f"sounds/{row:06}.wav", f"videos/{row:06}"
        Image.fromarray(data.images[row]).save(folder / image)
        with wave.open(str(folder / sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((data.sounds[row] * 32767).round().astype("<i2").tobytes())
        (folder / video).mkdir(exist_ok=True)
        for number, frame in enumerate(data.videos[row]):
            Image.fromarray(frame).save(folder / video / f"{number:03}.png")
        table.append(
            {"text": data.texts[row], "image": image, "audio": sound, "video": video, "label": int(data.labels[row])}
        )
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*MODALITIES, "label"])
        writer.writeheader()
        writer.writerows(table)
    return path


def check(base: int, rule: str) -> None:
    """Refuse what there is not."""
    if not 2 <= base <= MOST:
        raise ValueError(f"base={base}: choose 2 to {MOST}.")
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}: choose one of {', '.join(RULES)}.")


def _seen(known: Collection[str], base: int, rule: str) -> list[int]:
    """The numbers of these modalities; refuse what there is not."""
    check(base, rule)
    if strange := [name for name in known if name not in MODALITIES]:
        raise ValueError(f"{strange} are none of the modalities {MODALITIES}.")
    return [index for index, name in enumerate(MODALITIES) if name in known]


def _all(base: int, rule: str) -> tuple[Int[np.ndarray, "cases 4"], Int[np.ndarray, " cases"]]:
    """All that the digits can be, each alike likely, and the labels."""
    digits = np.array(list(product(range(base), repeat=len(MODALITIES))))
    return digits, RULES[rule](digits, base)


def _texts(random: np.random.Generator, digits: Int[np.ndarray, " rows"]) -> list[str]:
    chosen = random.integers(0, len(SENTENCES), len(digits))
    return [SENTENCES[which].format(digit=NAMES[digit]) for which, digit in zip(chosen, digits, strict=True)]


def _images(
    random: np.random.Generator, digits: Int[np.ndarray, " rows"], part: Part
) -> UInt8[np.ndarray, "rows size size"]:
    drawn = load_digits()[part == "test"]
    side = 2 * SIDE  # every pixel of a digit is two by two pixels
    canvas = random.uniform(0, 60, (len(digits), PICTURE, PICTURE))
    corners = random.integers(0, PICTURE - side + 1, (len(digits), 2))
    for row, (digit, (down, across)) in enumerate(zip(digits, corners, strict=True)):
        ink = drawn.images[random.choice(np.flatnonzero(drawn.labels == digit))].repeat(2, 0).repeat(2, 1)
        place = canvas[row, down : down + side, across : across + side]
        np.maximum(place, 255 * ink, out=place)
    return canvas.round().astype(np.uint8)


def _sounds(random: np.random.Generator, digits: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows samples"]:
    time = np.arange(RATE // 2) / RATE
    phase = random.uniform(0, 2 * np.pi, (len(digits), 1))
    tone = 0.3 * np.sin(2 * np.pi * 250 * 2.0 ** digits[:, None] * time + phase)
    return (tone + random.normal(0, 0.1, tone.shape)).clip(-1, 1).astype(np.float32)


def _videos(
    random: np.random.Generator, digits: Int[np.ndarray, " rows"], base: int
) -> UInt8[np.ndarray, "rows frames side side"]:
    """The spot's middle frame lies near the centre, so that where it is in one frame says little."""
    angle = 2 * np.pi * digits / base
    step = 1.5 * np.stack([-np.sin(angle), np.cos(angle)], 1)  # (rows, 2): down and across, 0° to the right
    centre = FRAME / 2 + random.uniform(-3, 3, (len(digits), 2))
    moment = np.arange(FRAMES) - (FRAMES - 1) / 2
    spot = centre[:, None] + moment[:, None] * step[:, None]  # (rows, frames, 2)
    pixel = np.arange(FRAME) + 0.5
    down = np.exp(-((pixel - spot[..., :1]) ** 2) / 4)  # (rows, frames, side)
    across = np.exp(-((pixel - spot[..., 1:]) ** 2) / 4)
    light = 200 * down[..., :, None] * across[..., None, :] + random.uniform(0, 50, (len(digits), FRAMES, FRAME, FRAME))
    return light.clip(0, 255).round().astype(np.uint8)
