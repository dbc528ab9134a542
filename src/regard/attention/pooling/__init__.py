"""A map or sequence becomes one vector."""

from regard.attention.pooling.class_attention import ClassAttention
from regard.attention.pooling.class_residual import ClassResidualPooling
from regard.attention.pooling.clip_pool import CLIPAttentionPooling
from regard.attention.pooling.gated_instance import GatedInstancePooling
from regard.attention.pooling.multi_head_pool import MultiHeadAttentionPooling
from regard.attention.pooling.softmax_pool import SpatialSoftmaxPooling

__all__ = [
    "CLIPAttentionPooling",
    "ClassAttention",
    "ClassResidualPooling",
    "GatedInstancePooling",
    "MultiHeadAttentionPooling",
    "SpatialSoftmaxPooling",
]
