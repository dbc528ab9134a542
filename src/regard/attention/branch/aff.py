"""Attentional feature fusion."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.arguments import reduced
from regard.attention.contract import Merge, Paper
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact


class AttentionalFeatureFusion(Merge):
    """Attentional feature fusion: a gate for every channel and position mixes two maps.

        u = x + y
        M = sigmoid(L(u) + G(mean over positions of u))        L, G = bn W2 relu bn W1, each with weights of its own
        z = M · x + (1 - M) · y

    Paper: Dai, Gieseke, Oehmcke, Wu, Barnard, "Attentional Feature Fusion", WACV 2021. `W1` and `W2` act on each
    position alone (1 by 1 convolutions) and have no biases, which the normalisation would take out again. A batch of
    one trains: where the mean over positions has no variance, its running one is used.

    Args:
        channels: channels `C` of both maps.
        reduction: `C / d`, the paper's r; default 4. The bottleneck has at least one channel.
        variant: `"paper"`, the default, as above; `"code"`, twice that, as in the authors' code.

    Shapes:
        x, y: `(B, C, *spatial)`, of one shape, any number and size of spatial axes. Gives the same shape.

    Maps:
        gate: the weight of `x`, `(batch, channel, *spatial)`, each in 0..1; that of `y` is one minus it.

    Raises:
        ValueError: `reduction` is less than one; there is no such variant.
        ShapeError: the inputs differ in shape or have another channel count.
    """

    name: ClassVar[str] = "aff"
    aliases: ClassVar[tuple[str, ...]] = ("ms_cam",)
    paper: ClassVar[Paper] = Paper("Attentional Feature Fusion", "Dai et al.", "WACV", 2021)
    formula: ClassVar[str] = "z = M · x + (1 - M) · y with M = sigmoid(L(x + y) + G(mean(x + y)))"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("gate", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*(2*C*d + 2*d + 2*C)"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = ('variant="code": the output is doubled, as in the authors\' code',)
    placement: ClassVar[str] = "in place of an addition: of a shortcut, of branches, of two levels"
    place = "skip"

    def __init__(self, channels: int, reduction: int = 4, variant: Literal["paper", "code"] = "paper") -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.variant = variant
        self.local_context = bottleneck(channels, self.hidden_channels)
        self.global_context = bottleneck(channels, self.hidden_channels)

    def forward(
        self, x: Float[Tensor, "B C *spatial"], y: Float[Tensor, "B C *spatial"]
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(x, y)
        gate = multi_scale_gate(x + y, self.local_context, self.global_context)  # (B, C, *spatial)
        gate = self.offer("gate", gate)
        fused = x * gate + y * (1 - gate)  # (B, C, *spatial)
        return 2 * fused if self.variant == "code" else fused


def bottleneck(channels: int, hidden_channels: int) -> nn.Sequential:
    """`bn W2 relu bn W1` on every position alone."""
    return nn.Sequential(
        nn.Conv1d(channels, hidden_channels, 1, bias=False),
        BatchNorm(hidden_channels),
        nn.ReLU(),
        nn.Conv1d(hidden_channels, channels, 1, bias=False),
        BatchNorm(channels),
    )


def multi_scale_gate(
    x: Float[Tensor, "B C *spatial"], local_context: nn.Module, global_context: nn.Module
) -> Float[Tensor, "B C *spatial"]:
    """`sigmoid(L(x) + G(mean over positions of x))`, the paper's multi-scale channel attention."""
    tokens = x.flatten(2)  # (B, C, N)
    pooled = global_context(tokens.mean(2, keepdim=True))  # (B, C, 1)
    return (local_context(tokens) + pooled).sigmoid().reshape(x.shape)
