"""Divided space-time attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact, Request

Axis = Literal["time", "space"]


class DividedSpaceTimeAttention(Refine):
    """Divided space-time attention: every position of a video reads its own place in all frames, then its own frame.

        y = x + heads_time(norm(x))         softmax over the frames at the same place
        z = y + heads_space(norm(y))        softmax over the places of the same frame

    where each `heads` is multi-head self-attention with projections of its own, and each norm a layer normalisation
    over the channels. The output projection of `heads_time` starts at zero, so that a transformer trained on images
    begins unchanged.

    Paper: Bertasius, Wang, Torresani, "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021,
    section 3, without the classification token. The biases and the start at zero are those of the
    authors' code.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h` at most; default 12, the paper's choice. It is the largest number up to this one that
            divides `channels`.
        bias: whether the projections of both attentions have biases; default True.
        temporal_layer: whether one more linear layer follows the temporal attention, and starts at zero in place of its
            output projection; default False.

    Shapes:
        x: `(B, C, frames, H, W)`, of any size. Gives the same shape.

    Maps:
        time: `(batch, heads, query, key)`, sums to one over the keys, and is zero for other places.
        space: `(batch, heads, query, key)`, sums to one over the keys, and is zero for other frames.

    Raises:
        ValueError: `heads` is less than one.
        ShapeError: the input is no video, or has another channel count.
    """

    name: ClassVar[str] = "divided_space_time"
    aliases: ClassVar[tuple[str, ...]] = ("timesformer",)
    paper: ClassVar[Paper] = Paper(
        "Is Space-Time Attention All You Need for Video Understanding?", "Bertasius et al.", "ICML", 2021
    )
    formula: ClassVar[str] = "z = y + heads_space(norm(y)) with y = x + heads_time(norm(x))"
    layout = "map"
    spatial_ranks = (3,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("time", ("batch", "heads", "query", "key"), ("key",)),
        MapFact("space", ("batch", "heads", "query", "key"), ("key",)),
    )
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*(4*C*C + 4*C) + 4*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "bias=False: projections without biases, as the paper's equations are written",
        "temporal_layer=True: one more linear layer behind the temporal attention, as in the authors' code",
    )
    placement: ClassVar[str] = "in every block of a video transformer, before its feed-forward network"
    place = "branch"

    def __init__(self, channels: int, heads: int = 12, bias: bool = True, temporal_layer: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.heads = functional.largest_divisor(channels, heads)
        self.time_norm = nn.LayerNorm(channels)
        self.time = AxisAttention(channels, self.heads, bias)
        self.time_layer = nn.Linear(channels, channels) if temporal_layer else nn.Identity()
        self.space_norm = nn.LayerNorm(channels)
        self.space = AxisAttention(channels, self.heads, bias)
        start = self.time_layer if temporal_layer else self.time.output
        for parameter in start.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B C frames H W"]) -> Float[Tensor, "B C frames H W"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        normal = self.time_norm(tokens)
        replaced = self.show("time", normal, spatial)
        tokens = tokens + self.time_layer(self.time(normal, spatial[0], "time", replaced))
        normal = self.space_norm(tokens)
        replaced = self.show("space", normal, spatial)
        tokens = tokens + self.space(normal, spatial[0], "space", replaced)
        return tokens_to_map(tokens, spatial)

    def show(self, axis: Axis, tokens: Float[Tensor, "B N C"], spatial: tuple[int, ...]) -> Tensor | None:
        """Offer the map of one of the two attentions, and give what takes its place, if anything does."""
        if not offering.listening():
            return None
        attention = self.time if axis == "time" else self.space
        with offering.over_grid(spatial):
            return self.offer(axis, lambda request: attention.weights(tokens, spatial[0], axis, request))


class AxisAttention(nn.Module):
    """Multi-head self-attention of the positions of a video, each within its own place or within its own frame.

    Args:
        channels: channels `C`.
        heads: number of heads `h`, which divides them.
        bias: whether the projections have biases.
    """

    def __init__(self, channels: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=bias)
        self.key = nn.Linear(channels, channels, bias=bias)
        self.value = nn.Linear(channels, channels, bias=bias)
        self.output = nn.Linear(channels, channels, bias=bias)

    def forward(
        self, x: Float[Tensor, "B N C"], frames: int, axis: Axis, weights: Float[Tensor, "B h N N"] | None = None
    ) -> Float[Tensor, "B N C"]:
        """What is read, with these weights over all positions if there are any, not with its own."""
        if weights is not None:
            value = self.value(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, h, N, d)
            return self.output((weights @ value).transpose(1, 2).flatten(2))
        query, key, value = (self.cut(layer(x), frames, axis) for layer in (self.query, self.key, self.value))
        read = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.output(read.reshape(x.shape))

    def cut(self, x: Float[Tensor, "B N C"], frames: int, axis: Axis) -> Float[Tensor, "groups heads L d"]:
        """The sequences along one axis, as views: places stand beside the heads, frames beside the batch."""
        B, N, C = x.shape
        d = C // self.heads
        if axis == "time":
            return x.reshape(B, frames, N // frames * self.heads, d).transpose(1, 2)  # (B, H·W·h, frames, d)
        return x.reshape(B * frames, N // frames, self.heads, d).transpose(1, 2)  # (B·frames, h, H·W, d)

    def weights(self, x: Float[Tensor, "B N C"], frames: int, axis: Axis, request: Request) -> Float[Tensor, "B h T N"]:
        """The map over all positions, of the part that a listener asks for."""
        query, key = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key))
        together = request.pick(reachable(x.shape[1], frames, axis, x.device)[None, None], queries=2)
        rows = request.pick(query, heads=1, queries=2)
        mask = together.expand(x.shape[0], -1, -1, -1)  # (B, 1, T, N)
        return functional.scaled_dot_product_weights(rows, request.pick(key, heads=1), mask)  # (B, h, T, N)


def reachable(count: int, frames: int, axis: Axis, device: torch.device) -> Bool[Tensor, "N N"]:
    """Which positions of a video, counted frame by frame and row by row, are at one place or in one frame."""
    position = torch.arange(count, device=device)
    places = count // frames
    group = position % places if axis == "time" else position.div(places, rounding_mode="floor")
    return group[:, None] == group
