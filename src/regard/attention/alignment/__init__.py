"""A query reads a memory."""

from regard.attention.alignment.additive import AdditiveRead
from regard.attention.alignment.attention_on_attention import AttentionOnAttention
from regard.attention.alignment.dot import DotRead
from regard.attention.alignment.hard import HardRead
from regard.attention.alignment.local import LocalRead
from regard.attention.alignment.location_aware import LocationAwareRead
from regard.attention.alignment.multi_head_cross import MultiHeadCrossAttention
from regard.attention.alignment.multi_head_gated_cross import GatedCrossAttention
from regard.attention.alignment.multi_scale_deformable import MultiScaleDeformableAttention
from regard.attention.alignment.perceiver import PerceiverResampler
from regard.attention.alignment.query_former import QueryFormer
from regard.attention.alignment.sentinel import AdaptiveRead
from regard.attention.alignment.show_attend_tell import ShowAttendTell
from regard.attention.alignment.slot import SlotAttention
from regard.attention.alignment.stacked import StackedRead
from regard.attention.alignment.top_down import TopDownRead

__all__ = [
    "AdaptiveRead",
    "AdditiveRead",
    "AttentionOnAttention",
    "DotRead",
    "GatedCrossAttention",
    "HardRead",
    "LocalRead",
    "LocationAwareRead",
    "MultiHeadCrossAttention",
    "MultiScaleDeformableAttention",
    "PerceiverResampler",
    "QueryFormer",
    "ShowAttendTell",
    "SlotAttention",
    "StackedRead",
    "TopDownRead",
]
