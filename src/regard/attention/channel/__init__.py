"""One weight a channel."""

from regard.attention.channel.se import SqueezeExcitation

__all__ = ["SqueezeExcitation"]
