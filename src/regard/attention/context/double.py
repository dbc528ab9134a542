"""Double attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import SPATIAL, MapFact


class DoubleAttention(Refine):
    """Double attention: gather the whole map into a few descriptors, then give every position its mixture of them.

        A_p, B_p, V_p = three projections of x_p                       to m features, n codes and n codes
        g_c  = Σ_p softmax over p of B_pc · A_p                        n descriptors, of m features each
        z_p  = Σ_c softmax over c of V_pc · g_c
        y_p  = x_p + W z_p + b

    Paper: Chen, Kalantidis, Li, Yan, Feng, "A²-Nets: Double Attention Networks", NeurIPS 2018, section 3.

    Args:
        channels: channels `C` of the map.
        reduction: `C / m` and `C / n`; default 4, the paper's choice. There is at least one feature and one code.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        gather: `(batch, code, *spatial)`, where each code looks: sums to one over all positions.
        distribute: `(batch, code, *spatial)`, what each position takes: sums to one over the codes.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "double_attention"
    aliases: ClassVar[tuple[str, ...]] = ("a2_net", "a2_nets", "a2_attention")
    paper: ClassVar[Paper] = Paper("A²-Nets: Double Attention Networks", "Chen et al.", "NeurIPS", 2018)
    formula: ClassVar[str] = "y = x + W (A softmax_p(B)ᵀ) softmax_c(V) + b"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("gather", ("batch", "code", SPATIAL), (SPATIAL,)),
        MapFact("distribute", ("batch", "code", SPATIAL), ("code",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(C + 1)*(m + 2*n) + m*C + C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "m": "hidden_channels", "n": "codes"}
    placement: ClassVar[str] = "between residual blocks of the middle stages"
    place = "block"

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = self.codes = reduced(channels, reduction)
        self.project = nn.Linear(channels, self.hidden_channels + 2 * self.codes)
        self.output = nn.Linear(self.hidden_channels, channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        projected = self.project(map_to_tokens(x).contiguous())  # (B, N, m + 2n)
        features, gather, distribute = projected.split((self.hidden_channels, self.codes, self.codes), 2)
        gather = gather.softmax(1)  # (B, N, n)
        distribute = distribute.softmax(2)  # (B, N, n)
        gather = map_to_tokens(self.offer("gather", tokens_to_map(gather, spatial)))
        distribute = map_to_tokens(self.offer("distribute", tokens_to_map(distribute, spatial)))
        descriptors = functional.read(gather.transpose(1, 2), features)  # (B, n, m)
        mixtures = functional.read(distribute, descriptors)  # (B, N, m)
        return x + tokens_to_map(self.output(mixtures), spatial)  # (B, C, *spatial)
