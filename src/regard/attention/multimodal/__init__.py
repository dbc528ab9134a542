"""Tokens of one modality read, gate or fuse with another."""

from regard.attention.multimodal.bilinear_attention import BilinearAttention
from regard.attention.multimodal.block_bilinear import BlockBilinearRead
from regard.attention.multimodal.co_attention import ParallelCoAttention
from regard.attention.multimodal.co_attentional import CoAttentionalTransformer
from regard.attention.multimodal.compact_bilinear import CompactBilinearRead
from regard.attention.multimodal.crossmodal import CrossmodalAttention
from regard.attention.multimodal.factorized_bilinear import FactorizedBilinearRead
from regard.attention.multimodal.film import FeatureWiseModulation
from regard.attention.multimodal.guided import GuidedAttention
from regard.attention.multimodal.low_rank_bilinear import LowRankBilinearRead
from regard.attention.multimodal.tucker import TuckerRead

__all__ = [
    "BilinearAttention",
    "BlockBilinearRead",
    "CoAttentionalTransformer",
    "CompactBilinearRead",
    "CrossmodalAttention",
    "FactorizedBilinearRead",
    "FeatureWiseModulation",
    "GuidedAttention",
    "LowRankBilinearRead",
    "ParallelCoAttention",
    "TuckerRead",
]
