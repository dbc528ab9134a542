"""Attention of every position to the lines through it, one along each axis of its map."""

import torch
from jaxtyping import Float
from torch import Tensor

from regard.functional.precision import at_least_single
from regard.functional.weights import masked_softmax


def line_weights(
    query: Float[Tensor, "B *spatial d"], key: Float[Tensor, "B *spatial d"]
) -> tuple[Float[Tensor, "B ..."], ...]:
    """Softmax of `q_u · k_i` over all lines through `u` together, in which `u` itself counts once.

    Gives:
        for each axis of length `L` a `(B, *spatial, L)`: the weights of the positions along it, of which all but the
        last hold a zero where `u` itself lies.
    """
    dtype, rank = query.dtype, query.ndim - 2
    query, key = at_least_single(query), at_least_single(key)  # half does not hold the products of large vectors
    scores, others = [], []
    for axis in range(1, rank + 1):
        along = query.movedim(axis, -2) @ key.movedim(axis, -2).transpose(-2, -1)  # (B, *rest, L, L)
        scores.append(along.movedim(-2, axis))  # (B, *spatial, L)
        length = query.shape[axis]
        other = torch.ones(length, length, dtype=torch.bool, device=query.device)
        if axis < rank:
            other = ~torch.eye(length, dtype=torch.bool, device=query.device)
        others.append(_between(other, axis, rank).expand(*query.shape[1:-1], length))
    weights = masked_softmax(torch.cat(scores, -1), torch.cat(others, -1)).to(dtype)  # (B, *spatial, ΣL)
    return weights.split([query.shape[axis] for axis in range(1, rank + 1)], -1)


def line_read(
    weights: tuple[Float[Tensor, "B ..."], ...], value: Float[Tensor, "B *spatial e"]
) -> Float[Tensor, "B *spatial e"]:
    """What every position reads from the lines through it: `Σ_i a_ui v_i`."""
    parts = [
        (along.movedim(axis, -2) @ value.movedim(axis, -2)).movedim(-2, axis)  # (B, *spatial, e)
        for axis, along in enumerate(weights, start=1)
    ]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def line_map(weights: tuple[Float[Tensor, "B ..."], ...]) -> Float[Tensor, "B N N"]:
    """The same weights over all positions of the map, row by row, with zeros off the lines."""
    spatial = weights[0].shape[1:-1]
    rank = len(spatial)
    total = weights[0].new_zeros(())
    for axis, along in enumerate(weights):
        dense = along.reshape(*along.shape[:-1], *(spatial[axis] if other == axis else 1 for other in range(rank)))
        for other in range(rank):
            if other != axis:
                own = torch.eye(spatial[other], dtype=along.dtype, device=along.device)
                shape = [1] * (2 * rank)
                shape[other] = shape[rank + other] = spatial[other]
                dense = dense * own.reshape(shape)
        total = total + dense  # (B, *spatial, *spatial)
    return total.flatten(1, rank).flatten(2)


def _between(square: Tensor, axis: int, rank: int) -> Tensor:
    """Its first dimension at `axis` of a map, its second behind the map's `rank` axes."""
    return square.reshape(*(square.shape[0] if other == axis else 1 for other in range(1, rank + 1)), -1)
