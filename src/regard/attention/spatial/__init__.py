"""One weight per position, or position-wise structure."""

from regard.attention.spatial.attention_gate import AttentionGate
from regard.attention.spatial.large_kernel import LargeKernelAttention
from regard.attention.spatial.large_selective_kernel import LargeSelectiveKernel
from regard.attention.spatial.multi_scale_convolutional import MultiScaleConvolutionalAttention
from regard.attention.spatial.spatial_gate import SpatialGate
from regard.attention.spatial.spatial_group import SpatialGroupEnhance
from regard.attention.spatial.spatial_squeeze import SpatialSqueezeExcitation

__all__ = [
    "AttentionGate",
    "LargeKernelAttention",
    "LargeSelectiveKernel",
    "MultiScaleConvolutionalAttention",
    "SpatialGate",
    "SpatialGroupEnhance",
    "SpatialSqueezeExcitation",
]
