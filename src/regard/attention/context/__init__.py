"""Every position reads the whole map or sequence."""

from regard.attention.context.attention_augmented import AttentionAugmentedConvolution
from regard.attention.context.bottleneck_self import BottleneckSelfAttention
from regard.attention.context.criss_cross import CrissCrossAttention
from regard.attention.context.disentangled_non_local import DisentangledNonLocal
from regard.attention.context.divided_space_time import DividedSpaceTimeAttention
from regard.attention.context.double import DoubleAttention
from regard.attention.context.dual import DualAttention
from regard.attention.context.external import ExternalAttention
from regard.attention.context.gc import GlobalContext
from regard.attention.context.generalized import GeneralizedAttention
from regard.attention.context.hamburger import Hamburger
from regard.attention.context.lambda_layer import LambdaLayer
from regard.attention.context.multi_head_self import MultiHeadSelfAttention
from regard.attention.context.non_local import NonLocal
from regard.attention.context.object_context import ObjectContext
from regard.attention.context.position import PositionAttention

__all__ = [
    "AttentionAugmentedConvolution",
    "BottleneckSelfAttention",
    "CrissCrossAttention",
    "DisentangledNonLocal",
    "DividedSpaceTimeAttention",
    "DoubleAttention",
    "DualAttention",
    "ExternalAttention",
    "GeneralizedAttention",
    "GlobalContext",
    "Hamburger",
    "LambdaLayer",
    "MultiHeadSelfAttention",
    "NonLocal",
    "ObjectContext",
    "PositionAttention",
]
