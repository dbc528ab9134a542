"""The attention gate of Attention U-Net."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.arguments import LINEAR
from regard.attention.contract import Merge, Paper
from regard.attention.norm import BatchNorm
from regard.attention.offering import SPATIAL, MapFact

Variant = Literal["paper", "simple"]

POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class AttentionGate(Merge):
    """Attention gate: a coarser map says which positions of a skip connection pass.

        q = ψ · relu(W_x (x at the positions of g) + W_g g + b_g) + b_ψ
        a = sigmoid(q) at the positions of x
        y = a · x

    `x` goes to the positions of `g` by means over its cells, and `a` comes back by linear interpolation.

    Paper: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, equations 1 and 2.

    Args:
        channels: channels `C` of the skip connection `x`, and of what comes out.
        gating_channels: channels of the gating signal `g`, which then may have any size; default None: `g` has the
            shape of `x`.
        hidden_channels: channels of the sum; default None: `C / 2`, at least one.
        variant: `"paper"`, the default, as above; `"simple"`: the gating signal is interpolated to the positions of `x`
            in place of the converse, and batch normalisation follows all three projections, `W_x` with a bias.

    Shapes:
        x: `(B, C, *spatial)`; gating: `(B, Cg, *sizes)` with as many spatial axes, one to three; any number without
        `gating_channels`. Gives the shape of `x`.

    Maps:
        spatial: the gate `(batch, *spatial)`, each in 0..1.

    Raises:
        ValueError: there is no such variant.
        ShapeError: a channel count or number of axes differs, or without `gating_channels` the sizes do.
    """

    name: ClassVar[str] = "attention_gate"
    aliases: ClassVar[tuple[str, ...]] = ("attention_unet", "grid_attention_block", "attention_gated_skip")
    paper: ClassVar[Paper] = Paper(
        "Attention U-Net: Learning Where to Look for the Pancreas", "Oktay et al.", "MIDL", 2018
    )
    formula: ClassVar[str] = "y = x · sigmoid(ψ · relu(W_x x + W_g g + b_g) + b_ψ)"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("spatial", ("batch", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "(C + g + 2)*d + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "g": "gating_width", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'variant="simple": scores at the positions of the skip connection, from normalised projections, as in the '
        "reimplementations in common use",
    )
    placement: ClassVar[str] = "in every skip connection of a U-Net but the finest, before the concatenation"
    place = "skip"

    def __init__(
        self,
        channels: int,
        gating_channels: int | None = None,
        hidden_channels: int | None = None,
        variant: Variant = "paper",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.gating_channels = gating_channels
        self.gating_width = channels if gating_channels is None else gating_channels
        self.hidden_channels = max(1, channels // 2) if hidden_channels is None else hidden_channels
        self.variant = variant
        self.skip = self.projection(channels, self.hidden_channels, bias=variant == "simple")
        self.gating = self.projection(self.gating_width, self.hidden_channels)
        self.score = self.projection(self.hidden_channels, 1)

    def projection(self, channels: int, width: int, bias: bool = True) -> nn.Sequential:
        """A linear map of every position alone, with what the variant puts behind it."""
        norm = [BatchNorm(width)] if self.variant == "simple" else []
        return nn.Sequential(nn.Conv1d(channels, width, 1, bias=bias), *norm)

    def check(self, *inputs: Tensor) -> None:
        """Without `gating_channels` refuse inputs of differing shapes, else of differing numbers of axes."""
        x, gating = inputs
        if self.gating_channels is None:
            super().check(x, gating)
        elif (
            x.ndim != gating.ndim
            or x.ndim - 2 not in LINEAR
            or (x.shape[0], self.channels, self.gating_channels) != (gating.shape[0], x.shape[1], gating.shape[1])
        ):
            raise self.refuse(
                f"inputs of shapes {tuple(x.shape)}, {tuple(gating.shape)}",
                f"(batch, {self.channels}, *spatial) and (batch, {self.gating_channels}, *sizes)",
                "build it with the channel counts of both, and give maps of one to three spatial axes",
            )
        self.require_positions(x)
        self.require_positions(gating)

    def forward(
        self, x: Float[Tensor, "B C *spatial"], gating: Float[Tensor, "B Cg *sizes"]
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(x, gating)
        resize = x.shape[2:] != gating.shape[2:]
        skip = x
        if resize and self.variant == "paper":
            skip = POOL[x.ndim - 2](x, gating.shape[2:])  # (B, C, *sizes)
        elif resize:
            gating = self.interpolate(gating, x)  # (B, Cg, *spatial)
        hidden = self.skip(skip.flatten(2)) + self.gating(gating.flatten(2))  # (B, d, N)
        gate = self.score(hidden.relu()).sigmoid().unflatten(2, gating.shape[2:])  # (B, 1, *sizes or *spatial)
        if resize and self.variant == "paper":
            gate = self.interpolate(gate, x)  # (B, 1, *spatial)
        return x * self.offer("spatial", gate[:, 0])[:, None]  # (B, C, *spatial)

    @staticmethod
    def interpolate(coarse: Float[Tensor, "B c *sizes"], x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B c ..."]:
        """A map at the positions of `x`."""
        return F.interpolate(coarse, size=x.shape[2:], mode=LINEAR[x.ndim - 2], align_corners=False)
