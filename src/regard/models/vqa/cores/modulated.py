"""Feature-wise linear modulation, FiLM: the question scales and shifts every channel of a residual network."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention import FeatureWiseModulation
from regard.attention.contract import Paper
from regard.attention.norm import BatchNorm
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class ModulatedBlock(nn.Module):
    """`r + relu(film(norm(conv(r)); q))` with `r = relu(conv1([x; where]))`.

    Args:
        channels: channels `C` of the map.
        words_width: width of the question.
    """

    def __init__(self, channels: int, words_width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels + 2, channels, 1)
        self.convolve = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = BatchNorm(channels, affine=False)
        self.film = FeatureWiseModulation(channels, words_width)

    def forward(
        self, x: Float[Tensor, "M C h w"], where: Float[Tensor, "M 2 h w"], question: Float[Tensor, "M D"]
    ) -> Float[Tensor, "M C h w"]:
        mixed = self.mix(torch.cat((x, where), 1)).relu()
        return mixed + self.film(self.norm(self.convolve(mixed)), question).relu()


class PooledClassifier(nn.Module):
    """`W2 relu(norm(W1 z)) + b2`, with a batch normalisation over all questions of all pictures."""

    def __init__(self, width: int, hidden_width: int, answers: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_width, bias=False)
        self.norm = BatchNorm(hidden_width)
        self.output = nn.Linear(hidden_width, answers)

    def forward(self, joint: Float[Tensor, "B Q J"]) -> Float[Tensor, "B Q answers"]:
        return self.output(self.norm(self.hidden(joint.flatten(0, 1))).relu()).unflatten(0, joint.shape[:2])


class Modulated(Core):
    """FiLM network: residual blocks whose channels the question scales and shifts, then the maximum over the picture.

        x <- r + relu((1 + Δγ) norm(conv(r)) + β)        with r = relu(conv1([x; where])) and [Δγ; β] = W q + b
        z  = max over positions of relu(norm(conv1([x; where])))

    Paper: Perez, Strub, de Vries, Dumoulin, Courville, "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI
    2018, with its sizes. Its question is the last state of a GRU of 4096 over vectors of 200, its picture 14 by 14
    cells of 1024.

    Args:
        sight_width: width of a picture's cell.
        words_width: width of the questions.
        channels: of the residual blocks; default 128.
        blocks: how many; default 4.
        joint_width: width of `z`; default 512.
        classifier_width: of the classifier's hidden layer; default 1024.
    """

    name: ClassVar[str] = "film"
    paper: ClassVar[Paper] = FeatureWiseModulation.paper
    loss: ClassVar[Loss] = "consensus"
    grid: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        channels: int = 128,
        blocks: int = 4,
        joint_width: int = 512,
        classifier_width: int = 1024,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(sight_width + 2, channels, 3, padding=1, bias=False), BatchNorm(channels), nn.ReLU()
        )
        self.blocks = nn.ModuleList(ModulatedBlock(channels, words_width) for _ in range(blocks))
        self.head = nn.Sequential(
            nn.Conv2d(channels + 2, joint_width, 1, bias=False), BatchNorm(joint_width), nn.ReLU()
        )
        self.classifier_width = classifier_width
        self.joint_width = joint_width

    def classifier(self, answers: int) -> nn.Module:
        return PooledClassifier(self.joint_width, self.classifier_width, answers)

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        image = sight.as_map()  # (B, D, h, w)
        where = sight.coordinates().transpose(1, 2).unflatten(2, image.shape[2:])  # (B, 2, h, w)
        x = self.stem(torch.cat((image, where), 1))  # once a picture
        questions = words.summary.shape[1]
        x, where = (y[:, None].expand(-1, questions, -1, -1, -1).flatten(0, 1) for y in (x, where))  # (B·Q, _, h, w)
        for block in self.blocks:
            x = block(x, where, words.summary.flatten(0, 1))
        return words.apart(self.head(torch.cat((x, where), 1)).amax((2, 3)))
