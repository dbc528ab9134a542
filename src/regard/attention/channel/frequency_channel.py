"""Frequency channel attention."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import reduced
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact

GRID = 7
TOP_16 = (
    *((0, 0), (0, 1), (6, 0), (0, 5), (0, 2), (1, 0), (1, 2), (4, 0)),
    *((5, 0), (1, 6), (3, 0), (0, 4), (0, 6), (0, 3), (3, 5), (2, 2)),
)
"""The sixteen pairs of frequencies, vertical before horizontal, that alone served best on ImageNet, best first."""


class FrequencyChannelAttention(Refine):
    """Frequency channel attention: squeeze-and-excitation of more frequencies than the mean, one for each channel.

        s_c = Σ_hw B_uH(h) B_vW(w) x_chw          (u, v) the frequencies of channel c          (B, C)
        g   = sigmoid(W2 relu(W1 s))                                                         (B, C)
        y   = g · x

        B_uH(h) = a_u cos(π u (h + 1/2) / H)      a_0 = √(1/H), a_u = √(2/H) otherwise

    The orthonormal cosine transform, as in the authors' code: the paper leaves its constants out of the equations. The
    channels are cut into as many consecutive parts as there are pairs of frequencies, of sizes that differ by one at
    most. The pairs are of a 7 by 7 grid; a map of H rows has the vertical frequency `⌊u H / 7⌋` for `u`, which is the
    authors' for the multiples of 7 that theirs are. The basis is made for the map that comes, whatever its size.

    Paper: Qin, Zhang, Wu, Li, "FcaNet: Frequency Channel Attention Networks", ICCV 2021, section 3.2.

    Args:
        channels: channels `C` of the map.
        reduction: `C / d`; default 16, the paper's choice. The bottleneck has at least one channel.
        frequencies: pairs in 0..6, vertical before horizontal; default the paper's sixteen best. `((0, 0),)` is
            squeeze-and-excitation of the mean times √(H W).

    Shapes:
        x: `(B, C, H, W)`, any size. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..1.

    Raises:
        ValueError: `reduction` is less than one; there are no `frequencies`, or they are not pairs in 0..6.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "frequency_channel"
    aliases: ClassVar[tuple[str, ...]] = ("fca", "fcanet", "multi_spectral_attention")
    paper: ClassVar[Paper] = Paper("FcaNet: Frequency Channel Attention Networks", "Qin et al.", "ICCV", 2021)
    formula: ClassVar[str] = "y = x · sigmoid(W2 relu(W1 dct(x))), a frequency a channel"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*C*d"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "d": "hidden_channels"}
    placement: ClassVar[str] = "in every residual block, before the addition"
    place = "branch"
    frequencies: Tensor

    def __init__(self, channels: int, reduction: int = 16, frequencies: Sequence[tuple[int, int]] = TOP_16) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_channels = reduced(channels, reduction)
        pairs = [frequencies[channel * len(frequencies) // channels] for channel in range(channels)]
        self.register_buffer("frequencies", torch.tensor(pairs), persistent=False)  # (C, 2)
        self.squeeze = nn.Linear(channels, self.hidden_channels, bias=False)
        self.excite = nn.Linear(self.hidden_channels, channels, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        vertical, horizontal = self.frequencies.unbind(1)  # (C,) each
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows = cosine_basis(vertical, x.shape[2], dtype)  # (C, H)
        columns = cosine_basis(horizontal, x.shape[3], dtype)  # (C, W)
        basis = (rows[:, :, None] * columns[:, None]).to(x.dtype)  # (C, H, W)
        spectrum = (x * basis).sum(dim=(2, 3))  # (B, C)
        gate = self.excite(self.squeeze(spectrum).relu()).sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, H, W)


def cosine_basis(frequencies: Int[Tensor, " C"], size: int, dtype: torch.dtype) -> Float[Tensor, "C size"]:
    """One row of the orthonormal cosine transform of that size for each frequency of the grid."""
    frequencies = frequencies * size // GRID  # (C,)
    centres = torch.arange(size, device=frequencies.device, dtype=dtype) + 0.5  # (size,)
    amplitude = (((frequencies > 0) + 1).to(dtype) / size).sqrt()  # (C,)
    return amplitude[:, None] * (frequencies[:, None] * centres * (math.pi / size)).cos()  # (C, size)
