"""The global context block."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact

Fusion = Literal["add", "scale"]


class GlobalContext(Refine):
    """Global context block: one reading of the whole map, added to every position.

        a = softmax over all positions p of w · x_p + b        (B, *spatial)
        c = Σ_p a_p x_p                                        (B, C)
        t = W2 relu(LayerNorm(W1 c + b1)) + b2                 (B, C)
        y = x + t

    `W2` and `b2` start at zero, so that the block starts as the identity.

    Paper: Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCV
    workshops 2019, equation 5.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`, the paper's r; default 16, the paper's choice. The bottleneck has at least one channel.
        fusion: `"add"` the transformed context, or `"scale"` by its sigmoid; default `"add"`, the paper's choice.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        attention: `(batch, *spatial)`, sums to one over all positions.

    Raises:
        ValueError: `reduction` is less than one; there is no such `fusion`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "gc"
    aliases: ClassVar[tuple[str, ...]] = ("gcnet", "global_context_block", "context_block", "gc_block", "gca")
    paper: ClassVar[Paper] = Paper(
        "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
        "Cao et al.",
        "ICCV workshops",
        2019,
    )
    formula: ClassVar[str] = "y = x + W2 relu(LayerNorm(W1 Σ_p softmax_p(w · x_p + b) x_p + b1)) + b2"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", SPATIAL), (SPATIAL,)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*d + 3*d + 2*C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'fusion="scale": y = x · sigmoid(t) instead of x + t, as timm does by default; it starts as y = x / 2',
    )
    placement: ClassVar[str] = "in every residual block of the last three stages, before the addition"
    place = "branch"
    zero_start = ("excite.weight",)

    def __init__(self, channels: int, reduction: int = 16, fusion: Fusion = "add") -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.fusion = fusion
        self.score = nn.Linear(channels, 1)
        self.squeeze = nn.Linear(channels, self.hidden_channels)
        self.norm = nn.LayerNorm(self.hidden_channels)
        self.excite = nn.Linear(self.hidden_channels, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        scores = functional.position_scores(x, self.score.weight, self.score.bias)  # (B, *spatial)
        weights = scores.flatten(1).softmax(1).unflatten(1, x.shape[2:])  # (B, *spatial)
        weights = self.offer("attention", weights)
        context = functional.position_sum(x, weights)  # (B, C)
        context = functional.spread(self.excite(self.norm(self.squeeze(context)).relu()), x)  # (B, C, *ones)
        return x + context if self.fusion == "add" else x * context.sigmoid()  # (B, C, *spatial)
