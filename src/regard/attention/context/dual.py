"""Dual attention, over positions and over channels."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.offering import MapFact, Request

Variant = Literal["similar", "dissimilar"]


class DualAttention(Refine):
    """Dual attention: positions read positions, channels read channels, and the two results are added.

        s_pu = softmax over u of q_p · k_u                   q, k, v: three projections of x, q and k to d channels
        t_ji = softmax over i of x_j · x_i                   products over all positions, without projections
        P_p  = x_p + α Σ_u s_pu v_u                          for every position p
        K_j  = x_j + β Σ_i t_ji x_i                          for every channel j
        y    = P + K

    α and β start at zero. The convolutions before and after the two modules are those of the paper's segmentation head,
    and no part of this.

    Paper: Fu, Liu, Tian, Li, Bao, Fang, Lu, "Dual Attention Network for Scene Segmentation", CVPR 2019, equations 1
    to 4; that `d = C / 8` is from the authors' code.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 8. Queries and keys have at least one channel.
        variant: which channels a channel reads most. `"similar"`, the default, as above; `"dissimilar"`, the softmax of
            `max_i (x_j · x_i) - x_j · x_i`.
        shared_residual: whether `x` is added once instead of twice; default False, the paper's sum.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        position: `(batch, query, key)`, sums to one over the keys.
        channel: `(batch, channel, key_channel)`, sums to one over the key channels.

    Raises:
        ValueError: `reduction` is less than one; there is no such `variant`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "dual"
    aliases: ClassVar[tuple[str, ...]] = ("danet", "da_module", "da_head", "dual_attention_network")
    paper: ClassVar[Paper] = Paper("Dual Attention Network for Scene Segmentation", "Fu et al.", "CVPR", 2019)
    formula: ClassVar[str] = "y = (x + α softmax(q kᵀ) v) + (x + β softmax(x xᵀ) x)"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("position", ("batch", "query", "key"), ("key",)),
        MapFact("channel", ("batch", "channel", "key_channel"), ("key_channel",)),
    )
    growth: ClassVar[str] = "N^2"
    parameter_count: ClassVar[str] = "2*(C*d + d) + C*C + C + 2"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "variant='dissimilar': the softmax of max - energy over the channels, as in the authors' code",
        "shared_residual=True: x is added once, so that the block starts as the identity and not as 2x",
    )
    placement: ClassVar[str] = "after the last stage of a segmentation network"
    place = "last_stage"
    zero_start = ("position_gain", "channel_gain")

    def __init__(
        self, channels: int, reduction: int = 8, variant: Variant = "similar", shared_residual: bool = False
    ) -> None:
        super().__init__()
        self.channels = self.key_channels = channels
        self.hidden_channels = reduced(channels, reduction)
        self.variant = variant
        self.shared_residual = shared_residual
        self.query = nn.Linear(channels, self.hidden_channels)
        self.key = nn.Linear(channels, self.hidden_channels)
        self.value = nn.Linear(channels, channels)
        self.position_gain = nn.Parameter(torch.zeros(1))  # α
        self.channel_gain = nn.Parameter(torch.zeros(1))  # β

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        tokens = map_to_tokens(x).contiguous()  # (B, N, C)
        query, key = self.query(tokens)[:, None], self.key(tokens)[:, None]  # (B, 1, N, d)
        value = self.value(tokens)[:, None]  # (B, 1, N, C)
        weights = functional.channel_attention(x, dissimilar=self.variant == "dissimilar")  # (B, C, C)

        def attention(request: Request) -> Float[Tensor, "B T N"]:
            return functional.scaled_dot_product_weights(request.pick(query, queries=2), key, scale=1.0)[:, 0]

        replaced = None
        if offering.listening():
            with offering.over_grid(spatial):
                replaced = self.offer("position", attention)
        if replaced is None:
            positions = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]  # (B, N, C)
        else:
            positions = functional.read(replaced, value[:, 0])
        weights = self.offer("channel", weights)
        # The gain goes to the small matrix, not to the map; c_pj = Σ_i t_ji x_pi.
        channels = functional.read(tokens, (self.channel_gain * weights).transpose(1, 2))  # (B, N, C)
        context = tokens_to_map(self.position_gain * positions + channels, spatial)  # (B, C, *spatial)
        return x + context if self.shared_residual else 2 * x + context
