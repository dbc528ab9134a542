"""A weight for channels and for positions together."""

from regard.attention.channel_spatial.cbam import CBAM
from regard.attention.channel_spatial.coordinate import CoordinateAttention
from regard.attention.channel_spatial.scse import ConcurrentSqueezeExcitation
from regard.attention.channel_spatial.simam import SimAM

__all__ = ["CBAM", "ConcurrentSqueezeExcitation", "CoordinateAttention", "SimAM"]
