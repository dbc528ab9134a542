"""A weight for channels and for positions together."""

from regard.attention.channel_spatial.bam import BottleneckAttention
from regard.attention.channel_spatial.cbam import CBAM
from regard.attention.channel_spatial.coordinate import CoordinateAttention
from regard.attention.channel_spatial.efficient_multi_scale import EfficientMultiScaleAttention
from regard.attention.channel_spatial.polarized import PolarizedSelfAttention
from regard.attention.channel_spatial.residual_attention import ResidualAttention
from regard.attention.channel_spatial.scse import ConcurrentSqueezeExcitation
from regard.attention.channel_spatial.shuffle import ShuffleAttention
from regard.attention.channel_spatial.simam import SimAM
from regard.attention.channel_spatial.strip_pooling import StripPooling
from regard.attention.channel_spatial.triplet import TripletAttention

__all__ = [
    "CBAM",
    "BottleneckAttention",
    "ConcurrentSqueezeExcitation",
    "CoordinateAttention",
    "EfficientMultiScaleAttention",
    "PolarizedSelfAttention",
    "ResidualAttention",
    "ShuffleAttention",
    "SimAM",
    "StripPooling",
    "TripletAttention",
]
