"""Every position reads the whole map or sequence."""

from regard.attention.context.gc import GlobalContext
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.context.non_local import NonLocal

__all__ = ["GlobalContext", "MultiHeadSelfAttention", "NonLocal"]
