"""Multimodal Tucker attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead, require_positive


class TuckerRead(BilinearRead):
    """Multimodal Tucker attention, MUTAN: the score is a Tucker decomposition whose core has slices of rank `R`.

        q̃_t, m̃_n = tanh(W_q q_t), tanh(W_m m_n)
        z_tn     = Σ_r (M_r q̃_t) ∘ (N_r m̃_n)                r = 1..R
        a^g_tn   = softmax over n of p_gᵀ z_tn              for the glimpses g = 1..G
        c_t      = [Σ_n a^1_tn m_n; ...; Σ_n a^G_tn m_n]

    Paper: Ben-younes, Cadene, Cord, Thome, "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", ICCV 2017,
    section 3.

    Args:
        query_width: width `Q` of a query, an encoded question.
        memory_width: width `M` of a memory token, a cell of an image.
        joint_width: the widths `K` of `q̃`, `m̃` and `z`, the paper's t; default 360, as where the paper compares
            fusions.
        rank: the rank `R` of a slice of the core; default 10, as there. The authors' code for attention has 5, and
            widths of 310, 310 and 510.
        glimpses: number of attention maps `G`; default 2.
        bias: whether the projections and the factors of the core have biases; default False, as the equations are
            written.
        dropout: probability of dropping, in training, an entry of both inputs and of `z`; default 0. The authors' code
            has 0.5. With it every pair has a vector `z` of its own, and memory grows with `T·N·K`.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, G·M)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, glimpse, query, key)`, sums to one over the keys.

    Raises:
        ValueError: a size is less than one.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "tucker"
    aliases: ClassVar[tuple[str, ...]] = ("mutan",)
    paper: ClassVar[Paper] = Paper(
        "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", "Ben-younes et al.", "ICCV", 2017
    )
    formula: ClassVar[str] = (
        "c_t = concat_g Σ_n softmax_n(p_gᵀ Σ_r (M_r tanh(W_q q_t)) ∘ (N_r tanh(W_m m_n))) m_n with r = 1..R"
    )
    parameter_count: ClassVar[str] = "(Q + M)*K + 2*R*K*K + G*K"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "K": "joint_width",
        "R": "rank",
        "G": "glimpses",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=True: all four linear layers have biases, as in the authors' code",
        "dropout=0.5: drops entries of both inputs and of what is scored, as in the authors' code",
    )

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        joint_width: int = 360,
        rank: int = 10,
        glimpses: int = 2,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(query_width, memory_width, glimpses)
        require_positive(joint_width=joint_width, rank=rank)
        self.joint_width = joint_width
        self.rank = rank
        self.query = nn.Linear(query_width, joint_width, bias=bias)
        self.memory = nn.Linear(memory_width, joint_width, bias=bias)
        self.query_core = nn.Linear(joint_width, rank * joint_width, bias=bias)
        self.memory_core = nn.Linear(joint_width, rank * joint_width, bias=bias)
        self.score = nn.Parameter(torch.randn(glimpses, joint_width) * joint_width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        parts = (self.rank, self.joint_width)
        asking = self.query_core(self.query(self.dropout(query)).tanh()).unflatten(2, parts)  # (B, T, R, K)
        asked = self.memory_core(self.memory(self.dropout(memory)).tanh()).unflatten(2, parts)  # (B, N, R, K)
        if self.training and self.dropout.p:
            fused = self.dropout(functional.low_rank_pairs(asking, asked))  # (B, T, N, K)
            return (fused.to(query.dtype) @ self.score.T).permute(0, 3, 1, 2)
        return functional.low_rank_scores(asking, asked, self.score)
