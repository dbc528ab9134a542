"""What the tests of reads share: masks of every kind, and a query, memory and mask for those of fusions."""

import pytest
from oracle import draw, draw_mask

B, T, N, Q, M = 2, 3, 5, 6, 7  # of the fusions

masked = pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
every_mask = pytest.mark.parametrize("which", ["none", "shared", "single"])
every_mask_and_nothing = pytest.mark.parametrize("which", ["none", "shared", "single", "nothing"])


def make_mask(which, batch=B, queries=T, tokens=N):
    """None, one for all queries, one for each ("single"), or one of which the second example sees nothing."""
    if which == "none":
        return None
    mask = draw_mask((batch, queries, tokens) if which == "single" else (batch, tokens))
    mask[0, 0] = False  # of a shared mask one token; of single masks all that the first query may read
    if which == "nothing":
        mask[1] = False
    return mask


def make(which):
    """Query, memory and mask."""
    return draw((B, T, Q)), draw((B, N, M)).flip(1), make_mask(which)


def allowed(mask, b, t, tokens=N):
    """Whether each token takes part in the row of this query."""
    return [True] * tokens if mask is None else (mask[b] if mask.ndim == 2 else mask[b, t]).tolist()


def pairs(mask, b):
    """Whether each pair of query and token takes part."""
    return [allowed(mask, b, t) for t in range(T)]
