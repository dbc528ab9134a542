"""Scores that depend on how far apart two positions of a map lie."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regard.functional.precision import at_least_single


def relative_scores(
    query: Float[Tensor, "B h N d"], tables: Sequence[Float[Tensor, "..."]], spatial: Sequence[int]
) -> Float[Tensor, "B h N N"]:
    """`Σ_axis q_i · r^axis_{j - i}`: a table of vectors for the offsets along each axis of the map.

    In at least single precision, as `dot_scores` are.

    Args:
        query: of the positions of the map, row by row.
        tables: for each axis `(2R - 1, d)`, or `(h, 2R - 1, d)`: the vectors for the offsets `1 - R` to `R - 1`.
            Offsets that are farther read the first or the last of them (Shaw et al. 2018 clip in this way).
        spatial: the sizes of the map.
    """
    rank = len(spatial)
    query = at_least_single(query)
    position = torch.arange(query.shape[2], device=query.device)
    total = query.new_zeros(())
    for axis in reversed(range(rank)):  # the last axis runs fastest
        length = spatial[axis]
        reach = (tables[axis].shape[-2] + 1) // 2
        coordinate = position % length
        position = position // length
        offset = torch.arange(length, device=query.device) - coordinate[:, None]  # (N, L)
        row = offset.clamp(1 - reach, reach - 1) + reach - 1  # (N, L)
        along = query @ at_least_single(tables[axis]).transpose(-2, -1)  # (B, h, N, 2R - 1)
        scores = along.gather(3, row.expand(*query.shape[:3], length))  # (B, h, N, L)
        total = total + scores.unflatten(3, [length if other == axis else 1 for other in range(rank)])
    return total.flatten(3)  # (B, h, N, N)


def sinusoids(length: int, pairs: int, like: Float[Tensor, "..."]) -> Float[Tensor, "2*{length}-1 2*{pairs}"]:
    """Sines and cosines of the offsets `1 - length` to `length - 1`, at wave lengths from 2π to 2π·10,000.

    Paper: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5: `offset / 10000^(i / pairs)`.

    Args:
        like: gives the device and the type.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    offset = torch.arange(1 - length, length, device=like.device).to(dtype)  # (2 length - 1,)
    frequency = 10000.0 ** -(torch.arange(pairs, device=like.device).to(dtype) / pairs)  # (pairs,)
    angle = offset[:, None] * frequency  # (2 length - 1, pairs)
    return torch.cat((angle.sin(), angle.cos()), dim=1).to(like.dtype)
