"""Seeing the attention of any model."""

from regard.watching.maps import AttentionMap, NoMapError
from regard.watching.watching import Watch, watch

__all__ = ["AttentionMap", "NoMapError", "Watch", "watch"]
