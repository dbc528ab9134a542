"""Bottom-up and top-down attention: in the paper's form, and in that of the code that most people ran."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import Read, TopDownRead
from regard.attention.contract import Paper
from regard.attention.offering import MapFact
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import GatedTanh, WeightNormLinear, normalized_classifier
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class TopDown(Core):
    """Bottom-up and top-down attention with gated layers: the question weighs the regions of a detector.

        f(x) = tanh(W x + b) ∘ sigmoid(W' x + b')
        v    = Σ_n a_n v_n        with a = softmax over n of wᵀ f_a([v_n; q])
        z    = f_q(q) ∘ f_v(v),  and the answers' logits are W_o f_o(z)

    Paper: Anderson, He, Buehler, Teney, Johnson, Gould, Zhang, "Bottom-Up and Top-Down Attention for Image Captioning
    and Visual Question Answering", CVPR 2018, section 3.3, with the sizes of Teney et al., "Tips and Tricks for Visual
    Question Answering", CVPR 2018. Its question is the last state of a GRU of 512 over GloVe's vectors, its regions
    36 of width 2048 at length one.

    Args:
        sight_width: width of a region.
        words_width: width of the questions.
        width: width of all gated layers; default 512, the paper's.
        normalize: whether regions are brought to length one; default True, as in Teney et al.
    """

    name: ClassVar[str] = "top_down"
    paper: ClassVar[Paper] = TopDownRead.paper
    loss: ClassVar[Loss] = "soft"

    def __init__(self, sight_width: int, words_width: int, width: int = 512, normalize: bool = True) -> None:
        super().__init__()
        self.read = TopDownRead(words_width, sight_width, width)
        self.sight = GatedTanh(sight_width, width)
        self.words = GatedTanh(words_width, width)
        self.normalize = normalize
        self.joint_width = width

    def classifier(self, answers: int) -> nn.Module:
        return nn.Sequential(GatedTanh(self.joint_width, self.joint_width), nn.Linear(self.joint_width, answers))

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        tokens = F.normalize(sight.tokens, dim=2) if self.normalize else sight.tokens
        with sight.looking():
            seen = self.read(words.summary, tokens, sight.mask)
        return self.words(words.summary) * self.sight(seen)


class ProductRead(Read):
    """Attention whose score is a linear form of a product of two rectified layers, all of normalised weights.

        a = softmax over n of wᵀ (relu(W_m m_n + b_m) ∘ relu(W_q q_t + b_q))

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.
    """

    name: ClassVar[str] = "product"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)

    def __init__(self, query_width: int, memory_width: int, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.query = WeightNormLinear(query_width, hidden_width)
        self.memory = WeightNormLinear(memory_width, hidden_width)
        self.score = WeightNormLinear(hidden_width, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T Dm"]:
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        pairs = self.query(query).relu()[:, :, None] * self.memory(memory).relu()[:, None]  # (B, T, N, H)
        weights = functional.masked_softmax(self.score(self.dropout(pairs))[..., 0], mask)  # (B, T, N)
        weights = self.offer("attention", weights)
        return functional.mark_undefined(functional.read(weights, memory), undefined)


class TopDownProduct(Core):
    """Bottom-up and top-down attention as the most used code has it: products and ReLUs in place of gated layers.

        v = Σ_n a_n v_n        with a = softmax over n of wᵀ (relu(W_v v_n) ∘ relu(W_q q))
        z = relu(W'_q q) ∘ relu(W'_v v)

    Every layer has normalised weights. Paper: Anderson et al., CVPR 2018, in the re-implementation of Hu et al.
    (github.com/hengyuan-hu/bottom-up-attention-vqa), which reached the paper's accuracy.
    (The bias behind the score is left out: a softmax does not see it.)

    Args:
        sight_width: width of a region; 2048 there.
        words_width: width of the questions; 1024 there, the last state of a GRU.
        width: width of all layers; default 1024; the classifier's hidden layer is twice as wide.
        attention_dropout: before the score; default 0.2.
        dropout: of the classifier; default 0.5.
    """

    name: ClassVar[str] = "top_down_product"
    paper: ClassVar[Paper] = TopDownRead.paper
    loss: ClassVar[Loss] = "soft"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 1024,
        attention_dropout: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.read = ProductRead(words_width, sight_width, width, attention_dropout)
        self.sight = WeightNormLinear(sight_width, width)
        self.words = WeightNormLinear(words_width, width)
        self.dropout = dropout
        self.joint_width = width

    def classifier(self, answers: int) -> nn.Module:
        return normalized_classifier(self.joint_width, 2 * self.joint_width, answers, self.dropout)

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        with sight.looking():
            seen = self.read(words.summary, sight.tokens, sight.mask)
        return self.words(words.summary).relu() * self.sight(seen).relu()
