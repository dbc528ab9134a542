"""Bi-level routing attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact
from regard.attention.window.groups import over_map, read_over_map


class BiLevelRoutingAttention(Refine):
    """Bi-level routing attention: every region of a map chooses the regions that its positions read.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv
        A       = (means of q in every region) · (means of k in every region)
        I_r     = the t regions of the greatest A_r
        a_ij    = softmax over j in the regions I_r, r that of i, of q_i · k_j / √d       in every head
        y_i     = Wo (Σ_j a_ij v_j + (depthwise convolution of v)_i) + bo

    No gradient flows through the choice.

    Paper: Zhu, Wang, Ke, Zhang, Lau, "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023; `Wo` is
    that of multi-head attention, behind the sum as in the authors' code. Their code divides the scores by the root of
    all channels, `√C`, where multi-head attention has `√d`.

    Args:
        channels: channels `C` of the map.
        regions: rows and columns `S` of regions; default 7, the paper's choice.
        top: how many regions `t` each region reads; default 4, that of the paper's second stage. Its others have 1, 16
            and all.
        kernel_size: size `k` of the convolution of the values, odd; default 5, the paper's choice.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 32
            channels.

    Shapes:
        x: `(B, C, H, W)` of any size: a map is filled up to regions of one size with places that nobody reads. Gives
            the same shape.

    Maps:
        attention: `(batch, heads, query, key)` over the whole map, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, `kernel_size` is even, or `top` is not in 1..S².
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "bi_level_routing"
    aliases: ClassVar[tuple[str, ...]] = ("biformer", "bra")
    paper: ClassVar[Paper] = Paper(
        "BiFormer: Vision Transformer with Bi-Level Routing Attention", "Zhu et al.", "CVPR", 2023
    )
    formula: ClassVar[str] = "y_i = Wo (Σ_j∈top regions softmax_j(q_i · k_j / √d) v_j + conv_k(v)_i) + bo"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 5*C + k*k*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "k": "kernel_size"}
    placement: ClassVar[str] = "in every block of a transformer of maps, after a normalisation and inside a residual"
    place = "branch"

    def __init__(
        self, channels: int, regions: int = 7, top: int = 4, kernel_size: int = 5, heads: int | None = None
    ) -> None:
        super().__init__()
        if top > regions**2:
            raise ValueError(f"top={top} of {regions} by {regions} regions is no choice: give 1 to {regions**2}.")
        self.channels = channels
        self.regions = regions
        self.top = top
        self.kernel_size = kernel_size
        self.heads = choose_heads(channels, heads, most=channels // 32)
        self.project = nn.Linear(channels, 3 * channels)
        self.local = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        H, W = x.shape[2:]
        # A grid of S by S places has one position of every region: the places are the regions, R = S² of them.
        regions = functional.cut_windows(x, self.regions, strided=True).transpose(1, 2)  # (B, R, P, C)
        positions = functional.window_positions((H, W), self.regions, strided=True, device=x.device).T  # (R, P)
        inside = positions >= 0
        query, key, value = self.project(regions).chunk(3, dim=3)  # (B, R, P, C)
        chosen = self.route(query, key, inside.to(x.dtype))  # (B, R, t)
        mask = inside[chosen].flatten(2)[:, :, None, None]  # (B, R, 1, 1, t·P)
        scale = (self.channels // self.heads) ** -0.5
        scores = functional.dot_scores(self.split(query), self.gather(key, chosen), scale)
        weights = functional.masked_softmax(scores, mask).to(value.dtype)  # (B, R, h, P, t·P)
        replaced = None
        if offering.listening():
            keys = positions[chosen].flatten(2)[:, :, None]  # (B, R, 1, t·P)
            with offering.over_grid((H, W)):
                replaced = self.offer("attention", lambda request: over_map(request, weights, positions, keys, H * W))
        context = (weights @ self.gather(value, chosen)).transpose(2, 3).flatten(3)  # (B, R, P, C)
        both = torch.cat((context, value), dim=3).transpose(1, 2)  # (B, P, R, 2C)
        context, value = functional.join_windows(both, self.regions, (H, W), strided=True).chunk(2, dim=1)
        if replaced is not None:
            context = tokens_to_map(read_over_map(replaced, map_to_tokens(value)), (H, W))
        y = context + self.local(value)  # (B, C, H, W)
        return self.output(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def route(
        self, query: Float[Tensor, "B R P C"], key: Float[Tensor, "B R P C"], inside: Float[Tensor, "R P"]
    ) -> Tensor:
        """Of every region the regions that fit its mean best, `(B, R, t)`; regions without a position come last."""
        count = inside.sum(1)  # (R,)
        share = (inside / count.clamp_min(1)[:, None])[..., None]  # (R, P, 1)
        affinity = functional.dot_scores((query * share).sum(2), (key * share).sum(2))  # (B, R, R)
        return affinity.masked_fill(count == 0, torch.finfo(affinity.dtype).min).topk(self.top, dim=2).indices

    def gather(self, tokens: Float[Tensor, "B R P C"], chosen: Tensor) -> Float[Tensor, "B R h K d"]:
        """The tokens of every region's chosen regions, by heads."""
        batch = torch.arange(tokens.shape[0], device=tokens.device)[:, None, None]
        return self.split(tokens[batch, chosen].flatten(2, 3))

    def split(self, tokens: Float[Tensor, "B R P C"]) -> Float[Tensor, "B R h P d"]:
        """The heads' parts of every token."""
        return tokens.unflatten(3, (self.heads, -1)).transpose(2, 3)
