"""Deformable attention."""

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact, Request
from regard.attention.window.groups import read_over_map


class DeformableAttention(Refine):
    """Deformable attention: every position reads one set of points, which the map itself moves to where they matter.

        q_i  = Wq x_i + bq
        p_m  = cell m of a regular grid + s tanh(offset network(q))_m                 for every group of channels
        x̃_m  = x at p_m, bilinearly, zero outside of the map
        k_m, v_m = Wk x̃_m + bk, Wv x̃_m + bv
        a_im = softmax over m of q_i · k_m / √d + table at (i - p_m), bilinearly      in every head
        y_i  = Wo [Σ_m a_im v_m of every head] + bo

    The offset network is a depthwise convolution of stride `r`, GELU and a 1x1 convolution without bias to two numbers.
    Without a residual and without a normalisation of `x`, which are those of the block around it.

    Paper: Xia, Pan, Song, Li, Huang, "Vision Transformer with Deformable Attention", CVPR 2022, section 3.2 (DAT).

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 32
            channels.
        groups: how many groups of channels `G` have points of their own; default the greatest divisor of `heads` that
            leaves a group the paper's 128 channels.
        stride: `r`, rows and columns of the map for one point; default 1, as in both of the paper's stages that have
            this attention.
        kernel_size: of the offset network, odd; default 5, the paper's choice. The authors' code has 9, 7, 5 and 3 by
            stage, of which DAT uses the last two.
        offset_range: `s`, in halves of a cell of the grid; default 2, the paper's choice: a point moves to the
            neighbouring cells and no farther.
        table_size: rows and columns of a map `T` whose offsets the table has for each head, `2T - 1` by `2T - 1`;
            default 14, the paper's third stage at 224 pixels. Maps of another size read between its entries.
        normalize: whether the offset network has a layer normalisation before the GELU; default False.

    Shapes:
        x: `(B, C, H, W)` of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)`. The keys are positions: each has the share of a point's weight that it
            has in what the point reads. A row sums to one less what is read outside of the map.

    Raises:
        ValueError: `heads` does not divide `channels`, `groups` does not divide `heads`, `kernel_size` is even, or
            `stride` or `table_size` is less than one.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "deformable"
    aliases: ClassVar[tuple[str, ...]] = ("dat", "deformable_attention_transformer")
    paper: ClassVar[Paper] = Paper("Vision Transformer with Deformable Attention", "Xia et al.", "CVPR", 2022)
    formula: ClassVar[str] = (
        "y_i = Wo concat_h(Σ_m softmax_m(q_i · k_m / √d + B(i - p_m)) v_m), k, v of x(p + s tanh θ(q))"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key")),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + g*(k*k + 3) + h*(2*T - 1)*(2*T - 1)"
    letters: ClassVar[dict[str, str]] = {
        "C": "channels",
        "g": "group_width",
        "k": "kernel_size",
        "h": "heads",
        "T": "table_size",
    }
    deviations: ClassVar[tuple[str, ...]] = (
        "normalize=True: layer normalisation in the offset network, as in the authors' code",
    )
    placement: ClassVar[str] = "in the last stages of a transformer of maps, in turn with attention in windows"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int | None = None,
        groups: int | None = None,
        stride: int = 1,
        kernel_size: int = 5,
        offset_range: float = 2.0,
        table_size: int = 14,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.heads = choose_heads(channels, heads, most=channels // 32)
        if groups is None:
            groups = choose_heads(self.heads, None, most=channels // 128)
        if groups < 1 or self.heads % groups:
            divisors = ", ".join(str(number) for number in range(1, self.heads + 1) if self.heads % number == 0)
            raise ValueError(f"groups={groups} does not divide heads={self.heads}: choose groups among {divisors}.")
        self.groups = groups
        if groups > 1:
            fixed = replace(self.maps[0], fixed="what a head reads at one point comes from other places in every group")
            self.maps = (fixed,)  # pyright: ignore[reportAttributeAccessIssue]
        self.group_width = channels // groups
        self.stride = stride
        self.kernel_size = kernel_size
        self.offset_range = offset_range
        self.table_size = table_size
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.output = nn.Linear(channels, channels)
        self.near = nn.Conv2d(
            self.group_width, self.group_width, kernel_size, stride, kernel_size // 2, groups=self.group_width
        )
        self.norm = nn.LayerNorm(self.group_width) if normalize else nn.Identity()
        self.offset = nn.Linear(self.group_width, 2, bias=False)  # with a bias, all points would shift together
        self.table = nn.Parameter(torch.empty(self.heads, 2 * table_size - 1, 2 * table_size - 1))
        nn.init.trunc_normal_(self.table, std=0.01)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        query = self.query(map_to_tokens(x).contiguous())  # (B, N, C)
        points = self.points(tokens_to_map(query, spatial))  # (B·G, rows, columns, 2)
        grouped = x.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (B·G, C / G, H, W)
        read = F.grid_sample(grouped.to(points.dtype), points, align_corners=False).to(x.dtype)
        sampled = map_to_tokens(read.unflatten(0, (-1, self.groups)).flatten(1, 2)).contiguous()  # (B, M, C)
        key, value = self.key_value(sampled).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, M, d)
        heads = query.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, h, N, d)
        points = points.flatten(1, 2)  # (B·G, M, 2)
        scores = functional.dot_scores(heads, key, key.shape[3] ** -0.5)  # (B, h, N, M)
        weights = (scores + self.position_bias(points, spatial)).softmax(3).to(value.dtype)
        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer(
                    "attention", lambda request: self.over_positions(request, weights, points, spatial)
                )
        if replaced is None:
            context = (weights @ value).transpose(1, 2).flatten(2)  # (B, N, C)
        else:  # what is read between positions is projected as they are, but for the bias
            value = F.linear(map_to_tokens(x), self.key_value.weight[self.channels :])  # (B, N, C)
            context = read_over_map(replaced, value) + self.key_value.bias[self.channels :]
        refined = self.output(context)  # (B, N, C)
        return tokens_to_map(refined, spatial)  # (B, C, H, W)

    def points(self, query: Float[Tensor, "B C H W"]) -> Float[Tensor, "BG rows columns 2"]:
        """Where every group's points lie, x before y, -1 and 1 the outer edges of the map; at least single precision,
        since half precision cannot tell one position from the next."""
        near = self.near(query.unflatten(1, (self.groups, -1)).flatten(0, 1)).movedim(1, 3)  # (B·G, rows, columns, C/G)
        offset = self.offset(F.gelu(self.norm(near)))  # (B·G, rows, columns, 2)
        offset = self.offset_range * offset.to(torch.promote_types(offset.dtype, torch.float32)).tanh()
        rows, columns = offset.shape[1:3]
        x = (2 * torch.arange(columns, device=query.device) + 1 + offset[..., 0]) / columns - 1
        y = (2 * torch.arange(rows, device=query.device)[:, None] + 1 + offset[..., 1]) / rows - 1
        return torch.stack((x, y), dim=3)

    def position_bias(self, points: Float[Tensor, "BG M 2"], spatial: tuple[int, ...]) -> Float[Tensor, "B h N M"]:
        """The table's entry for how far every position is from every point, zero farther out than the table goes."""
        y, x = (
            (2 * torch.arange(size, device=points.device) + 1).to(points.dtype) / size - 1 for size in spatial
        )  # (H,), (W,)
        positions = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2).flatten(0, 1)  # (N, 2)
        # The table's entries are T to a map's length, and their outer edges, 2T - 1 apart, are at -1 and 1.
        place = (positions[:, None] - points[:, None]) * (self.table_size / (2 * self.table_size - 1))  # (B·G, N, M, 2)
        tables = self.table.to(points.dtype).unflatten(0, (self.groups, -1))  # (G, h / G, 2T - 1, 2T - 1)
        tables = tables.repeat(points.shape[0] // self.groups, 1, 1, 1)  # (B·G, h / G, 2T - 1, 2T - 1)
        bias = F.grid_sample(tables, place, align_corners=False)  # (B·G, h / G, N, M)
        return bias.unflatten(0, (-1, self.groups)).flatten(1, 2)

    def over_positions(
        self,
        request: Request,
        weights: Float[Tensor, "B h N M"],
        points: Float[Tensor, "BG M 2"],
        spatial: tuple[int, ...],
    ) -> Float[Tensor, "B heads T N"]:
        """The points' weights, as shares of the positions between which they read."""
        across, down = (
            functional.linear_shares(points[..., axis], size)
            .unflatten(0, (-1, self.groups))
            .repeat_interleave(self.heads // self.groups, dim=1)
            for axis, size in enumerate(reversed(spatial))
        )  # (B, h, M, W), (B, h, M, H)
        shares = (down[..., None] * across[..., None, :]).flatten(3).to(weights.dtype)  # (B, h, M, N)
        return request.pick(weights, heads=1, queries=2) @ request.pick(shares, heads=1)
