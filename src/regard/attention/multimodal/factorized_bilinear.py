"""Factorized bilinear attention."""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper
from regard.attention.multimodal.bilinear_read import BilinearRead, require_positive, scoring

Variant = Literal["paper", "code"]


class FactorizedBilinearRead(BilinearRead):
    """Factorized bilinear attention, MFB: sum pooling over `k` factors, then power and l2 normalisation, then scores.

        z_tn   = Σ_i (U_i q_t) ∘ (V_i m_n)                     for the factors i = 1..k
        f_tn   = r / |r|₂ with r = sign(z_tn) √|z_tn|
        a^g_tn = softmax over n of W2 relu(W1 f_tn + b1)       for the glimpses g = 1..G
        c_t    = [Σ_n a^1_tn m_n; ...; Σ_n a^G_tn m_n]

    Every pair has a vector `z` of its own, so that memory grows with `T·N·K`.

    Paper: Yu, Yu, Fan, Tao, "Multi-modal Factorized Bilinear Pooling with Co-attention Learning for Visual Question
    Answering", ICCV 2017.

    Args:
        query_width: width `Q` of a query, an encoded question.
        memory_width: width `M` of a memory token, a cell of an image.
        joint_width: width `K` of the fused vector, the paper's o; default 1000, the paper's choice.
        factors: how many factors `k` are summed; default 5, the paper's choice.
        hidden_width: width `H` of the scoring network; default 512, as in the authors' code.
        glimpses: number of attention maps `G`; default 2.
        bias: whether `U` and `V` have biases; default False, as the equation is written.
        variant: `"paper"`, the default, as above; `"code"`, the l2 norm is over all tokens of a query together.
        dropout: probability of dropping, in training, an entry of the products that are summed; default 0. The authors'
            code has 0.1. With it every pair has all its `k` products, and memory grows with `T·N·k·K`.

    Shapes:
        query `(B, T, Q)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part.
        Gives the context `(B, T, G·M)`; where there is nothing to attend to, it is zero.

    Maps:
        attention: `(batch, glimpse, query, key)`, sums to one over the keys.

    Raises:
        ValueError: a size is less than one, or there is no such variant.
        ShapeError: a width, a batch size or the mask does not fit.
    """

    name: ClassVar[str] = "factorized_bilinear"
    aliases: ClassVar[tuple[str, ...]] = ("mfb",)
    paper: ClassVar[Paper] = Paper(
        "Multi-modal Factorized Bilinear Pooling with Co-attention Learning for Visual Question Answering",
        "Yu et al.",
        "ICCV",
        2017,
    )
    formula: ClassVar[str] = (
        "c_t = concat_g Σ_n softmax_n(W2 relu(W1 l2(√±(Σ_i (U_i q_t) ∘ (V_i m_n))) + b1)) m_n, √±(z) = sign(z) √|z|"
    )
    parameter_count: ClassVar[str] = "(Q + M)*k*K + K*H + H + H*G"
    letters: ClassVar[dict[str, str]] = {
        "Q": "query_width",
        "M": "memory_width",
        "k": "factors",
        "K": "joint_width",
        "H": "hidden_width",
        "G": "glimpses",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=True: both projections have biases, as in the authors' code",
        'variant="code": the l2 norm is over all tokens of a query together, as in the authors\' code',
        "dropout=0.1: drops entries of the products that are summed, as in the authors' code",
    )

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        joint_width: int = 1000,
        factors: int = 5,
        hidden_width: int = 512,
        glimpses: int = 2,
        bias: bool = False,
        variant: Variant = "paper",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(query_width, memory_width, glimpses)
        require_positive(joint_width=joint_width, factors=factors, hidden_width=hidden_width)
        self.joint_width = joint_width
        self.factors = factors
        self.hidden_width = hidden_width
        self.variant = variant
        self.query = nn.Linear(query_width, factors * joint_width, bias=bias)
        self.memory = nn.Linear(memory_width, factors * joint_width, bias=bias)
        self.score = scoring(joint_width, hidden_width, glimpses)
        self.dropout = nn.Dropout(dropout)

    def scores(
        self, query: Float[Tensor, "B T Q"], memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B #T N"] | None
    ) -> Float[Tensor, "B G T N"]:
        parts = (self.factors, self.joint_width)
        asking, asked = self.query(query).unflatten(2, parts), self.memory(memory).unflatten(2, parts)
        if self.training and self.dropout.p:
            pairs = functional.at_least_single(asking)[:, :, None] * functional.at_least_single(asked)[:, None]
            pooled = self.dropout(pairs).sum(3)  # (B, T, N, K)
        else:
            pooled = functional.low_rank_pairs(asking, asked)
        root = functional.signed_root(pooled)
        if self.variant == "code":
            if mask is not None:  # what takes no part is no part of the norm
                root = root * mask[..., None]
            fused = F.normalize(root.flatten(2), dim=2, eps=1e-6).unflatten(2, root.shape[2:])
        else:
            fused = F.normalize(root, dim=3, eps=1e-6)
        return self.score(fused.to(query.dtype)).permute(0, 3, 1, 2)
