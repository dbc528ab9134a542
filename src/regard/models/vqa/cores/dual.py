"""Dual attention networks."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import LowRankBilinearRead
from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class DualAttention(Core):
    """Dual attention network for reasoning, r-DAN: one memory guides the look at the picture and the reading of words.

        m^0 = tanh(P^0 v̄) ∘ ū                       with v̄ and ū the means of cells and words
        v^k = tanh(P^k Σ_n a_n v_n),  u^k = Σ_t b_t u_t
              a = softmax over n of w_kᵀ (tanh(V_k v_n) ∘ tanh(M_k m^{k-1})), and b likewise of the words
        m^k = m^{k-1} + v^k ∘ u^k,  z = m^K

    Paper: Nam, Ha, Kim, "Dual Attention Networks for Multimodal Reasoning and Matching", CVPR 2017, section 3. Its
    words are the states of a bidirectional LSTM of 512, its picture 14 by 14 cells of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word and of the memory.
        steps: how often the memory grows, `K`; default 2, the paper's.
        hidden_width: of the scoring networks; default 512, the paper's.
        dropout: of what is classified; default 0.5, the paper's.
    """

    name: ClassVar[str] = "dual_attention"
    paper: ClassVar[Paper] = Paper(
        "Dual Attention Networks for Multimodal Reasoning and Matching", "Nam et al.", "CVPR", 2017
    )
    loss: ClassVar[Loss] = "consensus"
    reads_words: ClassVar[bool] = True

    def __init__(
        self, sight_width: int, words_width: int, steps: int = 2, hidden_width: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"DualAttention got steps={steps}: it looks at least once.")
        self.project = nn.ModuleList(nn.Linear(sight_width, words_width, bias=False) for _ in range(steps + 1))
        self.look = nn.ModuleList(
            LowRankBilinearRead(words_width, sight_width, hidden_width, glimpses=1) for _ in range(steps)
        )
        self.listen = nn.ModuleList(
            LowRankBilinearRead(words_width, words_width, hidden_width, glimpses=1) for _ in range(steps)
        )
        self.dropout = nn.Dropout(dropout)
        self.joint_width = words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens, there = words.flat()  # (B·Q, L, D)
        mean = words.tokens.sum(2) / words.mask.sum(2, keepdim=True).clamp(min=1)  # (B, Q, D)
        first, *others = self.project
        memory = first(sight.mean()).tanh()[:, None] * mean
        for project, look, listen in zip(others, self.look, self.listen, strict=True):
            with sight.looking():
                seen = project(look(memory, sight.tokens, sight.mask)).tanh()  # (B, Q, D)
            heard = words.apart(listen(memory.flatten(0, 1)[:, None], tokens, there)[:, 0])
            memory = memory + seen * heard
        return self.dropout(memory)
