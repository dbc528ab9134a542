"""Factorized bilinear pooling, MFB, and of a higher order, MFH."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import FactorizedBilinearRead
from regard.attention.contract import Paper
from regard.attention.multimodal.factorized_bilinear import Variant
from regard.models.vqa.core import Loss
from regard.models.vqa.cores.bilinear import AttendAndFuse
from regard.models.vqa.layers import QuestionAttention


class FactorizedFusion(nn.Module):
    """Sums of products of `k` factors, rooted and brought to length one; of a higher order, products of products.

        e^1 = U^1 q ∘ V^1 v,  e^j = (U^j q ∘ V^j v) ∘ e^{j-1}
        z   = [l2(√±(Σ_i e^1_i)); ...; l2(√±(Σ_i e^p_i))]        with the sums over the factors i = 1..k

    Args:
        order: the paper's p, 1 for MFB.
    """

    def __init__(
        self, query_width: int, sight_width: int, joint_width: int, factors: int, order: int, dropout: float
    ) -> None:
        super().__init__()
        if order < 1:
            raise ValueError(f"FactorizedFusion got order={order}, expected at least 1, which is MFB.")
        self.words = nn.ModuleList(nn.Linear(query_width, factors * joint_width) for _ in range(order))
        self.sight = nn.ModuleList(nn.Linear(sight_width, factors * joint_width) for _ in range(order))
        self.parts = (factors, joint_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        pooled: list[Tensor] = []
        expanded = question.new_ones(())
        for of_words, of_sight in zip(self.words, self.sight, strict=True):
            expanded = self.dropout(of_words(question) * of_sight(seen) * expanded)  # (B, Q, k·K)
            root = functional.signed_root(expanded.unflatten(2, self.parts).sum(2))
            pooled.append(F.normalize(root, dim=2, eps=1e-6))
        return torch.cat(pooled, 2)


class Factorized(AttendAndFuse):
    """Multimodal factorized bilinear pooling with co-attention, MFB.

        q = [Σ_t b^1_t q_t; Σ_t b^2_t q_t]        with b^g = softmax over t of w_gᵀ relu(W q_t + b), the words
        z = l2(√±(Σ_i U_i q ∘ V_i v))             with v as `FactorizedBilinearRead` reads it

    Paper: Yu, Yu, Fan, Tao, "Multi-modal Factorized Bilinear Pooling with Co-attention Learning for Visual Question
    Answering", ICCV 2017. Its words are the states of an LSTM of 1024, its picture 14 by 14 cells of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word.
        joint_width: the paper's o; default 1000.
        factors: the paper's k; default 5.
        hidden_width: of both scoring networks; default 512, as in the authors' code.
        glimpses: of words and picture each; default 2.
        dropout: of the products of factors, in the attention too; default 0.1, the paper's.
        bias: whether the factors of the attention have biases, as those behind it do; default False, as the equation is
            written. The authors' code has them.
        variant: of the attention's l2 norm, as of `FactorizedBilinearRead`; default "paper".

    Class attributes:
        order: how many blocks of factors are chained; 1 here.
    """

    name: ClassVar[str] = "mfb"
    paper: ClassVar[Paper] = FactorizedBilinearRead.paper
    loss: ClassVar[Loss] = "distribution"
    reads_words: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        joint_width: int = 1000,
        factors: int = 5,
        hidden_width: int = 512,
        glimpses: int = 2,
        dropout: float = 0.1,
        bias: bool = False,
        variant: Variant = "paper",
    ) -> None:
        question = QuestionAttention(words_width, hidden_width, glimpses)
        read = FactorizedBilinearRead(
            question.width, sight_width, joint_width, factors, hidden_width, glimpses, bias, variant, dropout
        )
        fuse = FactorizedFusion(question.width, read.context_width, joint_width, factors, self.order, dropout)
        super().__init__(read, fuse, self.order * joint_width, question)


class HighOrder(Factorized):
    """Multimodal factorized high-order pooling with co-attention, MFH: a second block of factors over the first.

        z = [l2(√±(Σ_i e^1_i)); l2(√±(Σ_i e^2_i))]        with e^1 = U^1 q ∘ V^1 v and e^2 = U^2 q ∘ V^2 v ∘ e^1

    All else is `Factorized`, the attention too: of one block, as in the released code (openvqa), whose biases and one
    l2 norm over all tokens are `bias=True` and `variant="code"`.

    Paper: Yu, Yu, Xiang, Fan, Tao, "Beyond Bilinear: Generalized Multimodal Factorized High-Order Pooling for Visual
    Question Answering", TNNLS 2018.

    Args:
        sight_width, words_width, joint_width, factors, hidden_width, glimpses, dropout, bias, variant: as of
            `Factorized`.
    """

    name: ClassVar[str] = "mfh"
    paper: ClassVar[Paper] = Paper(
        "Beyond Bilinear: Generalized Multimodal Factorized High-Order Pooling for Visual Question Answering",
        "Yu et al.",
        "TNNLS",
        2018,
    )
    order: ClassVar[int] = 2
