"""The table of fusions."""

from regard.models.fusion.block_bilinear import BlockBilinear
from regard.models.fusion.bottleneck import Bottleneck
from regard.models.fusion.concatenation import Concatenation
from regard.models.fusion.contract import Fusion
from regard.models.fusion.cross_attention import CrossAttention
from regard.models.fusion.directed_pairs import DirectedPairs
from regard.models.fusion.factorized_bilinear import FactorizedBilinear
from regard.models.fusion.gated import Gated
from regard.models.fusion.gradient_blending import GradientBlending
from regard.models.fusion.low_rank_bilinear import LowRankBilinear
from regard.models.fusion.low_rank_tensor import LowRankTensorFusion
from regard.models.fusion.perceiver import Perceiver
from regard.models.fusion.stacking import Stacking
from regard.models.fusion.tensor import TensorFusion
from regard.models.fusion.tucker import Tucker
from regard.models.fusion.vote import Vote

fusions: dict[str, type[Fusion]] = {
    fusion.name: fusion
    for fusion in (
        Concatenation,
        Gated,
        LowRankBilinear,
        FactorizedBilinear,
        Tucker,
        BlockBilinear,
        TensorFusion,
        LowRankTensorFusion,
        Vote,
        Stacking,
        GradientBlending,
        CrossAttention,
        DirectedPairs,
        Bottleneck,
        Perceiver,
    )
}
"""Every fusion by its name: at feature level, then decision level, then model level."""
