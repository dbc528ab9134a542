"""Criss-cross attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact, Request


class CrissCrossAttention(Refine):
    """Criss-cross attention: every position reads its row and its column, and after a second time the whole map.

        q_u, k_u, v_u = three projections of x_u, the first two to d channels
        a_ui = softmax over i of q_u · k_i                   i: the H + W - 1 positions in the row and column of u
        x_u ← x_u + γ Σ_i a_ui v_i                           as often as `recurrence` says, with the same projections

    γ starts at zero, so that the block starts as the identity. The position itself counts once, as in the paper.

    Paper: Huang, Wang, Wei, Huang, Shi, Liu, Huang, "CCNet: Criss-Cross Attention for Semantic Segmentation",
    ICCV 2019; γ, and that `d = C / 8`, are from the authors' code.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 8. Queries and keys have at least one channel.
        recurrence: how often; default 2, the paper's choice, after which every position has read every other one.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes: what is read are the lines through a position, one
            along each axis. Gives the same shape.

    Maps:
        attention: `(batch, recurrence, query, key)`, sums to one over the keys, zero off the lines.

    Raises:
        ValueError: `reduction` is less than one; `recurrence` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "criss_cross"
    paper: ClassVar[Paper] = Paper(
        "CCNet: Criss-Cross Attention for Semantic Segmentation", "Huang et al.", "ICCV", 2019
    )
    formula: ClassVar[str] = "x_u ← x_u + γ Σ_i softmax_i(q_u · k_i) v_i, i in the row and column of u; twice"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "recurrence", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^1.5"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*(C*d + d) + C*C + C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "after the last stage of a segmentation network"
    place = "last_stage"

    def __init__(self, channels: int, reduction: int = 8, recurrence: int = 2) -> None:
        super().__init__()
        if recurrence < 1:
            raise ValueError(f"recurrence={recurrence} attends to nothing: give 1, or 2 to reach every position.")
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.recurrence = recurrence
        self.query = nn.Linear(channels, self.hidden_channels)
        self.key = nn.Linear(channels, self.hidden_channels)
        self.value = nn.Linear(channels, channels)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        y = x.movedim(1, -1)  # (B, *spatial, C)
        rounds = []
        for _ in range(self.recurrence):
            weights = functional.line_weights(self.query(y), self.key(y))  # an axis: (B, *spatial, L)
            y = y + self.gain * functional.line_read(weights, self.value(y))  # (B, *spatial, C)
            rounds.append(weights)

        def attention(request: Request) -> Float[Tensor, "B R T N"]:
            return request.pick(torch.stack([functional.line_map(weights) for weights in rounds], 1), queries=2)

        if offering.listening():
            with offering.over_grid(tuple(x.shape[2:])):
                self.offer("attention", attention)
        return y.movedim(-1, 1)  # (B, C, *spatial)
