"""One weight a channel."""

from regard.attention.channel.eca import EfficientChannelAttention
from regard.attention.channel.se import SqueezeExcitation

__all__ = ["EfficientChannelAttention", "SqueezeExcitation"]
