"""Position attention, one half of the dual attention network."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact, Request


class PositionAttention(Refine):
    """Position attention: every position reads all positions, by a gain that is learned from zero.

        q_i, k_i, v_i = three projections of x_i, the first two to d channels
        s_ij = softmax over j of q_i · k_j
        y_i  = x_i + α Σ_j s_ij v_j

    α starts at zero, so that the block starts as the identity.

    Paper: Fu, Liu, Tian, Li, Bao, Fang, Lu, "Dual Attention Network for Scene Segmentation", CVPR 2019, equations 1
    and 2, the position attention module; that `d = C / 8` is from the authors' code.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 8. Queries and keys have at least one channel.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        attention: `(batch, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `reduction` is less than one.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "position"
    aliases: ClassVar[tuple[str, ...]] = ("pam", "position_attention_module")
    paper: ClassVar[Paper] = Paper("Dual Attention Network for Scene Segmentation", "Fu et al.", "CVPR", 2019)
    formula: ClassVar[str] = "y_i = x_i + α Σ_j softmax_j(q_i · k_j) v_j"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "2*(C*d + d) + C*C + C + 1"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "after the last stage of a segmentation network"
    place = "last_stage"
    zero_start = ("gain",)

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.query = nn.Linear(channels, self.hidden_channels)
        self.key = nn.Linear(channels, self.hidden_channels)
        self.value = nn.Linear(channels, channels)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        query, key = self.query(tokens)[:, None], self.key(tokens)[:, None]  # (B, 1, N, d)
        value = self.value(tokens)[:, None]  # (B, 1, N, C)

        def attention(request: Request) -> Float[Tensor, "B T N"]:
            return functional.scaled_dot_product_weights(request.pick(query, queries=2), key, scale=1.0)[:, 0]

        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer("attention", attention)
        if replaced is None:
            context = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]  # (B, N, C)
        else:
            context = functional.read(replaced, value[:, 0])
        return x + tokens_to_map(self.gain * context, spatial)  # (B, C, *spatial)
