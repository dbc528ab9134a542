"""From scores to weights, and from weights to what is read with them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from regard.functional.precision import at_least_single


def masked_softmax(
    scores: Float[Tensor, "*shape"], mask: Bool[Tensor, "..."] | None = None, dim: int = -1
) -> Float[Tensor, "*shape"]:
    """Softmax over what takes part; a row with nothing to attend to gives zeros, and zero gradients, never NaN.

    Args:
        scores: any shape.
        mask: True = takes part; broadcasts to the shape of `scores`.
        dim: the axis that sums to one.
    """
    if mask is None:
        return scores.softmax(dim)
    # The lowest finite number, not -inf: a row of -inf alone has an undefined softmax and a NaN gradient.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim).masked_fill(~mask, 0.0)


def mask_tokens(tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B #T N"] | None = None) -> Float[Tensor, "B N D"]:
    """Return the tokens with zeros in the place of those that no query reads, which may hold NaN and infinities.

    A weight of zero does not shut them out: zero times NaN is NaN, in the output and in the gradients. With a mask of a
    row for each query, what some queries read still reaches the others so: `exclude_nonfinite` keeps it from them.

    Args:
        mask: True = takes part; a row a query, or one for all. Default None: all take part.
    """
    return tokens if mask is None else tokens.masked_fill(~_some(mask, 1)[:, :, None], 0.0)


def mask_nonfinite(
    tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B #T N"] | None = None
) -> Float[Tensor, "B N D"]:
    """Return the tokens with zeros for what is NaN or infinite in those that no query reads.

    Where tokens are queries as well, those that nobody reads still ask, and keep whatever is finite.

    Args:
        mask: as of `mask_tokens`.
    """
    return tokens if mask is None else tokens.masked_fill(~_some(mask, 1)[:, :, None] & ~tokens.isfinite(), 0.0)


def exclude_nonfinite(
    tokens: Float[Tensor, "B N D"], mask: Bool[Tensor, "B #T N"] | None = None, queries: bool = False
) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B T 1"] | None]:
    """Return the tokens to read under the mask, and the queries whose result is undefined.

    With a mask of a row for each query, what is NaN or infinite is zero in all tokens, and a query that reads such a
    token has no defined result: `mark_undefined` makes it NaN, and leaves those of all other queries as they are. With
    one row for all, the queries read the same tokens: only those that nobody reads are changed, and NaN that is read
    reaches every result by itself.

    A finite number so large that a projection of it overflows is not recognised, where some query reads it.

    Args:
        mask: as of `mask_tokens`.
        queries: whether the tokens are the queries as well. Then the result of a token that is not finite and that some
            query reads is undefined too, and one that nobody reads keeps what is finite, as in `mask_nonfinite`.
    """
    if mask is None or mask.shape[1] == 1:
        return mask_nonfinite(tokens, mask) if queries else mask_tokens(tokens, mask), None
    nonfinite = _nonfinite(tokens)  # (B, N)
    undefined = reads_some(nonfinite, mask)  # (B, T, 1)
    read = _some(mask, 1)  # (B, N)
    if queries:
        return tokens.masked_fill(~tokens.isfinite(), 0.0), undefined | (nonfinite & read)[:, :, None]
    return tokens.masked_fill((nonfinite | ~read)[:, :, None], 0.0), undefined


def exclude_nonfinite_causal(
    tokens: Float[Tensor, "B N D"],
) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N 1"]]:
    """Return what `exclude_nonfinite` does where a token reads itself and those before it; no pairs are formed.

    Args:
        tokens: those that nobody reads have nothing that is NaN or infinite any more, see `mask_nonfinite`.
    """
    nonfinite = _nonfinite(tokens)  # (B, N)
    return tokens.masked_fill(~tokens.isfinite(), 0.0), nonfinite.cumsum(1)[:, :, None] > 0


def reads_some(chosen: Bool[Tensor, "B N"], mask: Bool[Tensor, "B #T N"]) -> Bool[Tensor, "B #T 1"]:
    """Whether a query reads at least one of the chosen tokens.

    Args:
        mask: True = takes part.
    """
    return _some(mask & chosen[:, None], 2)[:, :, None]


def mark_undefined(
    context: Float[Tensor, "B #T D"], undefined: Bool[Tensor, "B #T 1"] | None
) -> Float[Tensor, "B #T D"]:
    """Return what was read with NaN for the queries whose result is undefined, as `exclude_nonfinite` tells them.

    NaN is added, not put in the place: a loss that takes in an undefined result gets gradients of NaN, as it would
    without a mask, and is not taken for one that is fine.
    """
    if undefined is None:
        return context
    return context + context.new_zeros(undefined.shape).masked_fill(undefined, torch.nan)


def _nonfinite(tokens: Float[Tensor, "B N D"]) -> Bool[Tensor, "B N"]:
    """Return which tokens hold NaN or infinity: zero times one of them is NaN."""
    return (tokens.detach() * 0).sum(-1).isnan()


def _some(mask: Bool[Tensor, "..."], dim: int) -> Bool[Tensor, "..."]:
    """`mask.any(dim)`, which of booleans takes several times as long on a CPU as the maximum of bytes."""
    return mask.to(torch.uint8).amax(dim) > 0


def read(weights: Float[Tensor, "B T N"], memory: Float[Tensor, "B N D"]) -> Float[Tensor, "B T D"]:
    """The expectation of the memory under the weights, in its type: `context_t = Σ_n weights_tn memory_n`."""
    return torch.bmm(weights.to(memory.dtype), memory)


def scaled_dot_product_weights(
    query: Float[Tensor, "B h T d"],
    key: Float[Tensor, "B h N d"],
    mask: Bool[Tensor, "B #h #T N"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B h T N"]:
    """`softmax(query keyᵀ · scale)`: the map that `scaled_dot_product_attention` uses and does not show.

    Args:
        mask: True = takes part.
        scale: `1/√d` unless given (Vaswani et al. 2017).
    """
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    scores = at_least_single(query) @ at_least_single(key).transpose(-2, -1) * factor  # (B, h, T, N)
    return masked_softmax(scores, mask).to(query.dtype)


def scaled_dot_product_attention(
    query: Float[Tensor, "B h T d"],
    key: Float[Tensor, "B h N d"],
    value: Float[Tensor, "B h N e"],
    mask: Bool[Tensor, "B #h #T N"] | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Float[Tensor, "B h T e"]:
    """`softmax(query keyᵀ · scale) value` in PyTorch's fused kernel; a fully masked row gives zeros.

    Args:
        mask: True = takes part.
        dropout: probability of dropping a weight; the caller passes 0 outside training.
        scale: `1/√d` unless given.
    """
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scale)
    # The kernels differ in what they do with a row that is wholly masked: let it attend to everything, then zero it.
    some = mask.any(-1, keepdim=True)  # (B, #h, #T, 1)
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask | ~some, dropout_p=dropout, scale=scale)
    return context.masked_fill(~some, 0.0)


def doubly_stochastic_penalty(
    weights: Float[Tensor, "B T N"],
    mask: Bool[Tensor, "B N"] | None = None,
    queries: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, ""]:
    """`Σ_n (1 − Σ_t a_tn)²`, mean over the batch: asks that all queries together read every token about once.

    Paper: Xu et al., "Show, Attend and Tell", ICML 2015, section 4.2.1; its λ is the caller's factor.

    Args:
        weights: of every query over the memory, as `ShowAttendTell` offers them.
        mask: the tokens that take part; the others need not be read.
        queries: the queries that take part; the others, steps behind a caption's end, read nothing.
    """
    if queries is not None:
        weights = weights * queries[:, :, None]  # (B, T, N)
    missing = (1 - weights.sum(1)).square()  # (B, N)
    return (missing if mask is None else missing * mask).sum(1).mean()
