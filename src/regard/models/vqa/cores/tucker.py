"""Tucker fusion, with a full core and with one whose slices have a rank: MUTAN."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention import TuckerRead
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead
from regard.models.vqa.cores.bilinear import AttendAndFuse
from regard.models.vqa.layers import GlimpseLinear


class RankedFusion(nn.Module):
    """`z = Σ_r (M_r q̃) ∘ (N_r ṽ)` with `q̃ = tanh(W_q q)`, `ṽ = tanh(W_v v)`; with dropout of `q`, `v` and `z`."""

    def __init__(self, query_width: int, sight_width: int, joint_width: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Linear(query_width, joint_width)
        self.sight: nn.Module = nn.Linear(sight_width, joint_width)
        self.words_core = nn.Linear(joint_width, rank * joint_width)
        self.sight_core = nn.Linear(joint_width, rank * joint_width)
        self.parts = (rank, joint_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        q = self.words_core(self.words(self.dropout(question)).tanh()).unflatten(2, self.parts)  # (B, Q, R, K)
        v = self.sight_core(self.sight(self.dropout(seen)).tanh()).unflatten(2, self.parts)
        return self.dropout(functional.low_rank_fusion(q, v))


class Mutan(AttendAndFuse):
    """Multimodal Tucker fusion with a core of ranked slices, MUTAN, in its attention and behind it.

        z = Σ_r (M_r tanh(W_q q)) ∘ (N_r tanh(W_v v))        with v as `TuckerRead` reads it

    Paper: Ben-younes, Cadene, Cord, Thome, "MUTAN: Multimodal Tucker Fusion for Visual Question Answering", ICCV 2017.
    Its question is the last state of a GRU of 2400 (skip-thought vectors), its picture 14 by 14 cells of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        joint_width: widths of the factors, the paper's t; default 360, as where the paper compares fusions.
        rank: rank of a slice of the core; default 10, as there.
        glimpses: default 2.
        dropout: of what either fusion takes and gives, but not of the factors between; default 0.5, as in the authors'
            code.
        linear_per_glimpse: whether `W_v` is a layer for each glimpse, to its share of the width, as there; default
            False: one for all.
    """

    name: ClassVar[str] = "mutan"
    paper: ClassVar[Paper] = TuckerRead.paper

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        joint_width: int = 360,
        rank: int = 10,
        glimpses: int = 2,
        dropout: float = 0.5,
        linear_per_glimpse: bool = False,
    ) -> None:
        read = TuckerRead(words_width, sight_width, joint_width, rank, glimpses, dropout=dropout)
        fuse = RankedFusion(words_width, read.context_width, joint_width, rank, dropout)
        super().__init__(read, fuse, joint_width)
        if linear_per_glimpse:
            fuse.sight = GlimpseLinear(read.context_width, joint_width, glimpses)


class FullCoreRead(BilinearRead):
    """`a^g = softmax over n of q̃ᵀ T_g ṽ_n` with `q̃ = tanh(W_q q)`, `ṽ_n = tanh(W_m m_n)`, a full matrix a glimpse.

    The linear form that a glimpse takes of `q̃ᵀ T ṽ_n`, of which each entry has a matrix, is one matrix again. With
    dropout of `q` and `m_n`.
    """

    name: ClassVar[str] = "full_tucker"

    def __init__(self, query_width: int, memory_width: int, joint_width: int, glimpses: int, dropout: float) -> None:
        super().__init__(query_width, memory_width, glimpses)
        self.query = nn.Linear(query_width, joint_width, bias=False)
        self.memory = nn.Linear(memory_width, joint_width, bias=False)
        self.core = nn.Parameter(torch.randn(glimpses, joint_width, joint_width) / joint_width)
        self.dropout = nn.Dropout(dropout)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        asking = self.query(self.dropout(query)).tanh()[:, None] @ self.core  # (B, G, T, K)
        return asking @ self.memory(self.dropout(memory)).tanh().transpose(1, 2)[:, None]


class FullCoreFusion(nn.Module):
    """`z_o = q̃ᵀ T_o ṽ` with `q̃ = tanh(W_q q)`, `ṽ = tanh(W_v v)`: Tucker's decomposition with a full core.

    With dropout of `q`, `v` and `z`.
    """

    def __init__(self, query_width: int, sight_width: int, joint_width: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Linear(query_width, joint_width)
        self.sight = nn.Linear(sight_width, joint_width)
        bound = joint_width**-0.5
        self.core = nn.Parameter(torch.empty(joint_width, joint_width, joint_width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        q, v = self.words(self.dropout(question)).tanh(), self.sight(self.dropout(seen)).tanh()
        return self.dropout(torch.einsum("bqi,oij,bqj->bqo", q, self.core, v))


class Tucker(AttendAndFuse):
    """Multimodal Tucker fusion with a full core: what MUTAN spares parameters of.

        z_o = q̃ᵀ T_o ṽ        with q̃ = tanh(W_q q), ṽ = tanh(W_v v) and v read by q̃ᵀ T'_g ṽ_n

    Paper: Ben-younes et al., ICCV 2017, section 3.1, which has no room for more than 160 (MUTAN without rank).

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        joint_width: widths of the factors; default 160, the paper's.
        glimpses: default 2.
        dropout: of what either fusion takes, and of what is classified, as of `Mutan`; default 0.5.
    """

    name: ClassVar[str] = "tucker"
    paper: ClassVar[Paper] = TuckerRead.paper

    def __init__(
        self, sight_width: int, words_width: int, joint_width: int = 160, glimpses: int = 2, dropout: float = 0.5
    ) -> None:
        read = FullCoreRead(words_width, sight_width, joint_width, glimpses, dropout)
        super().__init__(read, FullCoreFusion(words_width, read.context_width, joint_width, dropout), joint_width)
