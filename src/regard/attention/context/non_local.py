"""The non-local block."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact, Request

Mode = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


class NonLocal(Refine):
    """Non-local block: every position reads all positions, and adds what it read.

        θ_i, φ_i, g_i = three projections of x_i to d channels
        a_ij = softmax over j of θ_i · φ_j
        y_i  = x_i + norm(W Σ_j a_ij g_j)

    The weight of `norm` starts at zero, so that the block starts as the identity. In training on one image whose map is
    one cell, it uses its running statistics.

    Paper: Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018, equations 1 to 6.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 2, the paper's choice. The bottleneck has at least one channel.
        mode: how two positions are compared. `"embedded_gaussian"`, the default, as above; `"gaussian"`, the softmax of
            `x_i · x_j`; `"dot_product"`, `θ_i · φ_j / N`; `"concatenation"`, `relu(w · [θ_i; φ_j]) / N`. All four are
            the paper's.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys in the two gaussian modes. In the other two it is
            divided by the number of positions and sums to anything.

    Raises:
        ValueError: `reduction` is less than one; there is no such `mode`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "non_local"
    aliases: ClassVar[tuple[str, ...]] = ("nl", "non_local_block", "non_local_attn", "non_local_2d", "nlnet")
    paper: ClassVar[Paper] = Paper("Non-local Neural Networks", "Wang et al.", "CVPR", 2018)
    formula: ClassVar[str] = "y_i = x_i + norm(W Σ_j softmax_j(θ(x_i) · φ(x_j)) g(x_j))"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "4*C*d + 3*d + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "between residual blocks of the middle stages"
    place = "block"
    zero_start = ("norm.weight",)

    def __init__(self, channels: int, reduction: int = 2, mode: Mode = "embedded_gaussian") -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.mode = mode
        if mode == "gaussian":
            self.query = self.key = nn.Identity()
        else:
            self.query = nn.Linear(channels, self.hidden_channels)
            self.key = nn.Linear(channels, self.hidden_channels)
        if mode == "concatenation":
            self.query_score = nn.Linear(self.hidden_channels, 1, bias=False)
            self.key_score = nn.Linear(self.hidden_channels, 1, bias=False)
        self.value = nn.Linear(channels, self.hidden_channels)
        self.output = nn.Linear(self.hidden_channels, channels, bias=False)
        self.norm = BatchNorm(channels)
        nn.init.zeros_(self.norm.weight)
        if mode in ("dot_product", "concatenation"):  # no softmax
            self.maps = (MapFact("attention", ("batch", "query", "key")),)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)  # (B, N, d)
        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer("attention", lambda request: self.requested(request, query, key))
        if replaced is not None:
            context = functional.read(replaced, value)
        elif self.mode == "dot_product":
            context = functional.mean_dot_read(query, key, value)  # (B, N, d)
        elif self.mode == "concatenation":
            context = functional.read(self.weights(query, key), value)  # (B, N, d)
        else:
            context = functional.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[
                :, 0
            ]  # (B, N, d)
        return x + self.norm(tokens_to_map(self.output(context), spatial))  # (B, C, *spatial)

    def weights(self, query: Float[Tensor, "B T d"], key: Float[Tensor, "B N d"]) -> Float[Tensor, "B T N"]:
        """How every query position weighs every position."""
        if self.mode == "dot_product":
            return functional.mean_dot_weights(query, key)
        if self.mode == "concatenation":
            return functional.mean_sum_weights(self.query_score(query)[:, :, 0], self.key_score(key)[:, :, 0])
        return functional.scaled_dot_product_weights(query[:, None], key[:, None], scale=1.0)[:, 0]

    def requested(
        self, request: Request, query: Float[Tensor, "B N d"], key: Float[Tensor, "B N d"]
    ) -> Float[Tensor, "B T N"]:
        """The rows of the map that a listener asks for."""
        return self.weights(request.pick(query, queries=1), key)
