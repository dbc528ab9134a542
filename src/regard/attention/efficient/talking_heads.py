"""Talking-heads attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact


class TalkingHeadsAttention(MultiHeadSelfAttention):
    """Talking-heads attention: the heads exchange their scores before the softmax, and their weights after it.

        q, k, v = Wq x, Wk x, Wv x, each cut into h heads
        a^i_tn  = softmax over n of Σ_j L_ij q^j_t · k^j_n / √d              in every head i
        y_t     = Wo concat over i of Σ_n (Σ_j P_ij a^j_tn) v^i_n

    Without a residual and without normalisation.

    Paper: Shazeer, Lan, Cheng, Ding, Hou, "Talking-Heads Attention", arXiv 2020, section 3; its listings leave the
    factor 1/√d to the initial values of `Wq`.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads `h`; default 8. It divides `channels`.
        bias: whether the four projections have biases; default False, as in the paper.
        mixing_bias: whether the mixtures `L` and `P` have biases; default False.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys; before `P` mixes it.

    Raises:
        ValueError: `heads` does not divide `channels`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "talking_heads"
    aliases: ClassVar[tuple[str, ...]] = ("talking_heads_attn",)
    paper: ClassVar[Paper] = Paper("Talking-Heads Attention", "Shazeer et al.", "arXiv", 2020)
    formula: ClassVar[str] = "y = Wo concat_i((Σ_j P_ij softmax(Σ_l L_jl q_l k_lᵀ / √d)) v_i)"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "4*C*C + 2*h*h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "h": "heads"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=True: projections with biases",
        "mixing_bias=True: both mixtures with biases, as in CaiT (Touvron et al. 2021)",
    )
    placement: ClassVar[str] = "in every block of a transformer, after a layer normalisation and inside a residual"
    place = "branch"

    def __init__(self, channels: int, heads: int = 8, bias: bool = False, mixing_bias: bool = False) -> None:
        super().__init__(channels, heads, bias)
        self.mix_scores = nn.Conv2d(heads, heads, 1, bias=mixing_bias)
        self.mix_weights = nn.Conv2d(heads, heads, 1, bias=mixing_bias)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        query, key, value = self.project(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        scores = functional.dot_scores(query, key, query.shape[3] ** -0.5)  # (B, h, N, N)
        weight, bias = self.mix_scores.weight, self.mix_scores.bias
        mixed = F.conv2d(
            scores, functional.at_least_single(weight), None if bias is None else functional.at_least_single(bias)
        )
        weights = functional.masked_softmax(mixed, mask).to(value.dtype)  # (B, h, N, N)
        weights = self.offer("attention", weights)
        mixed = self.mix_weights(weights)
        if mask is not None:
            mixed = mixed.masked_fill(~mask, 0.0)  # what a bias of the mixture gave to tokens that take no part
        context = self.output((mixed @ value).transpose(1, 2).flatten(2))  # (B, N, C)
        return functional.mark_undefined(context, undefined)
