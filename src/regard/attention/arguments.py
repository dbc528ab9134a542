"""Numbers that mechanisms are built with: chosen where they are left open, refused where they do not fit together."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional


class Convolution3d(nn.Conv3d):
    """`nn.Conv3d`, right also in bfloat16 on a map of one slice.

    There oneDNN (3.13 in torch 2.15), on processors with AMX, gives back memory that it never wrote wherever it has to
    fill the depth up itself. So zeros are put before and behind a map of whatever depth beforehand; the values are the
    same. `padding="same"`, `"valid"` and other things to fill up with than zeros are left to torch.
    """

    def forward(self, input: Tensor) -> Tensor:
        brief = input.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if isinstance(self.padding, str) or self.padding_mode != "zeros" or not brief or input.device.type != "cpu":
            return super().forward(input)
        depth, *sides = self.padding
        if not depth:
            return super().forward(input)
        filled = F.pad(input, (0, 0, 0, 0, depth, depth))
        return F.conv3d(filled, self.weight, self.bias, self.stride, (0, *sides), self.dilation, self.groups)


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: Convolution3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""PyTorch's name of linear interpolation, by the number of spatial axes."""


def choose_heads(width: int, heads: int | None, most: int | None = None) -> int:
    """The number of heads asked for, or else the largest that divides the width and is not above `most`.

    Args:
        most: at least one head there is in any case; needed where the heads may be left open.

    Raises:
        ValueError: the heads asked for do not divide the width.
    """
    if heads is None:
        return functional.largest_divisor(width, max(1, most or 1))
    if width % heads:
        divisors = ", ".join(str(number) for number in range(1, width + 1) if width % number == 0)
        raise ValueError(f"{heads} heads do not divide the width {width}: choose heads among {divisors}.")
    return heads


def reduced(channels: int, reduction: int, least: int = 1) -> int:
    """The width of a bottleneck: `channels / reduction` rounded down, at least `least`."""
    return max(channels // reduction, least)


def convolution_over(dims: int) -> type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]:
    """The convolution over that many spatial axes."""
    return CONVOLUTIONS[dims]


def require_groups(groups: int, in_channels: int, out_channels: int) -> None:
    """Refuse groups that do not cut both channel counts evenly."""
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{in_channels} channels in and {out_channels} out are no multiples of groups={groups}: "
            "give groups that divide both."
        )
