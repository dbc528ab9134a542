"""Self-attention in a fixed pattern."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact

Pattern = Literal["causal", "strided", "sliding_window", "prefix", "block_diagonal"]


class PatternedAttention(MultiHeadSelfAttention):
    """Self-attention in a fixed pattern: token `t` reads the tokens of a set `S_t` that is known beforehand.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_tn    = softmax over n in S_t of q_t · k_n / √d                             in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h] + bo

    The pattern is a mask of pairs: it says what a token may see, and saves no time. Every token is in its own set.
    Without a residual and without normalisation.

    Paper: Child, Gray, Radford, Sutskever, "Generating Long Sequences with Sparse Transformers", arXiv 2019, equations
    2 to 4, which has the patterns `"causal"` and `"strided"`.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8. It divides `channels`.
        pattern: which tokens `S_t` are. `"causal"`, the default: all `n <= t`. `"strided"`: of those the last
            `t - n <= l`, and all that are a multiple of `l` back. `"sliding_window"`: `|t - n| <= l`. `"prefix"`:
            `n < l`, and all `n <= t`. `"block_diagonal"`: those of the same block of `l` tokens.
        extent: the length `l` of window, stride, prefix or block; default 128, the paper's stride for images.
            `"causal"` has none.
        bias: whether the four projections have biases; default True.
        dropout: probability of dropping a weight in training; default 0.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part, which the pattern narrows.
            Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys; before dropout.

    Raises:
        ValueError: `heads` does not divide `channels`, there is no such `pattern`, or `extent` is less than one.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "patterned"
    aliases: ClassVar[tuple[str, ...]] = ("sparse_transformer", "sparse_attention")
    paper: ClassVar[Paper] = Paper("Generating Long Sequences with Sparse Transformers", "Child et al.", "arXiv", 2019)
    formula: ClassVar[str] = "y_t = Wo concat_h(Σ_n∈S_t softmax_n∈S_t(q_t · k_n / √d) v_n) + bo"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    deviations: ClassVar[tuple[str, ...]] = (
        'pattern="sliding_window": a window to both sides, Beltagy et al. 2020 (Longformer)',
        'pattern="prefix": causal behind a prefix that all tokens read, Raffel et al. 2020 (T5)',
        'pattern="block_diagonal": blocks that do not see each other, Qiu et al. 2020 (BlockBERT)',
    )
    placement: ClassVar[str] = "in every block of a language model, after a layer normalisation and inside a residual"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        pattern: Pattern = "causal",
        extent: int = 128,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(channels, heads, bias, dropout)
        self.pattern = pattern
        self.extent = extent

    def spread_mask(self, mask: Tensor | None, x: Tensor) -> Bool[Tensor, "B 1 N N"]:
        """The pairs of the pattern, less those that the mask leaves out."""
        pairs = self.pairs(x.shape[1], x.device)  # (N, N)
        mask = super().spread_mask(mask, x)
        return pairs.expand(x.shape[0], 1, -1, -1) if mask is None else pairs & mask

    def pairs(self, count: int, device: torch.device) -> Bool[Tensor, "count count"]:
        """Which tokens every token reads."""
        key = torch.arange(count, device=device)
        query = key[:, None]
        causal = functional.causal_mask(count, device)
        match self.pattern:
            case "causal":
                return causal
            case "strided":
                back = query - key
                return causal & ((back <= self.extent) | (back % self.extent == 0))
            case "sliding_window":
                return (query - key).abs() <= self.extent
            case "prefix":
                return causal | (key < self.extent)
            case _:  # block_diagonal
                return query // self.extent == key // self.extent
