"""Block-superdiagonal fusion, BLOCK."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import BlockBilinearRead
from regard.attention.contract import Paper
from regard.attention.multimodal.block_bilinear import BlockLinear
from regard.models.vqa.core import Loss
from regard.models.vqa.cores.bilinear import AttendAndFuse
from regard.models.vqa.layers import QuestionAttention


class BlockFusion(nn.Module):
    """`z^p = l2(√±(Σ_r (M^p_r q̃^p) ∘ (N^p_r ṽ^p)))` of parts `q̃^p`, `ṽ^p` of two projections, side by side."""

    def __init__(self, query_width: int, sight_width: int, joint_width: int, blocks: int, rank: int) -> None:
        super().__init__()
        self.words = nn.Linear(query_width, joint_width)
        self.sight = nn.Linear(sight_width, joint_width)
        self.words_core = BlockLinear(blocks, joint_width // blocks, rank, bias=True)
        self.sight_core = BlockLinear(blocks, joint_width // blocks, rank, bias=True)
        self.blocks = blocks

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        q, v = self.words_core(self.words(question)), self.sight_core(self.sight(seen))  # (B, Q, R, K)
        root = functional.signed_root(functional.low_rank_fusion(q, v)).unflatten(2, (self.blocks, -1))
        return F.normalize(root, dim=3, eps=1e-6).flatten(2)


class Block(AttendAndFuse):
    """Bilinear superdiagonal fusion, BLOCK, in its attention and behind it, over attention to the words.

        q = [Σ_t b^1_t q_t; Σ_t b^2_t q_t]        with b^g = softmax over t of w_gᵀ relu(W q_t + b), the words
        z = [z^1; ...; z^P]                       with z^p = l2(√±(Σ_r (M^p_r (A q)^p) ∘ (N^p_r (B v)^p)))

    and `v` as `BlockBilinearRead` reads it.

    Paper: Ben-younes, Cadene, Thome, Cord, "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and
    Visual Relationship Detection", AAAI 2019, with the sizes of the authors' code. Its words are the states of a GRU of
    2400 (skip-thought vectors), its picture 36 regions of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word.
        joint_width: default 1600; `blocks` divides it.
        blocks: how many parts `P`; default 20.
        rank: of a slice of a block; default 15.
        hidden_width: of the scoring network over the words; default 512.
        glimpses: of words and picture each; default 2.
    """

    name: ClassVar[str] = "block"
    paper: ClassVar[Paper] = BlockBilinearRead.paper
    loss: ClassVar[Loss] = "sampled"
    reads_words: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        joint_width: int = 1600,
        blocks: int = 20,
        rank: int = 15,
        hidden_width: int = 512,
        glimpses: int = 2,
    ) -> None:
        question = QuestionAttention(words_width, hidden_width, glimpses)
        read = BlockBilinearRead(question.width, sight_width, joint_width, blocks, rank, glimpses)
        super().__init__(
            read, BlockFusion(question.width, read.context_width, joint_width, blocks, rank), joint_width, question
        )
