"""Show, ask, attend, and answer."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class AdditiveGlimpses(BilinearRead):
    """`softmax over n of w_gᵀ relu(W_m m_n + W_q q_t + b)`, a map a glimpse."""

    name: ClassVar[str] = "additive_glimpses"

    def __init__(self, query_width: int, memory_width: int, hidden_width: int, glimpses: int, dropout: float) -> None:
        super().__init__(query_width, memory_width, glimpses)
        self.memory = nn.Linear(memory_width, hidden_width, bias=False)
        self.query = nn.Linear(query_width, hidden_width)
        self.score = nn.Linear(hidden_width, glimpses, bias=False)
        self.dropout = nn.Dropout(dropout)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        asked = self.memory(self.dropout(memory))[:, None]  # (B, 1, N, H)
        asking = self.query(self.dropout(query))[:, :, None]  # (B, T, 1, H)
        return self.score(self.dropout((asked + asking).relu())).permute(0, 3, 1, 2)


class ShowAskAttendAnswer(Core):
    """Show, ask, attend, and answer: two glimpses of cells at length one, beside the question.

        v_n = f_n / |f_n|
        a^g = softmax over n of w_gᵀ relu(W_v v_n + W_q q + b)
        z   = [Σ_n a^1_n v_n; Σ_n a^2_n v_n; q]

    Paper: Kazemi, Elqursh, "Show, Ask, Attend, and Answer: A Strong Baseline For Visual Question Answering", arXiv
    2017.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        hidden_width: width of the scoring network; default 512, the paper's.
        glimpses: how many; default 2, the paper's.
        classifier_width: width of the classifier's hidden layer; default 1024, the paper's.
        dropout: before every layer; default 0.5, the paper's.
    """

    name: ClassVar[str] = "show_ask_attend_answer"
    paper: ClassVar[Paper] = Paper(
        "Show, Ask, Attend, and Answer: A Strong Baseline For Visual Question Answering",
        "Kazemi and Elqursh",
        "arXiv",
        2017,
    )
    loss: ClassVar[Loss] = "distribution"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        hidden_width: int = 512,
        glimpses: int = 2,
        classifier_width: int = 1024,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.read = AdditiveGlimpses(words_width, sight_width, hidden_width, glimpses, dropout)
        self.classifier_width = classifier_width
        self.dropout = dropout
        self.joint_width = self.read.context_width + words_width

    def classifier(self, answers: int) -> nn.Module:
        return nn.Sequential(
            nn.Dropout(self.dropout),
            nn.Linear(self.joint_width, self.classifier_width),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.classifier_width, answers),
        )

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens = F.normalize(sight.tokens, dim=2)
        with sight.looking():
            seen = self.read(words.summary, tokens, sight.mask)
        return torch.cat((seen, words.summary), 2)
