"""The handwritten digits that the scenes are made of."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

SIDE = 8
"""Side of a digit, in pixels."""


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: `images` in 0..1 and their `labels`, and which scikit-learn `numbers` they have."""

    images: Float[np.ndarray, "count 8 8"]
    labels: Int[np.ndarray, " count"]
    numbers: Int[np.ndarray, " count"]


@cache
def load_digits() -> tuple[Digits, Digits]:
    """The digits for training scenes and those for test scenes; no image is in both.

    scikit-learn's `load_digits` holds 1,797 digits of 8 x 8 pixels (Alpaydin and Kaynak, UCI 1998). A digit whose
    nearest neighbour among all the others carries another label is left out of both parts, because people could argue
    about what it is. Of the rest every fourth one of each class is for test scenes.
    """
    from sklearn import datasets
    from sklearn.neighbors import NearestNeighbors

    flat, labels = datasets.load_digits(return_X_y=True)
    flat, labels = np.asarray(flat, np.float32) / 16, np.asarray(labels, np.int64)
    images = flat.reshape(-1, SIDE, SIDE)
    neighbour = NearestNeighbors(n_neighbors=2).fit(flat).kneighbors(flat, return_distance=False)[:, 1]
    clear = labels == labels[neighbour]
    numbers = np.arange(len(labels))
    test = np.zeros_like(clear)
    for label in range(10):
        test[np.flatnonzero(clear & (labels == label))[3::4]] = True
    parts = [Digits(images[part], labels[part], numbers[part]) for part in (clear & ~test, clear & test)]
    return parts[0], parts[1]
