"""Low-rank bilinear pooling, MLB."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import LowRankBilinearRead
from regard.attention.contract import Paper
from regard.models.vqa.cores.bilinear import AttendAndFuse
from regard.models.vqa.layers import GlimpseLinear


class LowRankFusion(nn.Module):
    """`z = tanh(U q) ∘ tanh(V v)`: a bilinear form of rank `K` for each answer, once a linear layer follows.

    With dropout of `q`, `v` and `z`.
    """

    def __init__(self, query_width: int, sight_width: int, joint_width: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Linear(query_width, joint_width)
        self.sight: nn.Module = nn.Linear(sight_width, joint_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        z = self.words(self.dropout(question)).tanh() * self.sight(self.dropout(seen)).tanh()
        return self.dropout(z)


class LowRank(AttendAndFuse):
    """Multimodal low-rank bilinear attention network, MLB.

        v = [Σ_n a^1_n v_n; ...; Σ_n a^G_n v_n]        with a^g = softmax over n of p_gᵀ (tanh(U q) ∘ tanh(V v_n))
        z = tanh(U' q) ∘ tanh(V' v)

    Paper: Kim, On, Lim, Kim, Ha, Zhang, "Hadamard Product for Low-rank Bilinear Pooling", ICLR 2017. Its question is
    the last state of a GRU of 2400 (skip-thought vectors), its picture 14 by 14 cells of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        joint_width: rank of both bilinear forms; default 1200, the paper's.
        glimpses: default 2, the paper's.
        dropout: of what either fusion takes, and of what is classified; default 0.5, as in the authors' code.
        linear_per_glimpse: whether `V'` is a layer for each glimpse, to a `z` of its own of this rank, as in the
            authors' code; `z` is then so many times as wide. Default False: one for all, as in the paper.
    """

    name: ClassVar[str] = "mlb"
    paper: ClassVar[Paper] = LowRankBilinearRead.paper

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        joint_width: int = 1200,
        glimpses: int = 2,
        dropout: float = 0.5,
        linear_per_glimpse: bool = False,
    ) -> None:
        read = LowRankBilinearRead(words_width, sight_width, joint_width, glimpses, dropout=dropout)
        whole = glimpses * joint_width if linear_per_glimpse else joint_width
        fuse = LowRankFusion(words_width, read.context_width, whole, dropout)
        super().__init__(read, fuse, whole)
        if linear_per_glimpse:
            fuse.sight = GlimpseLinear(read.context_width, whole, glimpses)
