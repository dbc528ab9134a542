"""Self-attention of less than quadratic cost, and its other forms."""

from regard.attention.efficient.cosine import CosineAttention
from regard.attention.efficient.differential import DifferentialAttention
from regard.attention.efficient.efficient import EfficientAttention
from regard.attention.efficient.entmax import EntmaxSelfAttention
from regard.attention.efficient.grouped_query import GroupedQueryAttention
from regard.attention.efficient.linear import LinearAttention
from regard.attention.efficient.linformer import LinformerAttention
from regard.attention.efficient.multi_scale_linear import MultiScaleLinearAttention
from regard.attention.efficient.performer import PerformerAttention
from regard.attention.efficient.pooling_mixer import PoolingMixer
from regard.attention.efficient.separable import SeparableSelfAttention
from regard.attention.efficient.spatial_reduction import SpatialReductionAttention

__all__ = [
    "CosineAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "EntmaxSelfAttention",
    "GroupedQueryAttention",
    "LinearAttention",
    "LinformerAttention",
    "MultiScaleLinearAttention",
    "PerformerAttention",
    "PoolingMixer",
    "SeparableSelfAttention",
    "SpatialReductionAttention",
]
