"""Tokens of one modality read, gate or fuse with another."""

from regard.attention.multimodal.bilinear_attention import BilinearAttention
from regard.attention.multimodal.co_attention import ParallelCoAttention
from regard.attention.multimodal.crossmodal import CrossmodalAttention
from regard.attention.multimodal.film import FeatureWiseModulation
from regard.attention.multimodal.guided import GuidedAttention

__all__ = [
    "BilinearAttention",
    "CrossmodalAttention",
    "FeatureWiseModulation",
    "GuidedAttention",
    "ParallelCoAttention",
]
