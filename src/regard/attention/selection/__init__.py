"""A map gives up the regions that matter."""

from regard.attention.selection.spatial_transformer import SpatialTransformer

__all__ = ["SpatialTransformer"]
