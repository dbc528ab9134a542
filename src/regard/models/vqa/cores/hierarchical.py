"""Hierarchical co-attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import ParallelCoAttention
from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Recurrent, Words, side_by_side, take

LONGEST_PHRASE = 3


class Phrases(nn.Module):
    """`max over s of tanh(W_s [q_t; ...; q_{t+s-1}] + b_s)` with s = 1, 2, 3: the phrase that begins at each word.

    What fills up a question is left out: words are neighbours across it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grams = nn.ModuleList(nn.Conv1d(width, width, size) for size in range(1, LONGEST_PHRASE + 1))

    def forward(self, tokens: Float[Tensor, "M L D"], mask: Bool[Tensor, "M L"]) -> Float[Tensor, "M L D"]:
        order, back = side_by_side(mask)
        x = take(tokens, order).transpose(1, 2)  # (M, D, L), zeros behind the last word
        phrases = torch.stack([gram(F.pad(x, (0, size))).tanh() for size, gram in enumerate(self.grams)])
        return take(phrases.amax(0).transpose(1, 2), back).masked_fill(~mask[..., None], 0.0)


class HierarchicalCoAttention(Core):
    """Hierarchical co-attention: words, phrases and question each attend to the picture, and it to them, all at once.

        p_t = max over s of tanh(W_s [q_t; ...; q_{t+s-1}])           phrases
        s_t = LSTM(p_1, ..., p_t)                                     the question
        (q^l, v^l) = what co-attention reads of the level and of the picture, for each of the three
        h^1 = tanh(W_1 (q^1 + v^1)),  h^l = tanh(W_l [q^l + v^l; h^{l-1}]),  z = h^3

    Paper: Lu, Yang, Batra, Parikh, "Hierarchical Question-Image Co-Attention for Visual Question Answering", NeurIPS
    2016, with parallel co-attention (`alternating_co_attention` is the other). Its words are vectors of 512, as
    `BagOfWords` gives them, its picture 14 by 14 cells of 512.

    Args:
        sight_width: width of a picture's token; a layer with a tanh brings it to the words' width.
        words_width: width of a word, and of all levels.
        hidden_width: of the scoring networks and of `h`; default 512, the paper's.
        dropout: of what every layer of `h` takes; default 0.5, the paper's.
    """

    name: ClassVar[str] = "hierarchical_co_attention"
    paper: ClassVar[Paper] = ParallelCoAttention.paper
    loss: ClassVar[Loss] = "consensus"
    reads_words: ClassVar[bool] = True

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.sight = nn.Linear(sight_width, words_width)
        self.phrases = Phrases(words_width)
        self.sentence = Recurrent(words_width, words_width)
        self.levels = nn.ModuleList(ParallelCoAttention(words_width, words_width, hidden_width) for _ in range(3))
        self.outputs = nn.ModuleList(
            nn.Linear(words_width + (hidden_width if level else 0), hidden_width) for level in range(3)
        )
        self.dropout = nn.Dropout(dropout)
        self.joint_width = hidden_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens, there = words.flat()  # (B·Q, L, D)
        each = Sight(self.sight(sight.tokens).tanh(), sight.mask).repeated(words.mask.shape[1])
        pairs = there[:, :, None].expand(-1, -1, each.tokens.shape[1])  # (B·Q, L, N)
        if each.mask is not None:
            pairs = pairs & each.mask[:, None]
        phrases = self.phrases(tokens, there)
        sentence, _ = self.sentence(phrases, there)
        first = there.to(torch.uint8).argmax(1, keepdim=True)  # a word, of a question that has one
        hidden: list[Tensor] = []
        for level, read, output in zip((tokens, phrases, sentence), self.levels, self.outputs, strict=True):
            with sight.looking():
                both = read(level, each.tokens, pairs)  # (B·Q, L, 2 D), alike for all words
            said, seen = take(both, first)[:, 0].chunk(2, 1)
            hidden.append(output(self.dropout(torch.cat((said + seen, *hidden[-1:]), 1))).tanh())
        return words.apart(hidden[-1])
