"""Block-superdiagonal fusion, BLOCK."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention import BlockBilinearRead
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead, scoring
from regard.attention.multimodal.block_bilinear import BlockLinear, part_width, rooted
from regard.models.vqa.core import Loss
from regard.models.vqa.cores.bilinear import AttendAndFuse
from regard.models.vqa.layers import QuestionAttention


class BlockFusion(nn.Module):
    """`z^p = l2(√±(Σ_r (M^p_r q̃^p) ∘ (N^p_r ṽ^p)))` of parts `q̃^p`, `ṽ^p` of two projections, side by side.

    With dropout of the projections `q̃` and `ṽ`.
    """

    def __init__(
        self, query_width: int, sight_width: int, joint_width: int, blocks: int, rank: int, dropout: float
    ) -> None:
        super().__init__()
        width = part_width(joint_width, blocks)
        self.words = nn.Linear(query_width, joint_width)
        self.sight = nn.Linear(sight_width, joint_width)
        self.words_core = BlockLinear(blocks, width, rank, bias=True)
        self.sight_core = BlockLinear(blocks, width, rank, bias=True)
        self.blocks = blocks
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B Q Dv"]) -> Float[Tensor, "B Q K"]:
        return rooted(functional.low_rank_fusion(*self.factors(question, seen)), self.blocks)

    def pairs(self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B N Dv"]) -> Float[Tensor, "B Q N K"]:
        """The fusion of every question with every token."""
        return rooted(functional.low_rank_pairs(*self.factors(question, seen)), self.blocks).to(question.dtype)

    def factors(
        self, question: Float[Tensor, "B Q Dq"], seen: Float[Tensor, "B N Dv"]
    ) -> tuple[Float[Tensor, "B Q R K"], Float[Tensor, "B N R K"]]:
        """What is multiplied: `M q̃` and `N ṽ`."""
        words, sight = self.dropout(self.words(question)), self.dropout(self.sight(seen))
        return self.words_core(words), self.sight_core(sight)


class BlockRead(BilinearRead):
    """`a^g = softmax over n of w_gᵀ relu(W U z_n + b)` with `z_n` the `BlockFusion` of the question and token `n`.

    Args:
        query_width, memory_width, glimpses: as of `BilinearRead`.
        joint_width, blocks, rank, dropout: of the fusion.
        fused_width: width of `U z_n + c`.
        hidden_width: width of the scoring network behind it.
    """

    name: ClassVar[str] = "block_fusion"

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        joint_width: int,
        blocks: int,
        rank: int,
        fused_width: int,
        hidden_width: int,
        glimpses: int,
        dropout: float,
    ) -> None:
        super().__init__(query_width, memory_width, glimpses)
        self.fuse = BlockFusion(query_width, memory_width, joint_width, blocks, rank, dropout)
        self.output = nn.Linear(joint_width, fused_width)
        self.score = scoring(fused_width, hidden_width, glimpses)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        return self.score(self.output(self.fuse.pairs(query, memory))).permute(0, 3, 1, 2)


class Block(AttendAndFuse):
    """Bilinear superdiagonal fusion, BLOCK, in its attention and behind it, over attention to the words.

        q = [Σ_t b^1_t q_t; Σ_t b^2_t q_t]        with b^g = softmax over t of w_gᵀ relu(W q_t + b), the words
        v = [Σ_n a^1_n v_n; Σ_n a^2_n v_n]        with a^g = softmax over n of w'_gᵀ relu(W' (U z(q, v_n) + c) + b')
        z(q, v) = [z^1; ...; z^P]                 with z^p = l2(√±(Σ_r (M^p_r (A q)^p) ∘ (N^p_r (B v)^p)))

    and the attention's `z` has parameters of its own. Every pair of a question and a token has such a vector.

    Paper: Ben-younes, Cadene, Thome, Cord, "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and
    Visual Relationship Detection", AAAI 2019, in the form of the authors' code, which for every region drops other
    entries of the question's projection: here, the same for all. Its words are the states of a GRU of 2400
    (skip-thought vectors), its picture 36 regions of 2048.

    Args:
        sight_width: width of a picture's token.
        words_width: width of a word.
        joint_width: default 1600, as in the authors' code; `blocks` divides it.
        blocks: how many parts `P`; default 20, as in the fusion of the authors' code, whose options for visual question
            answering have 18, the last one narrower.
        rank: of a slice of a block; default 15, as there.
        hidden_width: of both scoring networks; default 512, as there.
        glimpses: of words and picture each; default 2, as there.
        fused_width: of what the attention's fusion gives, `U z + c`; default 1000, as there.
        dropout: of the projections `A q` and `B v` of both fusions; default 0.1, as there.

    Raises:
        ValueError: `blocks` does not divide `joint_width`.
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
        fused_width: int = 1000,
        dropout: float = 0.1,
    ) -> None:
        question = QuestionAttention(words_width, hidden_width, glimpses)
        read = BlockRead(
            question.width, sight_width, joint_width, blocks, rank, fused_width, hidden_width, glimpses, dropout
        )
        fuse = BlockFusion(question.width, read.context_width, joint_width, blocks, rank, dropout)
        super().__init__(read, fuse, joint_width, question)
