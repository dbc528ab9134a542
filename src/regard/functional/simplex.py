"""From scores to sparse weights: projections onto the simplex that give exact zeros."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def entmax(
    scores: Float[Tensor, "*shape"],
    alpha: float,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*shape"]:
    """`p = [(α - 1) z - τ]₊^(1 / (α - 1))` over the last axis, with the `τ` at which it sums to one.

    For α = 2 it is sparsemax (Martins and Astudillo 2016, algorithm 1), for 1.5 1.5-entmax (Peters et al. 2019,
    algorithm 2), both exact, by sorting. A row with nothing to attend to gives zeros, and zero gradients.

    Args:
        scores: any shape; computed in at least single precision.
        alpha: α, 1.5 or 2.
        mask: True = takes part; broadcasts to the shape of `scores`.
    """
    z = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        z = z.masked_fill(~mask, torch.finfo(z.dtype).min)
    # τ lies within one below the highest: what is lower has no weight, and must not overflow in a sum of squares.
    z = ((alpha - 1) * (z - z.detach().amax(-1, keepdim=True))).clamp_min(-1)
    with torch.no_grad():
        threshold = _threshold(z, alpha)
        distance = (z - threshold).clamp_min(0)
        slope = distance if alpha == 1.5 else (distance > 0).to(z.dtype)  # p^(2 - α), how fast p follows z
        share = slope / slope.sum(-1, keepdim=True)
    threshold = threshold + (share * (z - z.detach())).sum(-1, keepdim=True)  # adds zero; carries the gradient of τ
    p = (z - threshold).clamp_min(0)
    p = (p.square() if alpha == 1.5 else p).to(scores.dtype)
    return p if mask is None else p.masked_fill(~mask, 0.0)


def _threshold(z: Float[Tensor, "*rows N"], alpha: float) -> Float[Tensor, "*rows 1"]:
    """`τ` of every row, from the candidates of the k highest scores for every k."""
    ordered = z.sort(-1, descending=True).values
    count = torch.arange(1, z.shape[-1] + 1, device=z.device).to(z.dtype)
    mean = ordered.cumsum(-1) / count
    if alpha == 2:
        candidates = mean - 1 / count
    else:
        variance = ordered.square().cumsum(-1) / count - mean.square()
        candidates = mean - (1 / count - variance).clamp_min(0).sqrt()
    support = (candidates <= ordered).sum(-1, keepdim=True).clamp_min(1)
    return candidates.gather(-1, support - 1)
