"""How well a query fits a memory token."""

import torch
from jaxtyping import Float
from torch import Tensor


def additive_scores(
    query: Float[Tensor, "B T A"], memory: Float[Tensor, "B N A"], vector: Float[Tensor, " A"]
) -> Float[Tensor, "B T N"]:
    """`e_tn = vᵀ tanh(q_t + m_n)`, of queries and memory that are already projected (Bahdanau et al. 2015)."""
    return torch.tanh(query[:, :, None] + memory[:, None]) @ vector  # (B, T, N, A) -> (B, T, N)
