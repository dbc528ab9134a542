"""Self-attention in windows, along axes and in neighbourhoods of a map."""

from regard.attention.window.axial import AxialAttention
from regard.attention.window.bi_level_routing import BiLevelRoutingAttention
from regard.attention.window.contextual_transformer import ContextualTransformer
from regard.attention.window.deformable import DeformableAttention
from regard.attention.window.focal_modulation import FocalModulation
from regard.attention.window.grid import GridAttention
from regard.attention.window.halo import HaloAttention
from regard.attention.window.neighbourhood import NeighbourhoodAttention
from regard.attention.window.outlook import OutlookAttention
from regard.attention.window.shifted_window import ShiftedWindowAttention
from regard.attention.window.stand_alone import StandAloneSelfAttention

__all__ = [
    "AxialAttention",
    "BiLevelRoutingAttention",
    "ContextualTransformer",
    "DeformableAttention",
    "FocalModulation",
    "GridAttention",
    "HaloAttention",
    "NeighbourhoodAttention",
    "OutlookAttention",
    "ShiftedWindowAttention",
    "StandAloneSelfAttention",
]
