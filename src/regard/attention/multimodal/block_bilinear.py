"""Block-superdiagonal bilinear attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead, require_positive


class BlockBilinearRead(BilinearRead):
    """Block bilinear attention, BLOCK: the core of the score's tensor is zero but for blocks on its superdiagonal.

        q̃_t, m̃_n = A q_t, B m_n, each cut into P parts
        z^p_tn   = Σ_r (M^p_r q̃^p_t) ∘ (N^p_r m̃^p_n)       p = 1..P, r = 1..R
        a^g_tn   = softmax over n of w_gᵀ [z^1_tn; ...; z^P_tn]
        c_t      = [Σ_n a^1_tn m_n; ...; Σ_n a^G_tn m_n]

    A part alone is MUTAN without its tanh; parts of one channel are MLB without it.

    Paper: Ben-younes, Cadene, Thome, Cord, "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and
    Visual Relationship Detection", AAAI 2019, with blocks whose slices have rank `R`.

    Args:
        query_width: width `Q` of a query, an encoded question.
        memory_width: width `M` of a memory token, a region of an image.
        joint_width: the widths `K` of `q̃`, `m̃` and `z`; default 1600, as in the authors' code. `blocks` divides it.
        blocks: how many parts `P`; default 20, as in the authors' code, whose options for visual question answering
            have 18, the last one narrower.
        rank: the rank `R` of a slice of a block; default 15, as in the authors' code.
        glimpses: number of attention maps `G`; default 2.
        bias: whether the projections and the factors of the blocks have biases; default False, as the equations are
            written.
        normalize: whether every `z^p` goes through `sign(z) √|z|` and is divided by its l2 norm; default False. If so,
            every pair has a vector `z` of its own, and memory grows with `T·N·K`.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, G·M)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, glimpse, query, key)`, sums to one over the keys.

    Raises:
        ValueError: a size is less than one, or `blocks` does not divide `joint_width`.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "block_bilinear"
    aliases: ClassVar[tuple[str, ...]] = ("block",)
    paper: ClassVar[Paper] = Paper(
        "BLOCK: Bilinear Superdiagonal Fusion for Visual Question Answering and Visual Relationship Detection",
        "Ben-younes et al.",
        "AAAI",
        2019,
    )
    formula: ClassVar[str] = "c_t = concat_g Σ_n softmax_n(w_gᵀ concat_p Σ_r (M^p_r (A q_t)^p) ∘ (N^p_r (B m_n)^p)) m_n"
    parameter_count: ClassVar[str] = "(Q + M)*K + 2*R*K*L + G*K"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "K": "joint_width",
        "L": "block_width",
        "R": "rank",
        "G": "glimpses",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=True: all linear layers have biases, as in the authors' code",
        "normalize=True: power and l2 normalisation of every block's output, as in the authors' code",
    )

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        joint_width: int = 1600,
        blocks: int = 20,
        rank: int = 15,
        glimpses: int = 2,
        bias: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__(query_width, memory_width, glimpses)
        require_positive(rank=rank)
        self.joint_width = joint_width
        self.blocks = blocks
        self.block_width = part_width(joint_width, blocks)
        self.rank = rank
        self.normalize = normalize
        self.query = nn.Linear(query_width, joint_width, bias=bias)
        self.memory = nn.Linear(memory_width, joint_width, bias=bias)
        self.query_core = BlockLinear(blocks, self.block_width, rank, bias)
        self.memory_core = BlockLinear(blocks, self.block_width, rank, bias)
        self.score = nn.Parameter(torch.randn(glimpses, joint_width) * joint_width**-0.5)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        asking, asked = self.query_core(self.query(query)), self.memory_core(self.memory(memory))  # (B, T or N, R, K)
        if not self.normalize:
            return functional.low_rank_scores(asking, asked, self.score)
        fused = rooted(functional.low_rank_pairs(asking, asked), self.blocks)  # (B, T, N, K)
        return (fused.to(query.dtype) @ self.score.T).permute(0, 3, 1, 2)


def part_width(joint_width: int, blocks: int) -> int:
    """The width of each of so many parts.

    Raises:
        ValueError: there are none, or they are not of one width.
    """
    require_positive(joint_width=joint_width, blocks=blocks)
    if joint_width % blocks:
        raise ValueError(
            f"{blocks} blocks do not divide joint_width={joint_width}: choose blocks that do, "
            f"or joint_width={-(-joint_width // blocks) * blocks}."
        )
    return joint_width // blocks


def rooted(fused: Float[Tensor, "*lead K"], blocks: int) -> Float[Tensor, "*lead K"]:
    """Each of so many parts of `√±x`, brought to length one."""
    return F.normalize(functional.signed_root(fused).unflatten(-1, (blocks, -1)), dim=-1, eps=1e-6).flatten(-2)


class BlockLinear(nn.Module):
    """`R` linear layers whose matrices are block-diagonal: part `p` of what each gives sees part `p` of `x` alone.

    Args:
        blocks: how many parts `P`.
        width: width `L` of a part.
        rank: how many layers `R`.
        bias: whether they have biases.
    """

    def __init__(self, blocks: int, width: int, rank: int, bias: bool) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(blocks, rank, width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(rank, blocks * width).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Float[Tensor, "B N K"]) -> Float[Tensor, "B N R K"]:
        parts = x.unflatten(2, (self.weight.shape[0], -1))  # (B, N, P, L)
        y = torch.einsum("bnpi,proi->bnrpo", parts, self.weight).flatten(3)  # (B, N, R, K)
        return y if self.bias is None else y + self.bias
