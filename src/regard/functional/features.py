"""Attention whose weights are products of features: `a_tn = φ(q_t)·φ(k_n) / Σ_m φ(q_t)·φ(k_m)`, in linear time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from regard.functional.precision import at_least_single


def elu_features(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`elu(x) + 1`, positive everywhere (Katharopoulos et al. 2020, equation 7), in at least single precision.

    Below zero it is `exp(x)`, and computed as that: the sum of -1 + tiny and 1 would round to zero.
    """
    x = at_least_single(x)
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())


def feature_read(
    query: Float[Tensor, "B h T f"],
    key: Float[Tensor, "B h N f"],
    value: Float[Tensor, "B h N e"],
    causal: bool = False,
) -> Float[Tensor, "B h T e"]:
    """What `feature_weights` reads from `value`, without forming a pair; zeros where no key has any weight.

    Computed in at least single precision: half does not hold products of features that are summed over the positions.

    Args:
        query: features, none negative.
        key: features, none negative; zeros for a key that takes no part.
        causal: whether query `t` reads the keys `n <= t` alone; then `T = N`.
    """
    query, key = at_least_single(query), at_least_single(key) / key.shape[2]
    read = F.pad(at_least_single(value), (0, 1), value=1.0)  # (B, h, N, e + 1), the last column sums the weights
    sums = causal_product(query, key, read) if causal else query @ (key.transpose(2, 3) @ read)
    return (sums[..., :-1] / sums[..., -1:].clamp_min(smallest(sums))).to(value.dtype)


def feature_weights(
    query: Float[Tensor, "B h T f"], key: Float[Tensor, "B h N f"], mask: Bool[Tensor, "T N"] | None = None
) -> Float[Tensor, "B h T N"]:
    """The weights of features; each row sums to one, or is zero where no key has any weight.

    In at least single precision, as `feature_read` computes.

    Args:
        mask: True = takes part.
    """
    query, key = at_least_single(query), at_least_single(key) / key.shape[2]
    products = query @ key.transpose(2, 3)  # (B, h, T, N)
    if mask is not None:
        products = products.masked_fill(~mask, 0.0)
    return products / products.sum(3, keepdim=True).clamp_min(smallest(products))


def causal_mask(count: int, device: torch.device) -> Bool[Tensor, "count count"]:
    """Query `t` reads the keys `n <= t`."""
    return torch.ones(count, count, dtype=torch.bool, device=device).tril()


def causal_product(
    query: Float[Tensor, "B h N f"], key: Float[Tensor, "B h N f"], value: Float[Tensor, "B h N e"], chunk: int = 64
) -> Float[Tensor, "B h N e"]:
    """`y_t = Σ_{n <= t} (q_t·k_n) v_n`: pairs within a chunk, and one running sum of `k vᵀ` over the chunks before."""
    N = query.shape[2]
    missing = (chunk - N % chunk) % chunk
    query, key, value = (F.pad(part, (0, 0, 0, missing)).unflatten(2, (-1, chunk)) for part in (query, key, value))
    states = key.transpose(3, 4) @ value  # (B, h, chunks, f, e)
    before = F.pad(states[:, :, :-1].cumsum(2), (0, 0, 0, 0, 1, 0))  # of the chunks before each
    within = (query @ key.transpose(3, 4)).tril() @ value  # (B, h, chunks, chunk, e)
    return (within + query @ before).flatten(2, 3)[:, :, :N]


def smallest(like: Tensor) -> float:
    """What a sum of weights is never divided below: far under any that counts, and no zero in this type."""
    return max(1e-12, torch.finfo(like.dtype).tiny)
