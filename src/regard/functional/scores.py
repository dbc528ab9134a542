"""How well a query fits a memory token."""

import torch
from jaxtyping import Float
from torch import Tensor

from regard.functional.precision import at_least_single


def additive_scores(
    query: Float[Tensor, "B T A"], memory: Float[Tensor, "B N A"], vector: Float[Tensor, " A"]
) -> Float[Tensor, "B T N"]:
    """`e_tn = vᵀ tanh(q_t + m_n)`, of queries and memory that are already projected (Bahdanau et al. 2015).

    Computed as `tanh(z) = 2 sigmoid(2z) − 1`, whose exponential PyTorch vectorises on CPUs where it does not for tanh.
    """
    gates = torch.sigmoid((2 * query)[:, :, None] + (2 * memory)[:, None])  # (B, T, N, A)
    return gates @ (2 * vector) - vector.sum()  # (B, T, N)


def dot_scores(
    query: Float[Tensor, "*#lead T D"], memory: Float[Tensor, "*#lead N D"], scale: float = 1.0
) -> Float[Tensor, "*lead T N"]:
    """`e_tn = scale · q_tᵀ m_n` (Luong et al. 2015; with `scale = 1/√D` Vaswani et al. 2017).

    In at least single precision: half does not hold the products of large vectors.
    """
    return (at_least_single(query) * scale) @ at_least_single(memory).transpose(-2, -1)
