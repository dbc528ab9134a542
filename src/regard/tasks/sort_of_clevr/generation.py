"""Generate scenes and questions with the random numbers of the published generator, in its order.

From seed 1 come the very pictures and questions that the published numbers were measured on: first the 200 of the
test, then 9,800 for training.
"""

from collections.abc import Iterator
from random import Random

import numpy as np
import torch

from regard.tasks.sort_of_clevr.questions import FAMILIES, KINDS, NOWHERE, Questions, ask
from regard.tasks.sort_of_clevr.scenes import OBJECTS, RADIUS, SIDE, Scenes, draw

PER_FAMILY = 10
"""How many questions of each family are asked about a scene."""

_ASKED_TERNARY = 5
"""Ternary questions are about the first five colours: yellow is never asked about."""


def generate(count: int, seed: int, own_nearest_neighbour: bool = False) -> tuple[Scenes, Questions]:
    """Scenes, and about each ten questions of every family: non-relational, relational, ternary.

    A smaller count gives the first of the scenes of a larger one.

    Args:
        count: how many scenes.
        seed: where the random numbers start.
        own_nearest_neighbour: with the published generator's defect, see `questions.answer`.
    """
    # The generator draws places and pairs from NumPy's legacy stream and all else from Python's. Both are frozen.
    places, rest = np.random.RandomState(seed), Random(seed)
    shapes, centres, asked = [], [], []
    for _ in range(count):
        objects = list(_objects(places, rest))
        centres.append([centre for centre, _ in objects])
        shapes.append([shape for _, shape in objects])
        asked.append(list(_questions(places, rest)))
    scenes = draw(
        torch.tensor(shapes, dtype=torch.int64).reshape(count, OBJECTS),
        torch.tensor(centres, dtype=torch.int64).reshape(count, OBJECTS, 2),
    )
    columns = torch.tensor(asked, dtype=torch.int64).reshape(count, len(FAMILIES) * PER_FAMILY, 3).unbind(-1)
    return scenes, ask(scenes, *columns, own_nearest_neighbour=own_nearest_neighbour)


def _objects(places: np.random.RandomState, rest: Random) -> Iterator[tuple[tuple[int, int], int]]:
    """The row and column of each object, away from those before it, and its shape."""
    taken: list[tuple[int, int]] = []
    while len(taken) < OBJECTS:
        column, row = places.randint(RADIUS, SIDE - RADIUS, 2).tolist()
        if all((row - above) ** 2 + (column - left) ** 2 >= (2 * RADIUS) ** 2 for above, left in taken):
            taken.append((row, column))
            yield (row, column), 0 if rest.random() < 0.5 else 1


def _questions(places: np.random.RandomState, rest: Random) -> Iterator[tuple[int, int, int]]:
    """The kind of each question, the object and the second object it is about."""
    for family in range(len(FAMILIES)):
        for _ in range(PER_FAMILY):
            if FAMILIES[family] == "ternary":
                one, other = places.permutation(np.arange(_ASKED_TERNARY))[:2].tolist()
            else:
                one, other = rest.randint(0, OBJECTS - 1), NOWHERE
            yield len(KINDS) // len(FAMILIES) * family + rest.randint(0, 2), one, other
