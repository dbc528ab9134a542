"""Iterative attentional feature fusion."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from regard.attention.arguments import reduced
from regard.attention.branch.aff import bottleneck, multi_scale_gate
from regard.attention.contract import Merge, Paper
from regard.attention.offering import SPATIAL, MapFact


class IterativeAttentionalFeatureFusion(Merge):
    """Iterative attentional feature fusion: the gate that mixes two maps looks at a mixture, not at their sum.

        M(u) = sigmoid(L(u) + G(mean over positions of u))     L, G = bn W2 relu bn W1, each with weights of its own
        u    = M1(x + y) · x + (1 - M1(x + y)) · y
        z    = M2(u) · x + (1 - M2(u)) · y

    Paper: Dai, Gieseke, Oehmcke, Wu, Barnard, "Attentional Feature Fusion", WACV 2021. `W1` and `W2` act on each
    position alone (1 by 1 convolutions) and have no biases, which the normalisation would take out again. A batch of
    one trains: where the mean over positions has no variance, its running one is used.

    Args:
        channels: channels `C` of both maps.
        reduction: `C / d`, the paper's r; default 4. The bottleneck has at least one channel.
        variant: `"paper"`, the default, as above and in the authors' MXNet code; `"code"`, where both gates have one
            `G`, as in their PyTorch code.

    Shapes:
        x, y: `(B, C, *spatial)`, of one shape, any number and size of spatial axes. Gives the same shape.

    Maps:
        first_gate: `M1`, the weight of `x` in the mixture `u`, `(batch, channel, *spatial)`, each in 0..1.
        gate: `M2`, the weight of `x` in the output, of the same shape; that of `y` is one minus it.

    Raises:
        ValueError: `reduction` is less than one; there is no such variant.
        ShapeError: the inputs differ in shape or have another channel count.
    """

    name: ClassVar[str] = "iterative_aff"
    aliases: ClassVar[tuple[str, ...]] = ("iaff",)
    paper: ClassVar[Paper] = Paper("Attentional Feature Fusion", "Dai et al.", "WACV", 2021)
    formula: ClassVar[str] = "z = M2(u) · x + (1 - M2(u)) · y with u = M1(x + y) · x + (1 - M1(x + y)) · y"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("first_gate", ("batch", "channel", SPATIAL)),
        MapFact("gate", ("batch", "channel", SPATIAL)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "4*(2*C*d + 2*d + 2*C)"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'variant="code": the second gate has the global context of the first, as in the authors\' PyTorch code',
    )
    placement: ClassVar[str] = "in place of an addition: of a shortcut, of branches, of two levels"
    place = "skip"

    def __init__(self, channels: int, reduction: int = 4, variant: Literal["paper", "code"] = "paper") -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.first_local = bottleneck(channels, self.hidden_channels)
        self.first_global = bottleneck(channels, self.hidden_channels)
        self.second_local = bottleneck(channels, self.hidden_channels)
        shared = variant == "code"
        self.second_global = self.first_global if shared else bottleneck(channels, self.hidden_channels)

    def forward(
        self, x: Float[Tensor, "B C *spatial"], y: Float[Tensor, "B C *spatial"]
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(x, y)
        first_gate = multi_scale_gate(x + y, self.first_local, self.first_global)  # (B, C, *spatial)
        first_gate = self.offer("first_gate", first_gate)
        mixture = x * first_gate + y * (1 - first_gate)  # (B, C, *spatial)
        gate = multi_scale_gate(mixture, self.second_local, self.second_global)  # (B, C, *spatial)
        gate = self.offer("gate", gate)
        return x * gate + y * (1 - gate)  # (B, C, *spatial)
