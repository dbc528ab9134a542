"""What many threads do at once, for tests of what they share.

What a single thread gets, one after the other, is the oracle: all must be equal to the last bit.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

import torch

from regard.watching import AttentionMap

THREADS, EACH = 8, 50

Result = TypeVar("Result")


def at_once(do: Callable[[int], Result], count: int = THREADS * EACH) -> list[Result]:
    """What `do` gives for each number; each of several threads has as many, and all begin together."""
    begin, each = Barrier(THREADS), count // THREADS

    def some(thread: int) -> list[Result]:
        begin.wait(timeout=60)
        return [do(number) for number in range(thread * each, (thread + 1) * each)]

    with _eager_to_switch(), ThreadPoolExecutor(THREADS) as pool:
        return [one for part in pool.map(some, range(THREADS)) for one in part]


def alike(one: Sequence[AttentionMap], other: Sequence[AttentionMap]) -> bool:
    """Whether these are the same maps, to the last bit."""

    def facts(maps: Sequence[AttentionMap]) -> list[tuple[Any, ...]]:
        return [(x.module, x.label, x.call, x.axes, x.grid, x.extra_tokens) for x in maps]

    same = facts(one) == facts(other)
    return same and all(torch.equal(x.values, y.values) for x, y in zip(one, other, strict=True))


@contextmanager
def _eager_to_switch() -> Iterator[None]:
    """Threads take turns twenty times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 20)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
