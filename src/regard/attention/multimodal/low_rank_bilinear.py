"""Low-rank bilinear attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead, require_positive


class LowRankBilinearRead(BilinearRead):
    """Low-rank bilinear attention, MLB: the score of a pair is a linear form of a Hadamard product.

        e^g_tn = p_gᵀ (tanh(U q_t) ∘ tanh(V m_n))
        a^g_tn = softmax over n of e^g_tn                    for the glimpses g = 1..G
        c_t    = [Σ_n a^1_tn m_n; ...; Σ_n a^G_tn m_n]

    Paper: Kim, On, Lim, Kim, Ha, Zhang, "Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017, its
    attention mechanism.

    Args:
        query_width: width `Q` of a query, an encoded question.
        memory_width: width `M` of a memory token, a cell of an image.
        joint_width: the rank `K` of the bilinear form; default 1200, the paper's choice.
        glimpses: number of attention maps `G`; default 2, the paper's choice.
        bias: whether `U` and `V` have biases; default False: the paper omits them.
        dropout: probability of dropping, in training, an entry of both inputs; default 0. The authors' code has 0.5.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, G·M)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, glimpse, query, key)`, sums to one over the keys.

    Raises:
        ValueError: there is no glimpse, or no joint width.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "low_rank_bilinear"
    aliases: ClassVar[tuple[str, ...]] = ("mlb",)
    paper: ClassVar[Paper] = Paper("Hadamard Product for Low-rank Bilinear Pooling", "Kim et al.", "ICLR", 2017)
    formula: ClassVar[str] = "c_t = concat_g Σ_n softmax_n(p_gᵀ (tanh(U q_t) ∘ tanh(V m_n))) m_n"
    parameter_count: ClassVar[str] = "(Q + M + G)*K"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "G": "glimpses",
        "K": "joint_width",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=True: both projections have biases, as in the authors' code",
        "dropout=0.5: drops entries of both inputs, as in the authors' code",
    )

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        joint_width: int = 1200,
        glimpses: int = 2,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(query_width, memory_width, glimpses)
        require_positive(joint_width=joint_width)
        self.joint_width = joint_width
        self.query = nn.Linear(query_width, joint_width, bias=bias)
        self.memory = nn.Linear(memory_width, joint_width, bias=bias)
        self.score = nn.Parameter(torch.randn(glimpses, joint_width) * joint_width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        asking = self.query(self.dropout(query)).tanh()[:, :, None]  # (B, T, 1, K)
        asked = self.memory(self.dropout(memory)).tanh()[:, :, None]  # (B, N, 1, K)
        return functional.low_rank_scores(asking, asked, self.score)
