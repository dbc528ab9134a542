"""Channel self-attention."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact

Variant = Literal["similar", "dissimilar"]


class ChannelSelfAttention(Refine):
    """Channel self-attention: every channel reads all channels, and adds what it read.

        a_ji = softmax over i of x_j · x_i       over all positions, without projections        (B, C, C)
        y_j  = x_j + β Σ_i a_ji x_i

    It starts as the identity: `β = 0`. The channel attention module of the dual attention network.

    Paper: Fu, Liu, Tian, Li, Bao, Fang, Lu, "Dual Attention Network for Scene Segmentation", CVPR 2019, equations 3
    and 4.

    Args:
        channels: channels `C` of the map.
        variant: which channels a channel reads most. `"similar"`, the default, as above; `"dissimilar"`, the softmax of
            `max_i (x_j · x_i) - x_j · x_i`, as in the authors' code.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        attention: `(batch, channel, key_channel)`, sums to one over the key channels.

    Raises:
        ValueError: there is no such `variant`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "channel_self"
    paper: ClassVar[Paper] = Paper("Dual Attention Network for Scene Segmentation", "Fu et al.", "CVPR", 2019)
    formula: ClassVar[str] = "y = x + β softmax(x xᵀ) x"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "channel", "key_channel"), ("key_channel",)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "1"
    deviations: ClassVar[tuple[str, ...]] = (
        "variant='dissimilar': the softmax of max - energy, which reads dissimilar channels, as in the authors' code",
    )
    placement: ClassVar[str] = "after the last stage of a dilated backbone, beside an attention over positions"
    place = "last_stage"
    zero_start = ("gain",)

    def __init__(self, channels: int, variant: Variant = "similar") -> None:
        super().__init__()
        self.channels = self.key_channels = channels
        self.variant = variant
        self.gain = nn.Parameter(torch.zeros(1))  # β

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        attention = functional.channel_attention(x, dissimilar=self.variant == "dissimilar")  # (B, C, C)
        attention = self.offer("attention", attention)
        # The gain goes to the small matrix, not to the map.
        return x + torch.bmm(self.gain * attention, x.flatten(2)).unflatten(2, x.shape[2:])  # (B, C, *spatial)
