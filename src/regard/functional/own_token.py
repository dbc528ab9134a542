"""A token that reads others and itself along with them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.functional.precision import at_least_single
from regard.functional.weights import masked_softmax


def own_token_weights(
    query: Float[Tensor, "B h T d"],
    key: Float[Tensor, "B h N d"],
    own_key: Float[Tensor, "B h T d"],
    mask: Bool[Tensor, "B #h #T N"] | None = None,
) -> tuple[Float[Tensor, "B h T N"], Float[Tensor, "B h T 1"]]:
    """`softmax(q_t · [k_1; ...; k_N; own_t] / √d)`: the weights of the others, and of the token itself; one in all.

    Args:
        own_key: the key of the very token that each query comes from.
        mask: which others take part; where none does, the token itself has no weight either.
    """
    scaled = at_least_single(query * query.shape[-1] ** -0.5)  # half does not hold the products
    own = (scaled * own_key).sum(-1, keepdim=True)  # (B, h, T, 1)
    scores = torch.cat((scaled @ at_least_single(key).transpose(-2, -1), own), dim=-1)  # (B, h, T, N + 1)
    if mask is not None:
        mask = torch.cat((mask, mask.any(-1, keepdim=True)), dim=-1)  # (B, #h, #T, N + 1)
    weights = masked_softmax(scores, mask).to(query.dtype)
    return weights[..., :-1], weights[..., -1:]


def masked_mean(tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B #T N"] | None = None) -> Float[Tensor, "B #T D"]:
    """The mean of the tokens that take part, a row for each of the mask's (one without a mask); of none it is zero."""
    if mask is None:
        return tokens.mean(1, keepdim=True)
    shares = mask.to(tokens.dtype) / mask.sum(-1, keepdim=True).clamp_min(1)  # (B, #T, N)
    return torch.bmm(shares, tokens)
