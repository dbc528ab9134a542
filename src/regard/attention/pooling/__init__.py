"""A map or sequence becomes one vector."""

from regard.attention.pooling.softmax_pool import SpatialSoftmaxPooling

__all__ = ["SpatialSoftmaxPooling"]
