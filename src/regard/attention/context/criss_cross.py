"""Criss-cross attention."""

from collections.abc import Callable, Sequence
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
    aliases: ClassVar[tuple[str, ...]] = ("ccnet", "cc_attention")
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
    zero_start = ("gain",)

    def __init__(self, channels: int, reduction: int = 8, recurrence: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.recurrence = recurrence
        self.query = nn.Linear(channels, self.hidden_channels)
        self.key = nn.Linear(channels, self.hidden_channels)
        self.value = nn.Linear(channels, channels)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        if offering.listening():
            with offering.over_grid(tuple(x.shape[2:])):
                y = self.offer_steps("attention", self.recurrence, lambda steps: self.repeat(x, steps))
        else:
            y, _ = self.repeat(x, (None,) * self.recurrence)
        return y.movedim(-1, 1)  # (B, C, *spatial)

    def repeat(
        self, x: Float[Tensor, "B C *spatial"], steps: Sequence[Tensor | None]
    ) -> tuple[Float[Tensor, "B *spatial C"], Callable[[Request], Tensor]]:
        """What the rounds make of the map, channels last, and their weights.

        Args:
            steps: the weights of every round over all positions, `(B, N, N)`; None for its own.
        """
        y = x.movedim(1, -1)  # (B, *spatial, C)
        rounds: list[tuple[Tensor, ...]] = []
        for given in steps:
            value = self.value(y)  # (B, *spatial, C)
            if given is None:
                weights = functional.line_weights(self.query(y), self.key(y))  # an axis: (B, *spatial, L)
                read = functional.line_read(weights, value)  # (B, *spatial, C)
                rounds.append(weights)
            else:
                read = functional.read(given, value.flatten(1, -2)).reshape(value.shape)
            y = y + self.gain * read  # (B, *spatial, C)

        def attention(request: Request) -> Float[Tensor, "B R T N"]:
            return request.pick(torch.stack([functional.line_map(weights) for weights in rounds], 1), queries=2)

        return y, attention
