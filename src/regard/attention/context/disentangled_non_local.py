"""The disentangled non-local block."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact, Request


class DisentangledNonLocal(Refine):
    """Disentangled non-local block: which positions fit each other, and which matter to all, are learned apart.

        q_i, k_i, g_i = three projections of x_i to d channels
        a_ij = softmax over j of (q_i - mean q) · (k_j - mean k)
        b_j  = softmax over j of m · x_j
        y_i  = x_i + norm(W Σ_j (a_ij + b_j) g_j)

    The means are over the positions of a map, and take out any bias that `q` or `k` had. The weight of `norm` starts at
    zero, so that the block starts as the identity.

    Paper: Yin, Yao, Cao, Li, Zhang, Lin, Hu, "Disentangled Non-Local Neural Networks", ECCV 2020;
    `norm` is that of the non-local block.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 2, as in the non-local block. The bottleneck has at least one channel.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        pairwise: `a`, `(batch, query, key)`, sums to one over the keys.
        unary: `b`, `(batch, *spatial)`, sums to one over all positions.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "disentangled_non_local"
    aliases: ClassVar[tuple[str, ...]] = ("dnl", "dnlnet")
    paper: ClassVar[Paper] = Paper("Disentangled Non-Local Neural Networks", "Yin et al.", "ECCV", 2020)
    formula: ClassVar[str] = (
        "y_i = x_i + norm(W Σ_j (softmax_j((q_i - mean q) · (k_j - mean k)) + softmax_j(m · x_j)) g_j)"
    )
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("pairwise", ("batch", "query", "key"), ("key",)),
        MapFact("unary", ("batch", SPATIAL), (SPATIAL,)),
    )
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "4*C*d + d + C + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "after the last stage of a segmentation network, or between residual blocks"
    place = "last_stage"
    zero_start = ("norm.weight",)

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.query = nn.Linear(channels, self.hidden_channels, bias=False)
        self.key = nn.Linear(channels, self.hidden_channels, bias=False)
        self.value = nn.Linear(channels, self.hidden_channels)
        self.unary = nn.Linear(channels, 1, bias=False)
        self.output = nn.Linear(self.hidden_channels, channels, bias=False)
        self.norm = BatchNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        centred = tokens - tokens.mean(1, keepdim=True)  # (B, N, C)
        query, key = self.query(centred)[:, None], self.key(centred)[:, None]  # (B, 1, N, d)
        value = self.value(tokens)  # (B, N, d)
        salience = self.unary(tokens).softmax(1)  # (B, N, 1)

        def attention(request: Request) -> Float[Tensor, "B T N"]:
            return functional.scaled_dot_product_weights(request.pick(query, queries=2), key, scale=1.0)[:, 0]

        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer("pairwise", attention)
        if replaced is None:
            pairwise = functional.scaled_dot_product_attention(query, key, value[:, None], scale=1.0)[:, 0]  # (B, N, d)
        else:
            pairwise = functional.read(replaced, value)
        shown = self.offer("unary", salience[:, :, 0].unflatten(1, spatial))  # (B, *spatial)
        unary = functional.read(shown.flatten(1)[:, None], value)  # (B, 1, d)
        return x + self.norm(tokens_to_map(self.output(pairwise + unary), spatial))  # (B, C, *spatial)
