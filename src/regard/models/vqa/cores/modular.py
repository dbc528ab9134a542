"""Deep modular co-attention networks, MCAN."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention import Attention, GuidedAttention
from regard.attention.contract import Paper
from regard.attention.heads import MultiHead
from regard.attention.multimodal.feed_forward import feed_forward
from regard.attention.offering import MapFact
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import SelfAttentiveRead, brought
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class WordAttention(Attention):
    """The unit that MCAN calls SA: words read each other, then a network of two layers, each normalised behind.

        s = norm(x + heads(x, x)),  y = norm(s + W2 relu(W1 s + b1) + b2)

    Maps:
        words: `(batch, heads, word, peer)`, sums to one over the peers; before dropout.
    """

    name: ClassVar[str] = "word_attention"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("words", ("batch", "heads", "word", "peer"), ("peer",)),)

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.among = MultiHead(width, width, width, heads, True, dropout)
        self.feed_forward = feed_forward(width, expansion * width, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        first, second = self.norms
        read = self.among(words, words, mask[:, None], lambda weights: self.offer("words", weights))
        words = first(words + self.dropout(read))
        return second(words + self.dropout(self.feed_forward(words)))


class ModularCoAttention(Core):
    """Deep modular co-attention network, MCAN, as encoder and decoder: the last words guide every look.

        Y <- SA(Y)                    L times, the words among each other
        X <- SGA(X, Y)                L times, the regions among each other, then guided by the final words
        z  = norm(W_x flat(X) + W_y flat(Y))        with flat(X) = Σ_n a_n x_n, a = softmax over n of MLP(x_n)

    Paper: Yu, Yu, Cui, Tao, Tian, "Deep Modular Co-Attention Networks for Visual Question Answering", CVPR 2019. Its
    words are the states of an LSTM of 512 over GloVe's vectors, 14 of them; its picture 10 to 100 regions of 2048.
    The layer normalisation is PyTorch's; that of the released code divides by the unbiased deviation plus 1e-6.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word; where it is not `width`, a linear layer brings it there.
        width: default 512, the paper's; 1024 is its large model.
        layers: how many units `L` on each side; default 6, the paper's best.
        heads: default 8, the paper's.
        joint_width: width of `z`; default 1024, the paper's.
        expansion: of the units' hidden layer; default 4, the paper's.
        dropout: of attention weights, of every hidden layer and of what is added to residuals; default 0.1, as in the
            authors' code.
    """

    name: ClassVar[str] = "mcan"
    paper: ClassVar[Paper] = GuidedAttention.paper
    loss: ClassVar[Loss] = "soft"
    reads_words: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 512,
        layers: int = 6,
        heads: int = 8,
        joint_width: int = 1024,
        expansion: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.sight = nn.Linear(sight_width, width)
        self.words = brought(words_width, width)
        self.encoder = nn.ModuleList(WordAttention(width, heads, expansion, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(GuidedAttention(width, width, heads, expansion, dropout) for _ in range(layers))
        self.flatten_words = SelfAttentiveRead(width, width, dropout=dropout)
        self.flatten_sight = SelfAttentiveRead(width, width, dropout=dropout)
        self.words_output = nn.Linear(width, joint_width)
        self.sight_output = nn.Linear(width, joint_width)
        self.norm = nn.LayerNorm(joint_width)
        self.joint_width = joint_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens, there = words.flat()  # (B·Q, L, D)
        said = self.words(tokens)
        for unit in self.encoder:
            said = unit(said, there)
        each = Sight(self.sight(sight.tokens), sight.mask).repeated(words.mask.shape[1])
        seen, mask = each.tokens, each.mask  # (B·Q, N, D)
        with sight.looking():
            for unit in self.decoder:
                seen = unit(seen, said, there, mask)
            flat = self.flatten_sight(seen, mask)  # (B·Q, 1, D)
        joint = self.words_output(self.flatten_words(said, there)) + self.sight_output(flat)
        return words.apart(self.norm(joint)[:, 0])
