"""Grouped-query attention."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.contract import Paper
from regard.attention.offering import MapFact, Request


class GroupedQueryAttention(MultiHeadSelfAttention):
    """Grouped-query attention: `h` heads of queries share `G` heads of keys and values, `h / G` neighbours each.

        q, k, v = Wq x, Wk x, Wv x, cut into h, G and G heads of d = C / h channels
        a_tn    = softmax over n of q_t · k_n / √d, the key of the query's group      in every head
        y_t     = Wo [Σ_n a_tn v_n in head 1; ...; in head h]

    With one group it is multi-query attention, with `h` groups multi-head self-attention. What it saves is memory: of
    keys and values, which a decoder keeps. Without a residual and without normalisation.

    Paper: Ainslie, Lee-Thorp, de Jong, Zemlyanskiy, Lebrón, Sanghai, "GQA: Training Generalized Multi-Query Transformer
    Models from Multi-Head Checkpoints", EMNLP 2023, section 2.2; one group: Shazeer, arXiv 2019.

    Args:
        channels: channels `C` of the tokens.
        heads: how many heads of queries `h`; default 8. It divides `channels`.
        groups: how many heads of keys and values `G`; default 2 (the paper has 8 groups of 64 heads). It divides
            `heads`.
        bias: whether the four projections have biases; default False, as in the paper's model.

    Shapes:
        x: `(B, N, C)`, mask `(B, N)` or `(B, N, N)` (query, key) with True = takes part. Gives the same shape as `x`.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or `groups` does not divide `heads`.
        ShapeError: the input has another channel count, or the mask does not fit.
    """

    name: ClassVar[str] = "grouped_query"
    aliases: ClassVar[tuple[str, ...]] = ("gqa", "group_query_attention")
    paper: ClassVar[Paper] = Paper(
        "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints",
        "Ainslie et al.",
        "EMNLP",
        2023,
    )
    formula: ClassVar[str] = "y = Wo concat_h(softmax(q_h k_gᵀ / √d) v_g), g = ⌊h G / heads⌋"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "2*C*C + 2*C*E"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "E": "key_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "groups=1: multi-query attention (Shazeer 2019), one head of keys and values for all",
        "bias=True: projections with biases, as in the multi-query layers of some language models",
    )
    placement: ClassVar[str] = "in every block of a decoder, where the keys and values of all tokens so far are kept"
    place = "branch"

    def __init__(self, channels: int, heads: int = 8, groups: int = 2, bias: bool = False) -> None:
        super().__init__(channels, heads, bias)
        if groups < 1 or heads % groups:
            divisors = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
            raise ValueError(f"groups={groups} does not divide heads={heads}: choose groups among {divisors}.")
        self.groups = groups
        self.key_width = groups * (channels // heads)
        self.project = nn.Linear(channels, channels + 2 * self.key_width, bias=bias)

    def forward(self, x: Float[Tensor, "B N C"], mask: Bool[Tensor, "B *T N"] | None = None) -> Float[Tensor, "B N C"]:
        self.check(x)
        x, mask, undefined = self.take_part(x, mask)  # (B, 1, 1 or N, N)
        projected = self.project(x).unflatten(2, (self.heads + 2 * self.groups, -1)).transpose(1, 2)
        query, key, value = projected.split([self.heads, self.groups, self.groups], dim=1)  # (B, h or G, N, d)
        key, value = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (key, value))

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            return functional.scaled_dot_product_weights(
                request.pick(query, heads=1, queries=2),
                request.pick(key, heads=1),
                mask if mask is None or mask.shape[2] == 1 else request.pick(mask, queries=2),
            )

        replaced = self.offer("attention", attention)
        if replaced is None:
            context = functional.scaled_dot_product_attention(query, key, value, mask)  # (B, h, N, d)
        else:
            context = replaced @ value
        return functional.mark_undefined(self.output(context.transpose(1, 2).flatten(2)), undefined)  # (B, N, C)
