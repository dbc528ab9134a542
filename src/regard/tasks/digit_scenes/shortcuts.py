"""What can be answered without looking properly: every accuracy is to be read beside these."""

import numpy as np
from jaxtyping import Bool, Int

from regard.tasks.digit_scenes.questions import ANSWERS, FAMILIES, NUMBERS, Questions
from regard.tasks.digit_scenes.scenes import ABSENT, COLOURS, Scenes

BLIND = "the most frequent answer to a question"
CONTENTS = "the digits and the colours of a scene, without which belongs to which and where they are"


def blind(training: Questions, test: Questions) -> Bool[np.ndarray, "scenes questions"]:
    """Which test questions are answered right by the most frequent answer to the same question in training."""
    length = test.words.shape[2]
    both = np.concatenate([training.words.reshape(-1, length), test.words.reshape(-1, length)])
    _, kinds = np.unique(both, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    learned, asked = kinds[: training.answers.size], kinds[training.answers.size :]
    votes = np.zeros((kinds.max() + 1, len(ANSWERS)), np.int64)
    np.add.at(votes, (learned, training.answers.ravel()), 1)
    return votes.argmax(1)[asked].reshape(test.answers.shape) == test.answers


def contents(scenes: Scenes, questions: Questions) -> Bool[np.ndarray, "scenes questions"]:
    """Which questions are answered right by whoever knows what a scene has, but not where.

    A count is then known; a digit or a colour is guessed to be the one that the scene has most often.
    """
    number = _most_frequent(scenes.labels, len(NUMBERS))[:, None]
    colour = len(NUMBERS) + _most_frequent(scenes.colours, len(COLOURS))[:, None]
    guessed = np.where(questions.answers < len(NUMBERS), number, colour)
    return (guessed == questions.answers) | (questions.families == FAMILIES.index("count"))


def _most_frequent(kinds: Int[np.ndarray, "scenes objects"], count: int) -> Int[np.ndarray, " scenes"]:
    """The kind that most objects of a scene have; the first of several."""
    there = (kinds[:, :, None] == np.arange(count)) & (kinds != ABSENT)[:, :, None]
    return there.sum(1).argmax(1)
