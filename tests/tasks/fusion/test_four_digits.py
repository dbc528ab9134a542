"""The generated task: its rule, what each subset of modalities can tell, and its files."""

import csv
import wave
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import chain, combinations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.tasks.digit_scenes.digits import load_digits
from regard.tasks.fusion import RULES, bayes_accuracy, draw, vote_accuracy, write
from regard.tasks.fusion.four_digits import MODALITIES, NAMES, RATE

SUBSETS = list(chain.from_iterable(combinations(MODALITIES, count) for count in range(5)))


def label(rule: str, digits: tuple[int, ...], base: int) -> int:
    return sum(digits) if rule == "sum" else sum(digits) % base


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("base", [2, 3, 4])
def test_the_bayes_accuracy_of_every_subset_is_counted_rightly(rule: str, base: int) -> None:
    for known in SUBSETS:
        best = 0
        for seen in product(range(base), repeat=len(known)):
            labels = Counter(
                label(rule, seen + rest, base) for rest in product(range(base), repeat=len(MODALITIES) - len(known))
            )
            best += max(labels.values())
        assert bayes_accuracy(known, base, rule) == Fraction(best, base**4)


def test_the_figures_that_the_docstring_states() -> None:
    stated = {
        "sum": [Fraction(19, 81), Fraction(7, 27), Fraction(1, 3), Fraction(1, 3), Fraction(1)],
        "modulo": [Fraction(1, 3)] * 4 + [Fraction(1)],
    }
    for rule, figures in stated.items():
        for known in SUBSETS:
            assert bayes_accuracy(known, 3, rule) == figures[len(known)]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_guess_from_the_digits_reaches_the_bayes_accuracy_and_no_more(rule: str) -> None:
    data = draw(1500, 3, rule)
    assert [label(rule, tuple(row), 3) for row in data.digits.tolist()] == data.labels.tolist()
    for known in SUBSETS:
        columns = [MODALITIES.index(name) for name in known]
        by_seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for digits, found in zip(data.digits[:, columns].tolist(), data.labels.tolist(), strict=True):
            by_seen[tuple(digits)][found] += 1
        best = sum(max(labels.values()) for labels in by_seen.values()) / len(data)
        expected = float(bayes_accuracy(known, 3, rule))
        # The best guess of these very rows is a little better than the best guess of all, by chance.
        assert expected - 0.02 < best < expected + 0.07


def test_the_same_seed_gives_the_same_rows_and_another_others() -> None:
    one, same, other, test = draw(7), draw(7), draw(7, seed=1), draw(7, part="test")
    for name in ("digits", "labels", "images", "sounds", "videos"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name)) or name == "labels"
        assert not np.array_equal(getattr(one, name), getattr(test, name)) or name == "labels"
    assert one.texts == same.texts


@pytest.mark.parametrize("base", [2, 3, 4])
def test_each_modality_tells_its_digit_without_doubt(base: int) -> None:
    data = draw(60, base, part="test")
    text, image, audio, video = data.digits.T
    for sentence, digit in zip(data.texts, text, strict=True):
        assert [name for name in NAMES if name in sentence.split()] == [NAMES[digit]]

    training, test = load_digits()
    assert not set(training.numbers) & set(test.numbers)
    for picture, digit in zip(data.images, image, strict=True):
        large = test.images[test.labels == digit].repeat(2, 1).repeat(2, 2) * 255
        windows = np.lib.stride_tricks.sliding_window_view(picture, (16, 16)).reshape(-1, 256).astype(np.float32)
        wanted = large.reshape(-1, 256)
        gap = ((wanted[:, None] > 80) & (windows[None] < wanted[:, None] - 1)).any(2)
        assert not gap.all()  # somewhere one of the test part's digits of that class stands in full

    spectrum = np.abs(np.fft.rfft(data.sounds, axis=1))
    assert (spectrum.argmax(1) * RATE / data.sounds.shape[1] == 250 * 2.0**audio).all()

    light = (data.videos.astype(float) - 100).clip(0)
    total = light.sum((2, 3))
    place = np.stack(
        [(light.sum(3) * np.arange(24)).sum(2) / total, (light.sum(2) * np.arange(24)).sum(2) / total], 2
    )  # down, across
    move = place[:, -1] - place[:, 0]
    angle = np.arctan2(-move[:, 0], move[:, 1])
    assert (np.round(angle * base / (2 * np.pi)).astype(int) % base == video).all()


