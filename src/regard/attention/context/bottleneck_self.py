"""The self-attention of bottleneck transformers."""

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


class BottleneckSelfAttention(Refine):
    """Bottleneck self-attention: multi-head self-attention of a map that knows how far apart two positions lie.

        q, k, v = Wq x, Wk x, Wv x, each cut into h heads of d = C / h channels
        r_ij    = r^H of the rows between i and j + r^W of the columns between them           shared by the heads
        a_ij    = softmax over j of q_i · (k_j + r_ij) / √d                                   in every head
        y_i     = [Σ_j a_ij v_j in head 1; ...; in head h]

    Without an output projection and without a residual, which are those of the block around it.

    Paper: Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani, "Bottleneck Transformers for Visual Recognition", CVPR 2021,
    figure 4.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`, which divide the channels; default the largest such number up to 4, the paper's
            choice.
        reach: up to how many positions along an axis the vectors `r` tell apart: `reach` of them, itself included, in
            each direction. Larger maps go, where all positions that are farther share one vector; default 32. The
            paper has the size of the map.
        dims: how many spatial axes the map has, each with vectors of its own; default 2, as in the paper.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or `reach` or `dims` is less than one.
        ShapeError: the input has another channel count or number of axes.
    """

    name: ClassVar[str] = "bottleneck_self"
    aliases: ClassVar[tuple[str, ...]] = ("botnet", "bottleneck_transformer")
    paper: ClassVar[Paper] = Paper("Bottleneck Transformers for Visual Recognition", "Srinivas et al.", "CVPR", 2021)
    formula: ClassVar[str] = "y_i = concat_h Σ_j softmax_j(q_i · (k_j + r^H_ij + r^W_ij) / √d) v_j"
    layout = "map"
    spatial_ranks: ClassVar[tuple[int, ...]] = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*C + n*(2*R - 1)*d"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "head_width", "R": "reach", "n": "dims"}
    placement: ClassVar[str] = "in place of the 3x3 convolutions in the residual blocks of the last stage"
    place = "branch"

    def __init__(self, channels: int, heads: int | None = None, reach: int = 32, dims: int = 2) -> None:
        super().__init__()
        heads = choose_heads(channels, heads, 4)
        self.channels = channels
        self.heads = heads
        self.head_width = channels // heads
        self.reach = reach
        self.dims = dims
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.offsets = nn.ParameterList(
            torch.randn(2 * reach - 1, self.head_width) * self.head_width**-0.5 for _ in range(dims)
        )

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        projected = self.project(map_to_tokens(x).contiguous())  # (B, N, 3C)
        query, key, value = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, N, d)
        query = query * self.head_width**-0.5
        scores = functional.dot_scores(query, key) + functional.relative_scores(query, list(self.offsets), spatial)
        weights = scores.softmax(3).to(value.dtype)  # (B, h, N, N)
        if offering.listening():
            with offering.over_grid(spatial):
                weights = self.offer("attention", weights)
        context = weights @ value  # (B, h, N, d)
        return tokens_to_map(context.transpose(1, 2).flatten(2), spatial)  # (B, C, *spatial)
