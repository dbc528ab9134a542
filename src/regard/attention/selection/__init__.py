"""A map gives up the regions that matter."""

from regard.attention.selection.attention_proposal import AttentionProposal
from regard.attention.selection.draw_read import DrawRead
from regard.attention.selection.glimpse import GlimpseSensor
from regard.attention.selection.gumbel_selection import GumbelSelection
from regard.attention.selection.spatial_transformer import SpatialTransformer

__all__ = [
    "AttentionProposal",
    "DrawRead",
    "GlimpseSensor",
    "GumbelSelection",
    "SpatialTransformer",
]
