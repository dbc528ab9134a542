"""Class attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.offering import MapFact


class ClassAttention(Read):
    """Class attention: a class token reads the patches, and itself along with them; the patches read nothing.

        z_t    = [m_1; ...; m_N; x_t]                         the patches and the class token x_t
        a^i_tn = softmax over n of (W_q^i x_t)ᵀ (W_k^i z_tn) / √d         for the heads i = 1..h, d = D / h
        c_t    = W_o concat over i of Σ_n a^i_tn W_v^i z_tn + b_o

    Several class tokens read alone, without each other. The residual, the normalisation before and the scale after it
    are those of the block around it.

    Paper: Touvron, Cord, Sablayrolles, Synnaeve, Jégou, "Going deeper with Image Transformers", ICCV 2021.

    Args:
        query_width: width `Dq` of a class token; None if the token is a parameter of this layer. Where it is not
            `memory_width`, a linear layer brings it there; in the paper the two are one.
        memory_width: width `D` of a patch, and of the context.
        heads: number of heads; must divide `memory_width`; default 8.
        bias: whether queries, keys and values have biases; default True, as in the paper's equations. The output has.

    Shapes:
        query `(B, T, Dq)`, or None if the token is learned (`T` = 1); memory `(B, N, D)`; mask `(B, N)` or `(B, T, N)`
        with True = takes part. Gives the context `(B, T, D)`; where there are no patches to attend to, it is zero.

    Maps:
        attention: `(batch, heads, query, key)`, the weights of the patches; the rest to one is that of the class token.

    Raises:
        ValueError: the heads do not divide the width.
        ShapeError: a width, a batch size or the mask does not fit, or a query is missing or too many.
    """

    name: ClassVar[str] = "class_attention"
    aliases: ClassVar[tuple[str, ...]] = ("cait", "class_attn")
    paper: ClassVar[Paper] = Paper("Going deeper with Image Transformers", "Touvron et al.", "ICCV", 2021)
    formula: ClassVar[str] = "c = W_o concat_i Σ_n softmax_n((W_q^i x)ᵀ W_k^i z_n / √d) W_v^i z_n + b_o with z = [m; x]"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "4*D*D + 4*D + Q*D*(Q != D)"
    letters: ClassVar[dict[str, str]] = {"Q": "query_width", "D": "memory_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: queries, keys and values without biases, the default of timm's layer",
    )
    placement: ClassVar[str] = "in the last two blocks of an image transformer, whose other blocks see no class token"

    def __init__(self, query_width: int | None, memory_width: int, heads: int = 8, bias: bool = True) -> None:
        super().__init__()
        self.query_width = memory_width if query_width is None else query_width
        self.memory_width = memory_width
        self.heads = choose_heads(memory_width, heads)
        same = self.query_width == memory_width
        self.embed = nn.Identity() if same else nn.Linear(self.query_width, memory_width, bias=False)
        self.token = None if query_width is not None else nn.Parameter(torch.empty(1, 1, memory_width))
        if self.token is not None:
            nn.init.trunc_normal_(self.token, std=0.02)
        self.query = nn.Linear(memory_width, memory_width, bias=bias)
        self.key = nn.Linear(memory_width, memory_width, bias=bias)
        self.value = nn.Linear(memory_width, memory_width, bias=bias)
        self.output = nn.Linear(memory_width, memory_width)

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self,
        query: Float[Tensor, "B T Dq"] | None,
        memory: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B *T N"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        if (query is None) != (self.token is not None):
            raise self.refuse(
                "no query" if query is None else "a query",
                "one" if query is None else "none",
                "give class tokens where query_width is a number, and None where it is None",
            )
        query = self.token.expand(memory.shape[0], -1, -1) if query is None and self.token is not None else query
        assert query is not None
        mask = self.check(query, memory, mask)
        memory, undefined = functional.exclude_nonfinite(memory, mask)
        token = self.embed(query)  # (B, T, D)
        q, own_key, own_value = (self.split(layer(token)) for layer in (self.query, self.key, self.value))
        k, v = self.split(self.key(memory)), self.split(self.value(memory))  # (B, h, N, d)
        weights, own = functional.own_token_weights(q, k, own_key, None if mask is None else mask[:, None])
        weights = self.offer("attention", weights)
        read = weights @ v + own * own_value  # (B, h, T, d)
        context = self.output(read.transpose(1, 2).flatten(2))  # (B, T, D)
        context = functional.mark_undefined(context, undefined)
        return context if mask is None else context.masked_fill(~mask.any(-1, keepdim=True), 0.0)

    def split(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B h N d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
