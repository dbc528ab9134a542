"""Multi-head self-attention with entmax."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact


class EntmaxSelfAttention(MultiHeadSelfAttention):
    """Entmax self-attention: multi-head self-attention whose weights are exactly zero for most tokens.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_t     = α-entmax of q_t · k_n / √d over n = [(α - 1) q_t · k_n / √d - τ_t]₊^(1 / (α - 1))    in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h] + bo

    with the `τ_t` at which the weights sum to one. Without a residual and without normalisation.

    Paper: Correia, Niculae, Martins, "Adaptively Sparse Transformers", EMNLP 2019, equations 5 and 6, with a fixed α;
    1.5-entmax: Peters, Niculae, Martins, ACL 2019; sparsemax: Martins, Astudillo, ICML 2016.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8, the paper's choice. It divides `channels`.
        alpha: 1.5, the default, or 2, which is sparsemax. Both are the paper's.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or `alpha` is neither 1.5 nor 2.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "entmax"
    aliases: ClassVar[tuple[str, ...]] = ("entmax_attention", "adaptively_sparse")
    paper: ClassVar[Paper] = Paper("Adaptively Sparse Transformers", "Correia et al.", "EMNLP", 2019)
    formula: ClassVar[str] = "y = Wo concat_h(α-entmax(q_h k_hᵀ / √d) v_h) + bo"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of multi-head self-attention where a few tokens should explain the result"
    place = "branch"

    def __init__(self, channels: int, heads: int = 8, alpha: float = 1.5, bias: bool = True) -> None:
        super().__init__(channels, heads, bias)
        self.alpha: float = alpha

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        scores = functional.dot_scores(query, key, query.shape[3] ** -0.5)  # (B, h, N, N)
        weights = functional.entmax(scores, self.alpha, mask).to(value.dtype)
        weights = self.offer("attention", weights)
        context = self.output((weights @ value).transpose(1, 2).flatten(2))  # (B, N, C)
        return functional.mark_undefined(context, undefined)
