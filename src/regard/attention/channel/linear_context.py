"""Linear context transform."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact


class LinearContextTransform(Refine):
    """Linear context transform: one gate a channel, from its mean, standardized among the channels of its group.

        s   = mean over positions of x                                                            (B, C)
        z_c = (s_c - mean of s) / √(variance of s + ε)      over the channels of the group of c   (B, C)
        g_c = sigmoid(w_c z_c + b_c)                                                              (B, C)
        y   = g · x

    It starts with `w = 0` and `b = 1`, every gate at 0.73.

    Paper: Ruan, Wen, Zheng, Zheng, "Linear Context Transform Block", AAAI 2020, with ε = 1e-5.

    Args:
        channels: channels `C` of the map, at least two.
        groups: how many groups of consecutive channels, at most `C / 2`, since a channel alone in its group has no
            deviation; default the largest divisor of `C` that is at most 64, the paper's choice, and at most `C / 2`.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: there is one channel only, `groups` does not divide `channels`, or leaves one channel to a group.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "linear_context"
    aliases: ClassVar[tuple[str, ...]] = ("lct",)
    paper: ClassVar[Paper] = Paper("Linear Context Transform Block", "Ruan et al.", "AAAI", 2020)
    formula: ClassVar[str] = "y = x · sigmoid(w · standardized_in_groups(mean(x)) + b)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        possible = [number for number in range(1, channels // 2 + 1) if channels % number == 0]
        if groups is not None and groups not in possible:
            raise ValueError(
                f"groups={groups} does not cut channels={channels} into equal groups of two or more: "
                f"choose groups among {', '.join(map(str, possible))}."
            )
        self.channels = channels
        self.groups = max(number for number in possible if number <= 64) if groups is None else groups
        self.transform = nn.GroupNorm(self.groups, channels)
        nn.init.zeros_(self.transform.weight)
        nn.init.ones_(self.transform.bias)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        gate = self.transform(x.mean(dim=tuple(range(2, x.ndim)))).sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
