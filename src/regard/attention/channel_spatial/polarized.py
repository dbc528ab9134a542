"""Polarized self-attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact

Arrangement = Literal["parallel", "sequential"]
Variant = Literal["paper", "code"]


class PolarizedSelfAttention(Refine):
    """Polarized self-attention: a gate a channel that pools no channels, and a gate a position that pools no positions.

        p_n = softmax over positions n of w_q · x_n                                (B, *spatial)
        g   = sigmoid(W_z Σ_n p_n W_v x_n)                                         (B, C)
        c   = softmax over channels of (mean over positions of V_q x)              (B, d)
        a_n = sigmoid(c · V_v x_n)                                                 (B, *spatial)
        y   = g · x + a · x

    with half the channels within both branches. Sums over positions and over channels change places with `W_v`, `V_q`
    and `V_v`, which are linear, so that as the paper has it no map of `d` channels is ever made.

    Paper: Liu, Liu, Fan, Zhu, "Polarized Self-Attention: Towards High-Quality Pixel-wise Regression", arXiv
    2021, section 3.

    Args:
        channels: channels `C` of the map; `d = C / 2`, at least one.
        arrangement: `"parallel"`, the default, as above, or `"sequential"`: `z = g · x`, `y = a(z) · z`.
        variant: `"paper"`, the default, as above; `"code"`: in place of the softmax over channels, the scores of the
            spatial gate go through one over positions before their sigmoid, which leaves the gate in 0.5..0.74. Where
            the arrangement is `"sequential"`, it is each channel of `V_v x` that goes through one over positions, and
            `W_z` is `W_2 relu(norm(W_1 · + b_1)) + b_2`, with a layer normalisation of `d / 4` channels.
        norm: whether layer normalisation follows `W_z`, as in the paper's figure; default False.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        pooling: `(batch, *spatial)`, sums to one over all positions.
        channel: the gate `(batch, channel)`, each in 0..1.
        spatial: the gate `(batch, *spatial)`, each in 0..1.

    Raises:
        ValueError: there is no such arrangement or variant.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "polarized"
    aliases: ClassVar[tuple[str, ...]] = ("polarized_attention",)
    paper: ClassVar[Paper] = Paper(
        "Polarized Self-Attention: Towards High-Quality Pixel-wise Regression", "Liu et al.", "arXiv", 2021
    )
    formula: ClassVar[str] = (
        "y = x · sigmoid(W_z Σ_n softmax_n(w_q · x_n) W_v x_n) + x · sigmoid(softmax_c(mean(V_q x)) · V_v x)"
    )
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("pooling", ("batch", SPATIAL), (SPATIAL,)),
        MapFact("channel", ("batch", "channel")),
        MapFact("spatial", ("batch", SPATIAL)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "4*C*d + C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        'arrangement="sequential": the spatial gate is that of the channel-gated map, the paper\'s other form',
        'variant="code": the spatial gate has its softmax over positions, not over channels, and the sequential form '
        "two layers for the channel gate, as in the authors' code",
        "norm=True: layer normalisation before the channel gate, which the paper's figure has and its equation has not",
    )
    placement: ClassVar[str] = "in every residual block, after its first 3x3 convolution"
    place = "branch"

    def __init__(
        self,
        channels: int,
        arrangement: Arrangement = "parallel",
        variant: Variant = "paper",
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = max(1, channels // 2)
        self.arrangement = arrangement
        self.variant = variant
        self.each_channel = variant == "code" and arrangement == "sequential"  # goes through a softmax over positions
        self.channel_query = nn.Linear(channels, 1, bias=False)
        self.channel_value = nn.Linear(channels, self.hidden_channels, bias=False)
        if self.each_channel:
            narrow = max(1, self.hidden_channels // 4)
            self.excite = nn.Sequential(
                nn.Linear(self.hidden_channels, narrow), nn.LayerNorm(narrow), nn.ReLU(), nn.Linear(narrow, channels)
            )
        else:
            self.excite = nn.Linear(self.hidden_channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.spatial_query = nn.Linear(channels, self.hidden_channels, bias=False)
        self.spatial_value = nn.Linear(channels, self.hidden_channels, bias=False)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        channel = self.channel_gate(x)  # (B, C)
        gated = x * functional.spread(channel, x)  # (B, C, *spatial)
        if self.arrangement == "sequential":
            return gated * self.spatial_gate(gated)[:, None]
        return torch.addcmul(gated, x, self.spatial_gate(x)[:, None])  # (B, C, *spatial)

    def channel_gate(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C"]:
        """The gate a channel, from the positions that it picks."""
        scores = functional.position_scores(x, self.channel_query.weight, x.new_zeros(1))  # (B, *spatial)
        pooling = scores.flatten(1).softmax(1).unflatten(1, x.shape[2:])  # (B, *spatial)
        pooling = self.offer("pooling", pooling)
        pooled = self.channel_value(functional.position_sum(x, pooling))  # (B, d)
        gate = self.norm(self.excite(pooled)).sigmoid()  # (B, C)
        return self.offer("channel", gate)

    def spatial_gate(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B *spatial"]:
        """The gate a position, from the channels that it picks."""
        query = self.spatial_query(x.mean(dim=tuple(range(2, x.ndim))))  # (B, d)
        if self.variant == "paper":
            query = query.softmax(1)
        if self.each_channel:
            values = (self.spatial_value.weight @ x.flatten(2)).softmax(2)  # (B, d, N)
            scores = torch.bmm(query[:, None], values)[:, 0]  # (B, N)
        else:
            weights = query @ self.spatial_value.weight  # (B, C)
            scores = torch.bmm(weights[:, None], x.flatten(2))[:, 0]  # (B, N)
            if self.variant == "code":
                scores = scores.softmax(1)
        gate = scores.sigmoid().unflatten(1, x.shape[2:])  # (B, *spatial)
        return self.offer("spatial", gate)
