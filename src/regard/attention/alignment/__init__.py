"""A query reads a memory."""

from regard.attention.alignment.additive import AdditiveRead
from regard.attention.alignment.dot import DotRead
from regard.attention.alignment.hard import HardRead
from regard.attention.alignment.multi_head_cross import MultiHeadCrossAttention
from regard.attention.alignment.stacked import StackedRead

__all__ = ["AdditiveRead", "DotRead", "HardRead", "MultiHeadCrossAttention", "StackedRead"]
