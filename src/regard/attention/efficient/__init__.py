"""Self-attention of less than quadratic cost, and its other forms."""

from regard.attention.efficient.agent import AgentAttention
from regard.attention.efficient.cascaded_group import CascadedGroupAttention
from regard.attention.efficient.cosine import CosineAttention
from regard.attention.efficient.differential import DifferentialAttention
from regard.attention.efficient.efficient import EfficientAttention
from regard.attention.efficient.entmax import EntmaxSelfAttention
from regard.attention.efficient.grouped_query import GroupedQueryAttention
from regard.attention.efficient.latent import MultiHeadLatentAttention
from regard.attention.efficient.linear import LinearAttention
from regard.attention.efficient.linformer import LinformerAttention
from regard.attention.efficient.multi_scale_linear import MultiScaleLinearAttention
from regard.attention.efficient.nystrom import NystromAttention
from regard.attention.efficient.patterned import PatternedAttention
from regard.attention.efficient.performer import PerformerAttention
from regard.attention.efficient.pooling_mixer import PoolingMixer
from regard.attention.efficient.separable import SeparableSelfAttention
from regard.attention.efficient.spatial_reduction import SpatialReductionAttention
from regard.attention.efficient.talking_heads import TalkingHeadsAttention

__all__ = [
    "AgentAttention",
    "CascadedGroupAttention",
    "CosineAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "EntmaxSelfAttention",
    "GroupedQueryAttention",
    "LinearAttention",
    "LinformerAttention",
    "MultiHeadLatentAttention",
    "MultiScaleLinearAttention",
    "NystromAttention",
    "PatternedAttention",
    "PerformerAttention",
    "PoolingMixer",
    "SeparableSelfAttention",
    "SpatialReductionAttention",
    "TalkingHeadsAttention",
]
