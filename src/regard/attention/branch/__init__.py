"""Weights over branches and kernels."""

from regard.attention.branch.aff import AttentionalFeatureFusion
from regard.attention.branch.attention_fusion import AttentionFusion
from regard.attention.branch.conditional_convolution import ConditionallyParameterizedConvolution
from regard.attention.branch.dynamic_convolution import DynamicConvolution
from regard.attention.branch.feature_fusion import FeatureFusion
from regard.attention.branch.feature_pyramid import FeaturePyramidAttention
from regard.attention.branch.global_attention_upsample import GlobalAttentionUpsample
from regard.attention.branch.involution import Involution
from regard.attention.branch.iterative_aff import IterativeAttentionalFeatureFusion
from regard.attention.branch.mean_field import MeanFieldRefinement
from regard.attention.branch.omni_dimensional import OmniDimensionalDynamicConvolution
from regard.attention.branch.pyramid_pooling import SpatialPyramidAttention
from regard.attention.branch.pyramid_split import PyramidSplitAttention
from regard.attention.branch.pyramid_weights import AttentionToScale
from regard.attention.branch.sk import SelectiveKernel
from regard.attention.branch.split import SplitAttention

__all__ = [
    "AttentionFusion",
    "AttentionToScale",
    "AttentionalFeatureFusion",
    "ConditionallyParameterizedConvolution",
    "DynamicConvolution",
    "FeatureFusion",
    "FeaturePyramidAttention",
    "GlobalAttentionUpsample",
    "Involution",
    "IterativeAttentionalFeatureFusion",
    "MeanFieldRefinement",
    "OmniDimensionalDynamicConvolution",
    "PyramidSplitAttention",
    "SelectiveKernel",
    "SpatialPyramidAttention",
    "SplitAttention",
]
