"""Multi-head self-attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact, Request


class MultiHeadSelfAttention(Refine):
    """Multi-head self-attention: every token reads all tokens, in `h` subspaces of `d = C / h` channels at once.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_tn    = softmax over n of q_t · k_n / √d                                 in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h] + bo

    Without a residual and without normalisation, which are those of the block around it. A token that may attend to
    nothing gets `bo`.

    Paper: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is All You Need", NeurIPS
    2017, equation 1 and section 3.2.2; the biases are those of the authors' later code and of `nn.MultiheadAttention`.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8, the paper's choice. It divides `channels`.
        bias: whether the four projections have biases; default True.
        dropout: probability of dropping a weight in training; default 0.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.
            What the mask leaves out has no influence, NaN and infinity included. With a mask of pairs, the result of a
            token that may read one with NaN or infinity is NaN; so is that of such a token itself if any may read it.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys; before dropout.

    Raises:
        ValueError: `heads` does not divide `channels`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "multi_head_self"
    aliases: ClassVar[tuple[str, ...]] = ("mha", "mhsa", "self_attention", "multihead_attention", "sa_block", "sdpa")
    paper: ClassVar[Paper] = Paper("Attention Is All You Need", "Vaswani et al.", "NeurIPS", 2017)
    formula: ClassVar[str] = "y = Wo concat_h(softmax(q_h k_hᵀ / √d) v_h) + bo"
    layout = "tokens"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "4*C*C + 4*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
        "dropout=0.1: drops weights in training, as in the authors' later code; the paper drops no weights",
    )
    placement: ClassVar[str] = "in every block of a transformer, after a layer normalisation and inside a residual"
    place = "branch"

    def __init__(self, channels: int, heads: int = 8, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.heads = choose_heads(channels, heads)
        self.dropout = dropout
        self.project = nn.Linear(channels, 3 * channels, bias=bias)
        self.output = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)

        def attention(request: Request) -> Float[Tensor, "B h T N"]:
            return functional.scaled_dot_product_weights(
                request.pick(query, heads=1, queries=2),
                request.pick(key, heads=1),
                mask if mask is None or mask.shape[2] == 1 else request.pick(mask, queries=2),
            )

        dropout = self.dropout if self.training else 0.0
        replaced = self.offer("attention", attention)
        if replaced is None:
            context = functional.scaled_dot_product_attention(query, key, value, mask, dropout)  # (B, h, N, d)
        else:
            context = F.dropout(replaced, dropout) @ value
        return functional.mark_undefined(self.output(context.transpose(1, 2).flatten(2)), undefined)  # (B, N, C)

    def take_part(
        self, x: Float[Tensor, "B N C"], mask: Tensor | None
    ) -> tuple[Float[Tensor, "B N C"], Bool[Tensor, "B 1 #N N"] | None, Bool[Tensor, "B N 1"] | None]:
        """Give tokens of which those left out have nothing to pass on, the mask with an axis for the heads, and the
        tokens whose result is undefined (`functional.exclude_nonfinite`)."""
        spread = self.spread_mask(mask, x)
        x, undefined = functional.exclude_nonfinite(x, None if spread is None else spread[:, 0], queries=True)
        return x, spread, undefined

    def spread_mask(self, mask: Tensor | None, x: Tensor) -> Bool[Tensor, "B 1 #N N"] | None:
        """Refuse a mask that is not boolean or does not fit; give it an axis for the heads, and one for the queries."""
        if mask is None:
            return None
        B, N = x.shape[:2]
        if mask.dtype != torch.bool:
            raise self.refuse(
                f"a mask of type {mask.dtype}", "a boolean mask, True = takes part", "convert it with .bool()"
            )
        if tuple(mask.shape) == (B, N):
            return mask[:, None, None]
        if tuple(mask.shape) == (B, N, N):
            return mask[:, None]
        raise self.refuse(
            f"a mask of shape {tuple(mask.shape)}",
            f"({B}, {N}) or ({B}, {N}, {N})",
            "give one boolean for each token, or for each query and token",
        )