def test_it_is_written_as_files_and_a_table(tmp_path: Path) -> None:
    data = draw(3)
    path = write(data, tmp_path / "task")
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*MODALITIES, "label"]
    assert [row["text"] for row in rows] == data.texts
    assert [int(row["label"]) for row in rows] == data.labels.tolist()
    for number, row in enumerate(rows):
        assert np.array_equal(np.asarray(Image.open(path.parent / row["image"])), data.images[number])
        with wave.open(str(path.parent / row["audio"])) as file:
            assert file.getframerate() == RATE
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
        np.testing.assert_allclose(sound, data.sounds[number], atol=2e-5)
        frames = sorted((path.parent / row["video"]).iterdir())
        assert np.array_equal(np.stack([np.asarray(Image.open(frame)) for frame in frames]), data.videos[number])


def test_what_there_is_not_is_refused(unchecked_shapes: None) -> None:
    with pytest.raises(ValueError, match="base=5: choose 2 to 4"):
        draw(3, base=5)
    with pytest.raises(ValueError, match="no rule 'product': choose one of sum, modulo"):
        bayes_accuracy([], rule="product")
    with pytest.raises(ValueError, match=r"\['smell'\] are none of the modalities"):
        bayes_accuracy(["smell"])
    with pytest.raises(ValueError, match="part='exam'"):
        draw(3, part="exam")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("base", "rule", "accuracies"),
    [(2, "sum", [3 / 8, 7 / 16, 7 / 16, 3 / 8]), (2, "modulo", [1 / 2] * 4), (3, "modulo", [1 / 3] * 4)],
)
def test_the_vote_of_the_best_classifiers_hardly_does_better_than_chance(
    base: int, rule: str, accuracies: list[float]
) -> None:
    for count, expected in zip((4, 3, 2, 1), accuracies, strict=True):
        assert float(vote_accuracy(MODALITIES[:count], base, rule)) == pytest.approx(expected)


def test_the_counted_vote_is_that_of_a_simulation() -> None:
    random = np.random.default_rng(7)
    digits = random.integers(0, 3, (40_000, 4))
    others = np.convolve(np.convolve(np.ones(3), np.ones(3)), np.ones(3)) / 27  # of the sum of three digits
    likely = np.zeros((40_000, 9))
    for m in range(4):
        for digit in range(3):
            likely[digits[:, m] == digit, digit : digit + 7] += others
    likely += 1e-9 * random.normal(size=likely.shape)  # ties go either way
    right = (likely.argmax(1) == digits.sum(1)).mean()
    assert abs(right - float(vote_accuracy(MODALITIES, 3))) < 0.01
    assert vote_accuracy(MODALITIES, 3) < bayes_accuracy(MODALITIES, 3)


def test_the_equal_weights_of_the_counted_vote_are_the_best() -> None:
    """The likelihood of the true label under any other weights is lower."""
    digits = np.array(list(np.ndindex(2, 2, 2, 2)))
    others = np.array([1, 3, 3, 1]) / 8
    likely = np.stack([[others[s] if 0 <= s < 4 else 0.0 for s in digits.sum(1) - digits[:, m]] for m in range(4)], 1)
    best = np.log(likely @ np.full(4, 0.25)).mean()
    for weights in np.random.default_rng(1).dirichlet(np.ones(4), 200):
        with np.errstate(divide="ignore"):
            assert np.log(likely @ weights).mean() <= best
