"""The co-attentional transformer layer."""

from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Read
from regard.attention.heads import MultiHead
from regard.attention.offering import MapFact

Variant = Literal["vilbert", "lxmert"]


class CoAttentionalTransformer(Read):
    """Co-attentional transformer layer: a stream of tokens takes its keys and values from the other stream.

        h = norm(q + heads(q, m))
        c = norm(h + W2 gelu(W1 h + b1) + b2)

    where `heads(x, y)` is multi-head attention from `x` to `y`, and every norm is a layer normalisation of its own. It
    is one stream's half: the layer is two of them, each reading the tokens that the other one had before.

    Paper: Lu, Batra, Parikh, Lee, "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for
    Vision-and-Language Tasks", NeurIPS 2019, section 2.2 and figure 2b. The variant is the cross-modality layer of Tan,
    Bansal, "LXMERT: Learning Cross-Modality Encoder Representations from Transformers", EMNLP 2019, section 2.2. Their
    dropout is left out.

    Args:
        query_width: width `D` of a token of this stream, and of the context.
        memory_width: width `M` of a token of the other stream.
        heads: number of heads; must divide `query_width`; default 8, the paper's choice.
        expansion: how many times as wide as a query the hidden layer is; default 4, as in BERT.
        variant: `"vilbert"`, the default, as above; `"lxmert"`, the stream's tokens read each other, with a residual
            and a norm, before the feed-forward network.

    Shapes:
        query `(B, T, D)`, memory `(B, N, M)`, mask `(B, N)` or `(B, T, N)` with True = takes part; query_mask `(B, T)`,
        the queries that others may read, which only `"lxmert"` does. Gives the context `(B, T, D)`; where there is
        nothing to attend to, it is zero. With `"lxmert"`, what a query may read that is not finite reaches those that
        may read this query too.

    Maps:
        attention: of the other stream, `(batch, heads, query, key)`, sums to one over the keys.
        self: of the queries among each other, `(batch, heads, query, peer)`, sums to one over the peers; only of the
            variant `"lxmert"`.

    Raises:
        ValueError: the heads do not divide the width, or there is no such variant.
        ShapeError: a width, a batch size or a mask does not fit.
    """

    name: ClassVar[str] = "co_attentional"
    aliases: ClassVar[tuple[str, ...]] = ("vilbert",)
    paper: ClassVar[Paper] = Paper(
        "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for Vision-and-Language Tasks",
        "Lu et al.",
        "NeurIPS",
        2019,
    )
    formula: ClassVar[str] = "c = norm(h + W2 gelu(W1 h + b1) + b2) with h = norm(q + heads(q, m))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*(D*D + D) + 2*(M*D + D) + 2*D*E + E + D + 4*D"
    letters: ClassVar[dict[str, str]] = {"D": "query_width", "M": "memory_width", "E": "hidden_width"}
    deviations: ClassVar[tuple[str, ...]] = (
        'variant="lxmert": self-attention follows the cross-attention, as in LXMERT',
    )
    placement: ClassVar[str] = "once for each of two streams, between their own transformer blocks"

    def __init__(
        self, query_width: int, memory_width: int, heads: int = 8, expansion: int = 4, variant: Variant = "vilbert"
    ) -> None:
        super().__init__()
        self.query_width = query_width
        self.memory_width = memory_width
        self.heads = heads
        self.hidden_width = expansion * query_width
        self.variant = variant
        self.attend = MultiHead(query_width, memory_width, query_width, heads, bias=True)
        self.attend_norm = nn.LayerNorm(query_width)
        if variant == "lxmert":
            self.among = MultiHead(query_width, query_width, query_width, heads, bias=True)
            self.among_norm = nn.LayerNorm(query_width)
            peers = MapFact("self", ("batch", "heads", "query", "peer"), ("peer",))
            self.maps = (*self.maps, peers)  # pyright: ignore[reportAttributeAccessIssue]
        self.feed_forward = nn.Sequential(
            nn.Linear(query_width, self.hidden_width), nn.GELU(), nn.Linear(self.hidden_width, query_width)
        )
        self.norm = nn.LayerNorm(query_width)

    @property
    def context_width(self) -> int:
        return self.query_width

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B N M"],
        mask: Bool[Tensor, "B *T N"] | None = None,
        query_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        mask = self.check(query, memory, mask)
        peers = self.check_mask(query_mask, query.shape[0], query.shape[1], query.shape[1])
        some = None if mask is None else mask.any(-1, keepdim=True)  # (B, #T, 1)
        if some is not None and self.variant == "lxmert":  # whoever has no memory to attend to reads no peers either
            peers = some.expand(-1, -1, query.shape[1]) if peers is None else peers & some
        query, undefined = functional.exclude_nonfinite(query, peers, queries=True)
        memory, reading = functional.exclude_nonfinite(memory, mask)
        read = self.attend(query, memory, mask, lambda weights: self.offer("attention", weights))  # (B, T, D)
        context = self.attend_norm(query + read)
        if self.variant == "lxmert":
            read = self.among(context, context, peers, lambda weights: self.offer("self", weights))  # (B, T, D)
            context = self.among_norm(context + read)
        context = self.norm(context + self.feed_forward(context))
        if reading is not None:
            if self.variant == "lxmert" and peers is not None:  # an undefined query makes those undefined that read it
                reading = reading | functional.reads_some(reading[:, :, 0], peers)
            undefined = reading if undefined is None else undefined | reading
        context = functional.mark_undefined(context, undefined)
        return context if some is None else context.masked_fill(~some, 0.0)
