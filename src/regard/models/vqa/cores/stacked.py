"""Stacked attention networks."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import StackedRead
from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class StackedAttention(Core):
    """Stacked attention network, SAN: the question looks, adds what it saw to itself, and looks again.

        v_n = tanh(W_I f_n + b_I),  u^0 = q
        u^k = Σ_n a^k_n v_n + u^{k-1}        with a^k = softmax over n of w_kᵀ tanh(V_k v_n + Q_k u^{k-1} + b_k)
        z   = dropout(u^K)

    Paper: Yang, He, Gao, Deng, Smola, "Stacked Attention Networks for Image Question Answering", CVPR 2016.

    Args:
        sight_width: width of a picture's token `f`.
        words_width: width of the questions, the paper's d; also of `v` and `z`.
        hops: how often it looks; default 2, the paper's choice.
        hidden_width: width of the scoring networks; default 512, the paper's.
        dropout: of what is classified; default 0.5, the paper's.
    """

    name: ClassVar[str] = "stacked_attention"
    paper: ClassVar[Paper] = StackedRead.paper
    loss: ClassVar[Loss] = "sampled"

    def __init__(
        self, sight_width: int, words_width: int, hops: int = 2, hidden_width: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.project = nn.Linear(sight_width, words_width)
        self.read = StackedRead(words_width, words_width, hops, hidden_width)
        self.dropout = nn.Dropout(dropout)
        self.joint_width = words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens = self.project(sight.tokens).tanh()
        with sight.looking():
            return self.dropout(self.read(words.summary, tokens, sight.mask))
