"""Linear attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact, Request


class LinearAttention(MultiHeadSelfAttention):
    """Linear attention: multi-head self-attention whose exponential is a product of features, in linear time.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        φ(z)    = elu(z) + 1
        a_tn    = φ(q_t) · φ(k_n) / Σ_m φ(q_t) · φ(k_m)                            in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h] + bo

    computed as `φ(q_t)ᵀ (Σ_n φ(k_n) v_nᵀ)`, which never forms a pair. Without a residual and without normalisation.

    Paper: Katharopoulos, Vyas, Pappas, Fleuret, "Transformers are RNNs: Fast Autoregressive Transformers with Linear
    Attention", ICML 2020, equations 5 to 9. The biases are those of the authors' code.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8, the authors' choice. It divides `channels`.
        causal: whether a token reads itself and those before it alone, the paper's section 3.3; default False.
        bias: whether the four projections have biases; default True.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "linear"
    aliases: ClassVar[tuple[str, ...]] = ("linear_transformer", "linear_attn")
    paper: ClassVar[Paper] = Paper(
        "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        "Katharopoulos et al.",
        "ICML",
        2020,
    )
    formula: ClassVar[str] = "y_t = Wo concat_h(φ(q_t)ᵀ Σ_n φ(k_n) v_nᵀ / φ(q_t)ᵀ Σ_n φ(k_n)) + bo, φ = elu + 1"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
    )
    placement: ClassVar[str] = "in place of multi-head self-attention where sequences are long"
    place = "branch"

    def __init__(self, channels: int, heads: int = 8, causal: bool = False, bias: bool = True) -> None:
        super().__init__(channels, heads, bias)
        self.causal = causal

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, taking_part = take_part(self, x, mask)  # (B, 1, N, 1)
        undefined = None
        if self.causal:
            x, undefined = functional.exclude_nonfinite_causal(x)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        query, key = self.features(query, key, taking_part)  # (B, h, N, f)

        def attention(request: Request) -> Float[Tensor, "B h T N"]:
            return self.weights(query, key, request).to(value.dtype)

        replaced = self.offer("attention", attention)
        read = functional.feature_read(query, key, value, self.causal) if replaced is None else replaced @ value
        return functional.mark_undefined(self.output(read.transpose(1, 2).flatten(2)), undefined)  # (B, N, C)

    def features(
        self, query: Float[Tensor, "B h N d"], key: Float[Tensor, "B h N d"], mask: Bool[Tensor, "B 1 N 1"] | None
    ) -> tuple[Float[Tensor, "B h N f"], Float[Tensor, "B h N f"]]:
        """`φ` of queries and keys; zero for a key that takes no part."""
        key = functional.elu_features(key)
        return functional.elu_features(query), key if mask is None else key.masked_fill(~mask, 0.0)

    def weights(
        self, query: Float[Tensor, "B h N f"], key: Float[Tensor, "B h N f"], request: Request
    ) -> Float[Tensor, "B H T N"]:
        """The rows of the map that a listener asks for, from features."""
        rows = request.pick(query, heads=1, queries=2)
        key = request.pick(key, heads=1)
        reach = None
        if self.causal:
            reach = request.pick(functional.causal_mask(key.shape[2], key.device), queries=0)  # (T, N)
        return functional.feature_weights(rows, key, reach)


def take_part(
    module: MultiHeadSelfAttention, x: Float[Tensor, "B N C"], mask: Tensor | None
) -> tuple[Float[Tensor, "B N C"], Bool[Tensor, "B 1 N 1"] | None]:
    """Give the tokens that the mask leaves out nothing to pass on, and the mask the axes of keys `(B, h, N, d)`.

    A mask by pairs is refused: all queries share one sum over the keys.
    """
    if mask is not None and mask.ndim != 2:
        raise module.refuse(
            f"a mask of shape {tuple(mask.shape)}",
            f"({x.shape[0]}, {x.shape[1]})",
            "give one boolean for each token; pairs are never formed and so cannot be masked",
        )
    x, spread, _ = module.take_part(x, mask)  # (B, 1, 1, N)
    return x, None if spread is None else spread.transpose(2, 3)
