"""Bilinear attention networks, BAN."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import BilinearAttention
from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import normalized_classifier
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class BilinearAttentionNetwork(Core):
    """Bilinear attention network, BAN: every pair of word and region has a weight, glimpse after glimpse added up.

        q_t <- q_t + P_g Σ_tn A^g_tn relu(U_g q_t) ∘ relu(V_g v_n)        for the glimpses g = 1..G
        z    = Σ_t q_t

    The counting module that the paper adds for numbers, of Zhang et al., ICLR 2018, is left out.

    Paper: Kim, Jun, Zhang, "Bilinear Attention Networks", NeurIPS 2018. Its words are the states of a GRU of 1280, its
    picture 10 to 100 regions of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word; also of `z`.
        hidden_width: rank of both bilinear forms; default `words_width`, the paper's choice.
        glimpses: default 8, the paper's best.
        dropout: of the classifier; default 0.5.
    """

    name: ClassVar[str] = "ban"
    paper: ClassVar[Paper] = BilinearAttention.paper
    loss: ClassVar[Loss] = "soft"
    reads_words: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        hidden_width: int | None = None,
        glimpses: int = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.read = BilinearAttention(words_width, sight_width, hidden_width, glimpses)
        self.dropout = dropout
        self.joint_width = words_width

    def classifier(self, answers: int) -> nn.Module:
        return normalized_classifier(self.joint_width, 2 * self.joint_width, answers, self.dropout)

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens, there = words.flat()  # (B·Q, L, D)
        each = sight.repeated(words.mask.shape[1])
        pairs = there[:, :, None].expand(-1, -1, each.tokens.shape[1])  # (B·Q, L, N)
        with sight.looking():
            read = self.read(tokens, each.tokens, pairs if each.mask is None else pairs & each.mask[:, None])
        return words.apart(read.sum(1))
