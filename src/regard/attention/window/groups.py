"""How mechanisms of groups show the weights of all their groups."""

from jaxtyping import Float, Int
from torch import Tensor

from regard.attention.offering import Request


def over_map(
    request: Request,
    weights: Float[Tensor, "B G h P K"],
    queries: Int[Tensor, "G P"],
    keys: Int[Tensor, "*#B #G #P K"],
    positions: int,
) -> Float[Tensor, "B heads T N"]:
    """The weights of groups as rows over the whole map: a query's weight of a position outside of its group is zero.

    Args:
        request: which heads and queries.
        weights: of every group's queries over its keys.
        queries: which position of the map each query is; every position is one query, and -1 is none.
        keys: which position of the map each key is, in all images alike or in each; one that is none has no weight.
        positions: `N`, how many positions the map has.
    """
    order = queries.flatten().argsort()[-positions:]  # where each position is among the queries
    rows = order if request.queries is None else order[list(request.queries)]
    weights = request.pick(weights, heads=2).transpose(1, 2).flatten(2, 3)[:, :, rows]  # (B, heads, T, K)
    keys = keys.expand(*keys.shape[:-3], *queries.shape, -1).flatten(-3, -2)[..., rows, :]  # (T, K) or (B, T, K)
    dense = weights.new_zeros(*weights.shape[:3], positions)
    return dense.scatter_add(3, keys.clamp_min(0).unsqueeze(-3).expand_as(weights), weights)


def read_over_map(weights: Float[Tensor, "B h T N"], value: Float[Tensor, "B N C"]) -> Float[Tensor, "B T C"]:
    """What the heads read side by side with weights over the whole map, whatever groups its positions are in."""
    return (weights @ value.unflatten(2, (weights.shape[1], -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
