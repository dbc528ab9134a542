"""A matrix as a product of two smaller ones."""

import torch
from jaxtyping import Float
from torch import Tensor


def nonnegative_factors(
    x: Float[Tensor, "B d N"], bases: Float[Tensor, "B d R"], steps: int, one_step: bool = False
) -> tuple[Float[Tensor, "B d R"], Float[Tensor, "B R N"]]:
    """Bases `D` and codes `C`, both nonnegative, of which the product comes near to `x`.

        C ← C · (Dᵀ X) / (Dᵀ D C)
        D ← D · (X Cᵀ) / (D C Cᵀ)        `steps` times, from C = softmax over the R bases of Dᵀ X

    Paper: Lee, Seung, "Algorithms for Non-negative Matrix Factorization", NeurIPS 2000, equation 4.

    Args:
        x: nonnegative.
        bases: nonnegative, to start from.
        one_step: whether gradients pass through the last step alone, as if what it starts from were constant (Geng et
            al. 2021).
    """
    tiny = 1e-6  # a basis that nothing needs dies instead of dividing by zero
    codes = torch.bmm(bases.transpose(1, 2), x).softmax(1)  # (B, R, N)
    for _ in range(steps):
        if one_step:
            bases, codes = bases.detach(), codes.detach()
        across = bases.transpose(1, 2)  # (B, R, d)
        codes = codes * torch.bmm(across, x) / (torch.bmm(torch.bmm(across, bases), codes) + tiny)
        along = codes.transpose(1, 2)  # (B, N, R)
        bases = bases * torch.bmm(x, along) / (torch.bmm(bases, torch.bmm(codes, along)) + tiny)
    return bases, codes
