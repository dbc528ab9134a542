"""Attention in shifted windows."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact
from regard.attention.window.groups import over_map, read_over_map

Version = Literal["v1", "v2", "v2_released"]


class ShiftedWindowAttention(Refine):
    """Attention in windows: every position reads its window, whose borders lie elsewhere in every second block.

        q, k, v = Wq x + bq, Wk x + bk, Wv x + bv, each cut into h heads
        a_ij    = softmax over j in the window of i of q_i · k_j / √d + bias(i - j)
        y_i     = Wo Σ_j a_ij v_j + bo

    The windows begin at row and column `shift`; the incomplete ones at the map's edges are computed together by a
    cyclic shift, and masked from each other. Along an axis that fits into one window nothing is shifted.
    In version 2, `a_ij = softmax over j of cos(q_i, k_j) / τ + bias(i - j)`, with one temperature `τ` of at least 0.01
    a head, and the bias is an MLP of `sign(Δ) log(1 + |Δ|)` of the two coordinates of `i - j`.

    Paper: Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo, "Swin Transformer: Hierarchical Vision Transformer using Shifted
    Windows", ICCV 2021, equations 3 and 4; version 2: Liu et al., "Swin Transformer V2", CVPR 2022.
    Two successive blocks have shift 0 and `window // 2`.

    Args:
        channels: channels `C` of the map.
        window: rows and columns `M` of a window; default 7, the paper's choice.
        shift: where the first whole window begins; default 0. The paper's shifted blocks have `window // 2`.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 32
            channels.
        version: `"v1"`, the default; `"v2"`, cosines and a continuous bias; `"v2_released"`, the same as in the
            authors' code, whose offsets are scaled to ±8 and whose bias is 16 sigmoid of the MLP. (Its keys have no
            bias: load zeros there.)

    Shapes:
        x: `(B, C, H, W)` of any size: a map is filled up to whole windows with places that nobody reads. Gives the
            same shape.

    Maps:
        attention: `(batch, heads, query, key)` over the whole map, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, `shift` is not within a window, or there is no such `version`.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "shifted_window"
    aliases: ClassVar[tuple[str, ...]] = (
        "swin",
        "swin_transformer",
        "window_attention",
        "shifted_window_msa",
    )
    paper: ClassVar[Paper] = Paper(
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", "Liu et al.", "ICCV", 2021
    )
    formula: ClassVar[str] = "y_i = Wo concat_h Σ_j∈window(i) softmax_j(q_i · k_j / √d + bias_h(i - j)) v_j + bo"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "4*C*C + 4*C + (2*M - 1)*(2*M - 1)*h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "M": "window", "h": "heads"}
    deviations: ClassVar[tuple[str, ...]] = (
        "version='v2': cosines with a learned temperature and a log-spaced continuous bias (Liu et al. 2022)",
        "version='v2_released': version 2 as in the authors' code, with scaled offsets and a bounded bias",
    )
    placement: ClassVar[str] = "in every block of a transformer of maps, in alternation without and with a shift"
    place = "branch"

    def __init__(
        self, channels: int, window: int = 7, shift: int = 0, heads: int | None = None, version: Version = "v1"
    ) -> None:
        super().__init__()
        if shift >= window:
            raise ValueError(f"shift={shift} is not within a window of {window}: give 0 to {window - 1}.")
        self.channels = channels
        self.window = window
        self.shift = shift
        self.heads = choose_heads(channels, heads, most=channels // 32)
        self.version = version
        self.project = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        if version == "v1":
            self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, self.heads), std=0.02))
        else:
            self.log_scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10)))  # log 1/τ
            self.continuous_bias = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, self.heads, bias=False))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        H, W = x.shape[2:]
        shift = (self.shift if self.window < H else 0, self.shift if self.window < W else 0)
        windows = functional.cut_windows(x, self.window, shift)  # (B, G, P, C)
        query, key, value = self.project(windows).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        scores = self.scores(query, key) + self.position_bias()  # (B, G, h, P, P)
        mask = None
        if any(shift) or H % self.window or W % self.window:
            positions = functional.window_positions((H, W), self.window, shift, device=x.device)  # (G, P)
            mask = functional.shifted_window_mask(positions, W, self.window, shift)[:, None]  # (G, 1, P, P)
        weights = functional.masked_softmax(scores, mask).to(value.dtype)  # (B, G, h, P, P)
        if offering.listening():
            with offering.over_grid((H, W)):
                positions = functional.window_positions((H, W), self.window, shift, device=x.device)
                replaced = self.offer(
                    "attention", lambda request: over_map(request, weights, positions, positions[:, None], H * W)
                )
            if replaced is not None:
                value = self.project(map_to_tokens(x)).chunk(3, dim=2)[2]  # (B, N, C)
                return tokens_to_map(self.output(read_over_map(replaced, value)), (H, W))
        context = (weights @ value).transpose(2, 3).flatten(3)  # (B, G, P, C)
        return functional.join_windows(self.output(context), self.window, (H, W), shift)  # (B, C, H, W)

    def scores(self, query: Float[Tensor, "B G h P d"], key: Float[Tensor, "B G h P d"]) -> Float[Tensor, "B G h P P"]:
        """How well queries and keys fit, without their positions."""
        if self.version == "v1":
            return functional.dot_scores(query, key, query.shape[-1] ** -0.5)
        scale = self.log_scale.clamp(max=math.log(100)).exp()  # (h, 1, 1), at most 1 / 0.01
        return F.normalize(query, dim=-1) * scale @ F.normalize(key, dim=-1).transpose(-2, -1)

    def position_bias(self) -> Float[Tensor, "h P P"]:
        """What each pair of a window gets for its offset."""
        index = functional.relative_positions(self.window, self.output.weight.device)  # (P, P)
        table = self.bias if self.version == "v1" else self.continuous_table()  # ((2M - 1)², h)
        return table[index].permute(2, 0, 1)

    def continuous_table(self) -> Float[Tensor, "offsets h"]:
        """The bias of version 2 for every offset."""
        weight = self.output.weight
        offsets = torch.arange(1 - self.window, self.window, device=weight.device).to(weight.dtype)  # (2M - 1,)
        if self.version == "v2":
            spaced = offsets.sign() * offsets.abs().log1p()
        else:
            spaced = offsets.sign() * (8 * offsets.abs() / max(self.window - 1, 1)).log1p() / math.log(8)
        bias = self.continuous_bias(torch.cartesian_prod(spaced, spaced))  # ((2M - 1)², h)
        return bias if self.version == "v2" else 16 * bias.sigmoid()
