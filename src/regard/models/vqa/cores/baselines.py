"""No attention: what every reader is compared with."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import ShapeError
from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import rectified
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words

ANTOL = Paper("VQA: Visual Question Answering", "Antol et al.", "ICCV", 2015)


class _Fused(Core):
    """A network of two hidden layers behind what is joined, as Antol et al. have it for all their baselines."""

    paper: ClassVar[Paper] = ANTOL
    loss: ClassVar[Loss] = "consensus"
    attends: ClassVar[bool] = False
    joint_width: int

    def __init__(self, hidden_width: int, dropout: float) -> None:
        super().__init__()
        self.hidden_width = hidden_width
        self.dropout = dropout

    def classifier(self, answers: int) -> nn.Module:
        widths = (self.joint_width, self.hidden_width, self.hidden_width)
        hidden = [
            layer
            for width, out_width in pairwise(widths)
            for layer in (nn.Linear(width, out_width), nn.Dropout(self.dropout), nn.Tanh())
        ]
        return nn.Sequential(*hidden, nn.Linear(self.hidden_width, answers))


class QuestionOnly(_Fused):
    """Answers without looking: what the questions alone give away.

    Paper: Antol et al., "VQA: Visual Question Answering", ICCV 2015, the model "LSTM Q".

    Args:
        sight_width: not used.
        words_width: width of the questions.
        hidden_width: width of the classifier's hidden layers; default 1000, the paper's.
        dropout: of the classifier; default 0.5, the paper's.
    """

    name: ClassVar[str] = "question_only"

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 1000, dropout: float = 0.5) -> None:
        super().__init__(hidden_width, dropout)
        self.joint_width = words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        return words.summary


class ImageOnly(_Fused):
    """Answers without listening: the mean of the picture's tokens, at length one ("norm I").

    Paper: Antol et al., "VQA: Visual Question Answering", ICCV 2015, the model "I".

    Args:
        sight_width: width of a picture's token.
        words_width: not used.
        hidden_width: width of the classifier's hidden layers; default 1000, the paper's.
        dropout: of the classifier; default 0.5, the paper's.
    """

    name: ClassVar[str] = "image_only"

    def __init__(self, sight_width: int, words_width: int, hidden_width: int = 1000, dropout: float = 0.5) -> None:
        super().__init__(hidden_width, dropout)
        self.joint_width = sight_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        return F.normalize(sight.mean(), dim=1)[:, None].expand(-1, words.summary.shape[1], -1)


class Concatenation(Core):
    """The mean of the picture's tokens beside the question, and a linear classifier.

        y = W [mean of v; q] + b

    Paper: Zhou, Tian, Sukhbaatar, Szlam, Fergus, "Simple Baseline for Visual Question Answering", arXiv 2015, iBOWIMG,
    whose question is a bag of words: `BagOfWords`.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        hidden_width: of a layer with a ReLU between the two; default None: none, as in the paper.
    """

    name: ClassVar[str] = "concatenation"
    paper: ClassVar[Paper] = Paper("Simple Baseline for Visual Question Answering", "Zhou et al.", "arXiv", 2015)
    loss: ClassVar[Loss] = "consensus"
    attends: ClassVar[bool] = False

    def __init__(self, sight_width: int, words_width: int, hidden_width: int | None = None) -> None:
        super().__init__()
        width = sight_width + words_width
        self.mix = nn.Identity() if hidden_width is None else rectified((width, hidden_width))
        self.joint_width = width if hidden_width is None else hidden_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        image = sight.mean()[:, None].expand(-1, words.summary.shape[1], -1)  # (B, Q, D)
        return self.mix(torch.cat((image, words.summary), 2))


class Flattened(Core):
    """All cells of the picture in one vector, each at its own place, beside the question: CNN + MLP.

        z = f([v_1; ...; v_N; q])

    Paper: what Santoro, Raposo, Barrett, Malinowski, Pascanu, Battaglia, Lillicrap, "A simple neural network module for
    relational reasoning", NeurIPS 2017, compare the relation network with; `f` is its own.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        cells: how many cells the picture has; default 25, those of sort-of-CLEVR's pictures.
        f_widths: of the layers of `f`, each with a ReLU; default two of 256.
        dropout: behind the last of them; default 0.5.
        question_scale: how many times PyTorch's usual size the question's weights in the first layer begin with;
            default 1. At 1 a question of few numbers is hardly heard beside all cells of a picture: on sort-of-CLEVR 60
            to 64 % of the questions about one object are answered rightly, with 40 and wider convolutions 99 %
            (docs/sort_of_clevr.md).

    Raises:
        ShapeError: the picture has another number of cells.
        UserError: it has regions.
        ValueError: `f` has no layer.
    """

    name: ClassVar[str] = "flattened"
    paper: ClassVar[Paper] = Paper(
        "A simple neural network module for relational reasoning", "Santoro et al.", "NeurIPS", 2017
    )
    loss: ClassVar[Loss] = "consensus"
    attends: ClassVar[bool] = False
    grid: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        cells: int = 25,
        f_widths: Sequence[int] = (256, 256),
        dropout: float = 0.5,
        question_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not f_widths:
            raise ValueError(f"Flattened got f_widths={f_widths}: give it a layer.")
        self.cells = cells
        self.picture_width = cells * sight_width
        widths = (self.picture_width + words_width, *f_widths)
        self.f = rectified(widths)
        with torch.no_grad():
            self.first.weight[:, self.picture_width :] *= question_scale
        self.dropout = nn.Dropout(dropout)
        self.joint_width = widths[-1]

    @property
    def first(self) -> nn.Linear:
        """The first layer, whose parts are used apart: it is never called itself, and hooks on it see nothing."""
        return cast(nn.Linear, self.f[0])

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        image = sight.as_map().flatten(2)  # (B, D, N)
        if image.shape[2] != self.cells:
            raise ShapeError(
                f"Flattened got {image.shape[2]} cells, expected {self.cells}: give it cells={image.shape[2]}, and "
                "pictures of one size."
            )
        # The first layer is linear in picture and question: what it makes of the picture serves all of its questions.
        for_sight, for_words = self.first.weight.tensor_split([self.picture_width], 1)
        seen = F.linear(image.flatten(1), for_sight)  # (B, H)
        asked = F.linear(words.summary, for_words, self.first.bias)  # (B, Q, H)
        return self.dropout(self.f[1:](seen[:, None] + asked))


class Product(_Fused):
    """Picture and question, each through a layer of its own, multiplied entry by entry.

        z = tanh(W_v v / |v| + b_v) ∘ tanh(W_q q + b_q)        with v the mean of the picture's tokens

    Paper: Antol et al., "VQA: Visual Question Answering", ICCV 2015, "deeper LSTM Q + norm I", whose question is a
    `QuestionEncoder` of two layers.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        width: width of the product; default 1024, the paper's.
        hidden_width: width of the classifier's hidden layers; default 1000, the paper's.
        dropout: of the classifier; default 0.5, the paper's.
        activation: `"tanh"`, the paper's and the default, or `"relu"`.
    """

    name: ClassVar[str] = "product"

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        width: int = 1024,
        hidden_width: int = 1000,
        dropout: float = 0.5,
        activation: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        super().__init__(hidden_width, dropout)
        self.sight = nn.Linear(sight_width, width)
        self.words = nn.Linear(words_width, width)
        self.activation = activation
        self.joint_width = width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        act = torch.tanh if self.activation == "tanh" else torch.relu
        image = act(self.sight(F.normalize(sight.mean(), dim=1)))  # (B, J)
        return image[:, None] * act(self.words(words.summary))
