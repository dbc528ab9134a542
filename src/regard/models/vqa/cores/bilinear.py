"""What the bilinear models share: attention whose score is a bilinear fusion, and the same fusion of what it read."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import Read
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import QuestionAttention
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class AttendAndFuse(Core):
    """`z = fuse(q, v)` with `v = read(q; picture)` and `q` the question's summary, or what its words' attention makes.

    Args:
        read: from question and picture to what is seen.
        fuse: from question and what is seen, `(B, Q, _)` each, to `(B, Q, J)`.
        joint_width: width `J`.
        question: attention to the words; None: the summary is the question.
        normalize: whether the picture's tokens are brought to length one.
    """

    loss: ClassVar[Loss] = "sampled"

    def __init__(
        self,
        read: Read,
        fuse: nn.Module,
        joint_width: int,
        question: QuestionAttention | None = None,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.question = question
        self.read = read
        self.fuse = fuse
        self.normalize = normalize
        self.joint_width = joint_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        question = words.summary if self.question is None else self.question(words)
        tokens = F.normalize(sight.tokens, dim=2) if self.normalize else sight.tokens
        with sight.looking():
            seen = self.read(question, tokens, sight.mask)
        return self.fuse(question, seen)
