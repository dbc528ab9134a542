"""Reading one place instead of the mean of all: draws, their log-probabilities, and the loss that trains them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.functional.weights import masked_softmax


def masked_log_softmax(
    scores: Float[Tensor, "*shape"], mask: Bool[Tensor, "..."] | None = None, dim: int = -1
) -> Float[Tensor, "*shape"]:
    """The logarithm of `masked_softmax`, with 0 instead of -∞ wherever the mask leaves something out.

    Args:
        scores: any shape.
        mask: True = takes part; broadcasts to the shape of `scores`.
        dim: the axis over which the probabilities sum to one.
    """
    if mask is None:
        return scores.log_softmax(dim)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.log_softmax(dim).masked_fill(~mask, 0.0)


def standard_exponential(like: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Positive draws from the exponential distribution of rate 1, in at least single precision."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.empty_like(like, dtype=dtype).exponential_().clamp_min(torch.finfo(dtype).tiny)


def gumbel_softmax(
    scores: Float[Tensor, "*rows N"], mask: Bool[Tensor, "..."] | None = None, temperature: float = 1.0
) -> Float[Tensor, "*rows N"]:
    """`softmax((scores + G) / temperature)` with Gumbel noise `G`, whose argmax is a draw from `softmax(scores)`.

    Paper: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017; Maddison, Mnih, Teh, "The
    Concrete Distribution", ICLR 2017.

    Args:
        scores: any shape; the softmax is over the last axis.
        mask: True = takes part; broadcasts to the shape of `scores`. A row without anything gives zeros.
        temperature: positive; default 1. The lower, the closer to the draw.
    """
    noise = -standard_exponential(scores).log()
    return masked_softmax((scores + noise.to(scores.dtype)) / temperature, mask)


def draw(weights: Float[Tensor, "*rows N"]) -> Int[Tensor, "*rows"]:
    """One index a row, index `n` with probability `weights_n`; of a row of zeros, index 0.

    It is the winner of an exponential race: `argmax_n weights_n / E_n` with `E_n` standard exponential.
    """
    return (weights / standard_exponential(weights)).argmax(-1)


def score_function_loss(
    log_probability: Float[Tensor, "*shape"],
    reward: Float[Tensor, "..."],
    baseline: Float[Tensor, "..."] | float = 0.0,
    entropy: Float[Tensor, "..."] | None = None,
    entropy_weight: float = 0.0,
) -> Float[Tensor, ""]:
    """The loss whose gradient is that of the expected reward of sampled choices, with a minus sign (REINFORCE).

        loss = mean of -(reward - baseline) · log p(choice) - entropy_weight · entropy

    Paper: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
    Machine Learning 1992; for attention Xu et al., ICML 2015, section 4.1.

    Args:
        log_probability: of the choices, any shape, such as `(batch, query)`.
        reward: what each choice earned; broadcasts to `log_probability`. No gradient flows through it.
        baseline: what was expected; any value that does not depend on the choice leaves the gradient's mean as it is.
        entropy: of the distributions drawn from; broadcasts to `log_probability`.
        entropy_weight: how much a higher entropy is worth; default 0. The paper's released code has 0.002.
    """
    if entropy is None and entropy_weight != 0.0:
        raise ValueError("score_function_loss got an entropy_weight but no entropy: give both.")
    advantage = reward - baseline
    loss = -(advantage.detach() * log_probability)
    if entropy is not None:
        loss = loss - entropy_weight * entropy
    return loss.mean()
