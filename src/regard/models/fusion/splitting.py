"""Rows for training, for stopping early, and for what a fusion settles."""

from collections.abc import Sequence
from typing import Any

import torch

from regard.errors import UserError


def split(
    rows: Sequence[int], strata: Sequence[Any], shares: tuple[float, float], seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Rows to train on, and these two shares of all rows, each with nearly the same part of every stratum.

    Args:
        rows: those to split.
        strata: of every row its own, by which the rows are sorted first: see `Outcome.strata`.
        shares: of the two parts that are held out; of a share that is not zero the part has at least one row.

    Raises:
        UserError: the shares leave nothing to train on, or are none.
    """
    if not 0 < shares[0] < 1 or not 0 <= shares[1] < 1 or sum(shares) >= 1:
        raise UserError(f"held_out={shares[0]} leaves no rows to train on, or holds none out: choose one such as 0.15")
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    by_stratum = sorted((rows[index] for index in shuffled), key=lambda row: strata[row])
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    counts = [0, 0]
    for place, row in enumerate(by_stratum):
        for part, share in enumerate(shares):
            if share and counts[part] < share * (place + 0.5):  # each part keeps up with its share of what has passed
                counts[part] += 1
                parts[part + 1].append(row)
                break
        else:
            parts[0].append(row)
    if not parts[0] or not parts[1] or (shares[1] and not parts[2]):
        raise UserError(f"{len(rows)} rows that can be read are too few to train on and to hold out from: give more")
    return parts
