"""Stand-alone self-attention."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact
from regard.attention.window.groups import over_map, read_over_map


class StandAloneSelfAttention(Refine):
    """Stand-alone self-attention: every position reads the k by k positions around it.

        q, k, v = Wq x, Wk x, Wv x, each cut into h heads
        a_ij    = softmax over j around i of q_i · k_j + q_i · [r_row(j - i); r_column(j - i)]
        y_i     = Σ_j a_ij v_j

    One half of a head's channels has a learned vector for every row, the other for every column; all heads have their
    own. Positions outside of the map are read by nobody.

    Paper: Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens, "Stand-Alone Self-Attention in Vision Models",
    NeurIPS 2019, equations 2 and 3.

    Args:
        channels: channels `C` of the map.
        kernel_size: size `k` of a neighbourhood, odd; default 7, the paper's choice.
        heads: how many heads `h`; default the greatest divisor of `channels` up to the paper's 8.
        scaled: whether scores are divided by the root of a head's channels; default False, as in the equation.

    Shapes:
        x: `(B, C, H, W)` of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)` over the whole map, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, or `kernel_size` is even.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "stand_alone"
    aliases: ClassVar[tuple[str, ...]] = ("sasa",)
    paper: ClassVar[Paper] = Paper(
        "Stand-Alone Self-Attention in Vision Models", "Ramachandran et al.", "NeurIPS", 2019
    )
    formula: ClassVar[str] = "y_i = concat_h Σ_j∈around(i) softmax_j(q_i · (k_j + [r_row(j - i); r_column(j - i)])) v_j"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "3*C*C + k*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        "scaled=True: scores over the root of a head's channels, as Vaswani et al. 2017",
    )
    placement: ClassVar[str] = "in place of the 3x3 convolution of every residual block"
    place = "branch"

    def __init__(self, channels: int, kernel_size: int = 7, heads: int | None = None, scaled: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.heads = choose_heads(channels, heads, most=8)
        width = channels // self.heads
        self.scale = width**-0.5 if scaled else 1.0
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.rows = nn.Parameter(torch.randn(self.heads, kernel_size, width // 2))
        self.columns = nn.Parameter(torch.randn(self.heads, kernel_size, width - width // 2))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        H, W = x.shape[2:]
        query, memory = self.project(x.permute(0, 2, 3, 1)).tensor_split((self.channels,), dim=3)
        query = query.unflatten(3, (self.heads, -1)) * self.scale  # (B, H, W, h, d)
        key, value = self.around(memory.unflatten(3, (2, self.heads, -1))).unbind(3)  # (B, H, W, h, d, k, k)
        dtype = value.dtype
        query, key = functional.at_least_single(query), functional.at_least_single(key)  # unscaled, half is too narrow
        by_row, by_column = query.tensor_split((self.rows.shape[2],), dim=4)
        scores = torch.einsum("byxhd,byxhdij->bhyxij", query, key)  # (B, h, H, W, k, k)
        rows, columns = functional.at_least_single(self.rows), functional.at_least_single(self.columns)
        scores = scores + torch.einsum("byxhd,hid->bhyxi", by_row, rows)[..., None]
        scores = scores + torch.einsum("byxhd,hjd->bhyxj", by_column, columns)[..., None, :]
        row, column = (self.offsets(size, x.device) for size in (H, W))  # (H, k) and (W, k)
        inside = (self.inside(row, H)[:, None, :, None] & self.inside(column, W)[None, :, None]).flatten(2)
        weights = functional.masked_softmax(scores.flatten(4), inside).to(dtype)  # (B, h, H, W, k·k)
        if offering.listening():
            keys = row.clamp(0, H - 1)[:, None, :, None] * W + column.clamp(0, W - 1)[None, :, None]
            keys = keys.flatten(2).flatten(0, 1)[None]  # (1, N, k·k)
            queries = torch.arange(H * W, device=x.device)[None]  # (1, N)
            shown = weights.flatten(2, 3)[:, None]  # (B, 1, h, N, k·k)
            with offering.over_grid((H, W)):
                replaced = self.offer("attention", lambda request: over_map(request, shown, queries, keys, H * W))
            if replaced is not None:
                value = self.project(map_to_tokens(x)).chunk(3, dim=2)[2]  # (B, N, C)
                return tokens_to_map(read_over_map(replaced, value), (H, W))
        weights = weights.unflatten(4, (self.kernel_size, self.kernel_size))
        context = torch.einsum("bhyxij,byxhdij->byxhd", weights, value).flatten(3)  # (B, H, W, C)
        return context.contiguous().permute(0, 3, 1, 2)  # (B, C, H, W)

    def around(self, memory: Float[Tensor, "B H W two h d"]) -> Float[Tensor, "B H W two h d k k"]:
        """What surrounds every position, as a view; zeros outside of the map."""
        edge = self.kernel_size // 2
        padded = F.pad(memory, (0, 0, 0, 0, 0, 0, edge, edge, edge, edge))
        return padded.unfold(1, self.kernel_size, 1).unfold(2, self.kernel_size, 1)

    def offsets(self, size: int, device: torch.device) -> Tensor:
        """Of every position of an axis the `k` around it, some of them outside."""
        around = torch.arange(self.kernel_size, device=device) - self.kernel_size // 2
        return torch.arange(size, device=device)[:, None] + around

    def inside(self, positions: Tensor, size: int) -> Bool[Tensor, "n k"]:
        """Which positions an axis of this size has."""
        return (positions >= 0) & (positions < size)
