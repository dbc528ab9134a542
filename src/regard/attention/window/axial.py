"""Attention along one axis after the other."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact, Request
from regard.attention.window.groups import over_map, read_over_map

Combine = Literal["compose", "sum"]


class AxialAttention(Refine):
    """Axial attention: every position reads its column, and then, of the result, its row.

        z_ij = A_1 applied to the positions (·, j) of x, at i
        y_ij = A_2 applied to the positions (i, ·) of z, at j

    where each `A` is multi-head self-attention, `Wo concat_h softmax(q kᵀ / √d) v`. After both, every position has read
    the whole map. Positions have no bias here: the paper adds position embeddings to the input.

    Paper: Ho, Kalchbrenner, Weissenborn, Salimans, "Axial Attention in Multidimensional Transformers", arXiv 2019,
    section 3.1. The residuals and normalisations between its layers are those of the block around it.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`; default the greatest divisor of `channels` up to the paper's 8.
        combine: `"compose"`, the default, or `"sum"`, the sum of what both axes read of the input.
        bias: whether the projections have biases; default False, as the paper's equations are written.

    Shapes:
        x: `(B, C, H, W)` of any size. Gives the same shape.

    Maps:
        height: `(batch, heads, query, key)` over the whole map, of the columns; sums to one over the keys.
        width: the same, of the rows.

    Raises:
        ValueError: `heads` does not divide `channels`, or there is no such `combine`.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "axial"
    paper: ClassVar[Paper] = Paper("Axial Attention in Multidimensional Transformers", "Ho et al.", "arXiv", 2019)
    formula: ClassVar[str] = "y = A_width(A_height(x)) with A = Wo concat_h softmax(q kᵀ / √d) v along one axis"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("height", ("batch", "heads", "query", "key"), ("key",)),
        MapFact("width", ("batch", "heads", "query", "key"), ("key",)),
    )
    growth: ClassVar[str] = "N^1.5"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "8*C*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "combine='sum': both axes read the input at once, and what they read is added",
        "bias=True: projections with biases, as in nn.MultiheadAttention",
    )
    placement: ClassVar[str] = "in every block of a transformer of maps, after a normalisation and inside a residual"
    place = "branch"

    def __init__(
        self, channels: int, heads: int | None = None, combine: Combine = "compose", bias: bool = False
    ) -> None:
        super().__init__()
        self.channels = channels
        self.heads = choose_heads(channels, heads, most=8)
        self.combine = combine
        self.project = nn.ModuleList(nn.Linear(channels, 3 * channels, bias=bias) for _ in range(2))
        self.output = nn.ModuleList(nn.Linear(channels, channels, bias=bias) for _ in range(2))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        tokens = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        along_height = self.attend(tokens, 0)
        along_width = self.attend(along_height if self.combine == "compose" else tokens, 1)
        y = along_width if self.combine == "compose" else along_height + along_width
        return y.contiguous().permute(0, 3, 1, 2)  # (B, C, H, W)

    def attend(self, tokens: Float[Tensor, "B H W C"], axis: int) -> Float[Tensor, "B H W C"]:
        """What every position reads along one axis."""
        lines = tokens.movedim(axis + 1, 2)  # (B, M, L, C), M lines of length L
        query, key, value = (
            self.project[axis](lines.flatten(0, 1)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (B·M, h, L, d)
        if offering.listening():
            H, W = tokens.shape[1:3]
            positions = torch.arange(H * W, device=tokens.device).reshape(H, W).movedim(axis, 1)  # (M, L)

            def attention(request: Request) -> Float[Tensor, "B heads T N"]:
                weights = functional.scaled_dot_product_weights(query, key)  # (B·M, h, L, L)
                return over_map(
                    request, weights.unflatten(0, lines.shape[:2]), positions, positions[:, None], positions.numel()
                )

            with offering.over_grid((H, W)):
                replaced = self.offer(self.maps[axis].label, attention)
            if replaced is not None:
                value = self.project[axis](tokens.flatten(1, 2)).chunk(3, dim=2)[2]  # (B, N, C)
                return self.output[axis](read_over_map(replaced, value)).unflatten(1, (H, W))
        context = functional.scaled_dot_product_attention(query, key, value)  # (B·M, h, L, d)
        read = self.output[axis](context.transpose(1, 2).flatten(2))  # (B·M, L, C)
        return read.unflatten(0, lines.shape[:2]).movedim(2, axis + 1)
