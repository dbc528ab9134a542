"""One weight a channel."""

from regard.attention.channel.attention_refinement import AttentionRefinement
from regard.attention.channel.channel_self import ChannelSelfAttention
from regard.attention.channel.cross_covariance import CrossCovarianceAttention
from regard.attention.channel.eca import EfficientChannelAttention
from regard.attention.channel.ese import EffectiveSqueezeExcitation
from regard.attention.channel.frequency_channel import FrequencyChannelAttention
from regard.attention.channel.gated_channel import GatedChannelTransformation
from regard.attention.channel.gather_excite import GatherExcite
from regard.attention.channel.gaussian_context import GaussianContextTransformer
from regard.attention.channel.linear_context import LinearContextTransform
from regard.attention.channel.normalization_attention import NormalizationAttention
from regard.attention.channel.se import SqueezeExcitation
from regard.attention.channel.style_recalibration import StyleRecalibration

__all__ = [
    "AttentionRefinement",
    "ChannelSelfAttention",
    "CrossCovarianceAttention",
    "EffectiveSqueezeExcitation",
    "EfficientChannelAttention",
    "FrequencyChannelAttention",
    "GatedChannelTransformation",
    "GatherExcite",
    "GaussianContextTransformer",
    "LinearContextTransform",
    "NormalizationAttention",
    "SqueezeExcitation",
    "StyleRecalibration",
]
