"""What the cores of visual question answering share: the part between the encoders and the classifier."""

from abc import abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words

Loss = Literal["consensus", "sampled", "distribution", "soft", "likelihood"]
"""What a model is trained with: cross entropy with the one answer that most people gave; or with one drawn from theirs;
the divergence from the distribution of all; binary cross entropy with the score that each would earn; or, of a model
that says its answers word by word, how unlikely it finds what people said. `regard.tasks.vqa.answers` has all five."""


class Core(nn.Module):
    """Joins what is seen and what is asked: `(Sight, Words)` → one vector a question.

    Class attributes:
        name: the short name that `create` takes.
        paper: where it was published.
        loss: what its paper trained with.
        attends: whether it has attention to show; what has none is what attention is compared with.
        grid: whether it convolves over the picture's grid, and so takes no regions.
        reads_words: whether it reads the words, and not their summary alone.

    Attributes:
        joint_width: width `J` of what it gives.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    loss: ClassVar[Loss]
    attends: ClassVar[bool] = True
    grid: ClassVar[bool] = False
    reads_words: ClassVar[bool] = False
    joint_width: int

    def classifier(self, answers: int) -> nn.Module:
        """The paper's classifier of what this gives, to the logits of so many answers."""
        return nn.Linear(self.joint_width, answers)

    @abstractmethod
    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        """One vector a question."""
