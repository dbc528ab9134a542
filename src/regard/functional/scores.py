"""How well a query fits a memory token."""

import torch
from jaxtyping import Float
from torch import Tensor


def additive_scores(
    query: Float[Tensor, "B T A"], memory: Float[Tensor, "B N A"], vector: Float[Tensor, " A"]
) -> Float[Tensor, "B T N"]:
    """`e_tn = vᵀ tanh(q_t + m_n)`, of queries and memory that are already projected (Bahdanau et al. 2015).

    Computed as `tanh(z) = 2 sigmoid(2z) − 1`, whose exponential PyTorch vectorises on CPUs where it does not for tanh.
    """
    gates = torch.sigmoid((2 * query)[:, :, None] + (2 * memory)[:, None])  # (B, T, N, A)
    return gates @ (2 * vector) - vector.sum()  # (B, T, N)


def dot_scores(
    query: Float[Tensor, "B T D"], memory: Float[Tensor, "B N D"], scale: float = 1.0
) -> Float[Tensor, "B T N"]:
    """`e_tn = scale · q_tᵀ m_n` (Luong et al. 2015; with `scale = 1/√D` Vaswani et al. 2017)."""
    return (query * scale) @ memory.transpose(-2, -1)  # (B, T, N)
