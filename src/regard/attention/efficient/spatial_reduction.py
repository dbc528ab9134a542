"""Spatial-reduction attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads, convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact, Request


class SpatialReductionAttention(Refine):
    """Spatial-reduction attention: every position reads patches of `R x R` positions instead of positions.

        s_m  = norm(W_s [x_p for the positions p of patch m] + b_s)        one token a patch
        q_i, k_m, v_m = Wq x_i + bq, Wk s_m + bk, Wv s_m + bv, each cut into h heads
        a_im = softmax over m of q_i · k_m / √d                            in every head
        y_i  = Wo [Σ_m a_im v_m in head 1; ...; in head h] + bo

    A patch that the border cuts is filled with zeros. Without a residual and without a normalisation of `x`, which are
    those of the block around it.

    Paper: Wang, Xie, Li, Fan, Song, Liang, Lu, Luo, Shao, "Pyramid Vision Transformer: A Versatile Backbone for Dense
    Prediction without Convolutions", ICCV 2021, equations 1 to 3. SegFormer (Xie et al., NeurIPS 2021) has the same.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`; default 1, as in the paper's first stage (then 2, 5, 8). It divides `channels`.
        reduction: side `R` of a patch; default 8, as in the paper's first stage (then 4, 2, 1). At 1 the patches are
            the positions themselves: neither convolution nor normalisation, plain multi-head self-attention.
        bias: whether queries, keys and values have biases; default True, as in the paper's models.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys. The keys are positions: each of them has an
            equal share of the weight of its patch.

    Raises:
        ValueError: `heads` does not divide `channels`, `reduction` is less than one, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "spatial_reduction"
    aliases: ClassVar[tuple[str, ...]] = ("sra", "pvt", "pyramid_vision_transformer")
    paper: ClassVar[Paper] = Paper(
        "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
        "Wang et al.",
        "ICCV",
        2021,
    )
    formula: ClassVar[str] = "y = Wo concat_h(softmax(q_h k_hᵀ / √d) v_h) + bo, with k, v of norm(patches(x) W_s + b_s)"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + P*C*C + 3*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "P": "patch_positions"}
    deviations: ClassVar[tuple[str, ...]] = ("bias=False: queries, keys and values without biases",)
    placement: ClassVar[str] = "in every block of a pyramid transformer, after a layer normalisation, inside a residual"
    place = "branch"

    def __init__(self, channels: int, heads: int = 1, reduction: int = 8, bias: bool = True, dims: int = 2) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.heads = choose_heads(channels, heads)
        self.reduction = reduction
        self.patch_positions = reduction**dims
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        self.query = nn.Linear(channels, channels, bias=bias)
        self.key_value = nn.Linear(channels, 2 * channels, bias=bias)
        self.output = nn.Linear(channels, channels)
        if reduction > 1:
            self.reduce = convolution(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        patches, grid = self.patches(x) if self.reduction > 1 else (tokens, spatial)  # (B, M, C)
        query = self.query(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, h, N, d)
        key, value = self.key_value(patches).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, M, d)

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            rows = request.pick(query, heads=1, queries=2)
            weights = functional.scaled_dot_product_weights(rows, request.pick(key, heads=1))  # (B, H, T, M)
            return self.share(weights, grid, spatial)

        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer("attention", attention)
        if replaced is None:
            context = functional.scaled_dot_product_attention(query, key, value)  # (B, h, N, d)
        else:
            context = self.gather(replaced, grid, spatial) @ value
        refined = self.output(context.transpose(1, 2).flatten(2))  # (B, N, C)
        return tokens_to_map(refined, spatial)  # (B, C, *spatial)

    def patches(self, x: Float[Tensor, "B C *spatial"]) -> tuple[Float[Tensor, "B M C"], tuple[int, ...]]:
        """One token a patch, and how many patches lie along each axis."""
        missing = [side for size in reversed(x.shape[2:]) for side in (0, -size % self.reduction)]
        reduced = self.reduce(F.pad(x, missing))  # (B, C, *grid)
        return self.norm(map_to_tokens(reduced)), tuple(reduced.shape[2:])

    def share(
        self, weights: Float[Tensor, "B H T M"], grid: tuple[int, ...], spatial: tuple[int, ...]
    ) -> Float[Tensor, "B H T N"]:
        """The weights of patches, in equal shares to the positions that they hold."""
        shared = weights.unflatten(3, grid)  # (B, H, T, *grid)
        for axis, size in enumerate(spatial, start=3):
            patch = torch.arange(size, device=weights.device) // self.reduction  # of each position along this axis
            held = torch.bincount(patch).to(weights.dtype)  # positions a patch holds along this axis
            ones = [1] * (len(spatial) + 2 - axis)
            shared = (shared / held.reshape(-1, *ones)).index_select(axis, patch)
        return shared.flatten(3)

    def gather(
        self, shared: Float[Tensor, "B H T N"], grid: tuple[int, ...], spatial: tuple[int, ...]
    ) -> Float[Tensor, "B H T M"]:
        """The inverse of `share`: the weights of patches from those of the positions that they hold."""
        weights = shared.unflatten(3, spatial)  # (B, H, T, *spatial)
        for axis, size in enumerate(spatial, start=3):
            patch = torch.arange(size, device=shared.device) // self.reduction  # of each position along this axis
            shape = list(weights.shape)
            shape[axis] = grid[axis - 3]
            weights = weights.new_zeros(shape).index_add(axis, patch, weights)
        return weights.flatten(3)
