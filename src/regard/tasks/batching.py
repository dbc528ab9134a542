"""The batches of an epoch, of which threads prepare the next one while one is used."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from regard.models.decoding import WORKERS

Item = TypeVar("Item")
View = TypeVar("View")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Epoch(Generic[Item, View, Batch]):
    """The batches of one epoch; threads prepare the next one while one is used.

    Attributes:
        parts: what is in each batch, such as pictures by their index.
        view: what of an item is seen; called in several threads.
        collate: the batch of such views.
    """

    parts: Sequence[Sequence[Item]]
    view: Callable[[Item], View]
    collate: Callable[[Sequence[Item], list[View]], Batch]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(WORKERS) as pool:
            coming: list[Future[View]] = []
            for at, part in enumerate(self.parts):
                now = coming or [pool.submit(self.view, item) for item in part]
                coming = [pool.submit(self.view, item) for item in (self.parts[at + 1 : at + 2] or [[]])[0]]
                yield self.collate(part, [future.result() for future in now])


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Items in batches of that size, the last one perhaps smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def in_random_batches(items: Sequence[Item], size: int, seed: int) -> list[Sequence[Item]]:
    """Items in random order in batches of at most that size, alike in size, so that none holds a single item."""
    order = np.random.default_rng([*b"batches", seed]).permutation(len(items))
    parts = np.array_split(order, max(1, -(-len(items) // size)))
    return [[items[place] for place in part] for part in parts]


def batches_of(items: int, size: int) -> int:
    """How many batches of training so many items make.

    Where one is left over it is left out: batch normalisation cannot learn from a single one.
    """
    full, rest = divmod(items, size)
    return full + (rest > 0 and (rest > 1 or full == 0))
