"""What mechanisms are built with: the narrowest widths, the scale of initial values, the pace of running statistics."""

import math
from inspect import signature

import pytest
import torch
from cases import first_cases
from oracle import count

from regard.attention import (
    CBAM,
    AgentAttention,
    AttentionalFeatureFusion,
    AttentionAugmentedConvolution,
    AttentionGate,
    BilinearAttention,
    BlockBilinearRead,
    BottleneckAttention,
    BottleneckSelfAttention,
    ClassAttention,
    ClassResidualPooling,
    CLIPAttentionPooling,
    ConcurrentSqueezeExcitation,
    ContextualTransformer,
    CoordinateAttention,
    CrissCrossAttention,
    DeformableAttention,
    DifferentialAttention,
    DisentangledNonLocal,
    DotRead,
    DoubleAttention,
    DualAttention,
    DynamicConvolution,
    FactorizedBilinearRead,
    FeatureFusion,
    FrequencyChannelAttention,
    GatherExcite,
    GeneralizedAttention,
    GlobalContext,
    GridAttention,
    HaloAttention,
    Involution,
    IterativeAttentionalFeatureFusion,
    LargeSelectiveKernel,
    LinformerAttention,
    LowRankBilinearRead,
    MultiHeadAttentionPooling,
    NeighbourhoodAttention,
    NonLocal,
    ObjectContext,
    OmniDimensionalDynamicConvolution,
    ParallelCoAttention,
    PerceiverResampler,
    PolarizedSelfAttention,
    PositionAttention,
    PyramidSplitAttention,
    QueryFormer,
    ResidualAttention,
    SelectiveKernel,
    ShiftedWindowAttention,
    SlotAttention,
    SpatialGate,
    SpatialPyramidAttention,
    SplitAttention,
    SqueezeExcitation,
    StandAloneSelfAttention,
    TripletAttention,
    TuckerRead,
)
from regard.attention.norm import BatchNorm

# Widths


@pytest.mark.parametrize(
    ("mechanism", "options"),
    [
        (SqueezeExcitation, {}),
        (FrequencyChannelAttention, {}),
        (GatherExcite, {}),
        (CBAM, {}),
        (ConcurrentSqueezeExcitation, {}),
        (BottleneckAttention, {}),
        (ResidualAttention, {}),
        (CrissCrossAttention, {}),
        (DisentangledNonLocal, {}),
        (DoubleAttention, {}),
        (DualAttention, {}),
        (GlobalContext, {}),
        (NonLocal, {}),
        (ObjectContext, {}),
        (PositionAttention, {}),
        (LargeSelectiveKernel, {}),
        (ContextualTransformer, {}),
        (AttentionalFeatureFusion, {}),
        (IterativeAttentionalFeatureFusion, {}),
        (FeatureFusion, {}),
        (SpatialPyramidAttention, {}),
        (DynamicConvolution, {"out_channels": 8}),
        (Involution, {"out_channels": 8}),
        (PyramidSplitAttention, {"out_channels": 8}),
        (OmniDimensionalDynamicConvolution, {"out_channels": 8, "minimum_width": 1}),
        (SelectiveKernel, {"out_channels": 8, "minimum_width": 1}),
        (SplitAttention, {"out_channels": 8, "minimum_width": 1}),
    ],
)
def test_a_bottleneck_narrower_than_one_channel_has_one(mechanism, options):
    assert mechanism(8, reduction=97, **options).hidden_channels == 1


def test_halves_and_heads_of_one_channel_have_one():
    assert (AttentionGate(1).hidden_channels, PolarizedSelfAttention(1).hidden_channels) == (1, 1)
    assert PolarizedSelfAttention(2, "sequential", "code").excite[0].out_features == 1
    assert GeneralizedAttention(3, heads=8).head_width == 1
    augmented = AttentionAugmentedConvolution(3, 11, heads=2, key_share=0.0, value_share=0.0, minimum_key_width=0)
    assert (augmented.key_channels, augmented.value_channels) == (2, 2)


def test_coordinate_attention_keeps_eight_channels():
    assert CoordinateAttention(16).hidden_channels == 8


@pytest.mark.parametrize(
    ("mechanism", "options", "biases"),
    [
        (LowRankBilinearRead, {"joint_width": 13}, 2 * 13),
        (FactorizedBilinearRead, {"joint_width": 13, "factors": 3}, 2 * 3 * 13),
        (TuckerRead, {"joint_width": 13, "rank": 3}, 2 * (13 + 3 * 13)),
        (BlockBilinearRead, {"joint_width": 14, "blocks": 2, "rank": 3}, 2 * (14 + 3 * 14)),
        (ParallelCoAttention, {"hidden_width": 13}, 5 + 2 * 13 + 2),
        (BilinearAttention, {"hidden_width": 13, "glimpses": 3}, 2 * 13 + 3 * (2 * 13 + 5)),
    ],
)
def test_every_projection_of_two_modalities_has_the_bias_that_was_asked_for(mechanism, options, biases):
    assert count(mechanism(5, 7, bias=True, **options)) - count(mechanism(5, 7, **options)) == biases


# Initial values


def uniform(bound):
    """The standard deviation of what is drawn evenly from between `-bound` and `bound`."""
    return bound / math.sqrt(3)


@pytest.mark.parametrize(
    ("build", "name", "deviation"),
    [
        # As PyTorch's layers of as many inputs
        (lambda: OmniDimensionalDynamicConvolution(32, 24, groups=2), "weight", uniform((16 * 9) ** -0.5)),
        (lambda: DynamicConvolution(4, 999), "bias", uniform((4 * 9) ** -0.5)),
        (lambda: GatherExcite(61, "theta", size=(5, 7)), "kernel", uniform(35**-0.5)),
        (lambda: ClassResidualPooling(None, 61, classes=43), "weight", uniform(61**-0.5)),
        (lambda: BlockBilinearRead(3, 5, 60, blocks=4), "query_core.weight", uniform(15**-0.5)),
        (lambda: BlockBilinearRead(3, 5, 60, blocks=4, rank=47, bias=True), "query_core.bias", uniform(15**-0.5)),
        # So that scores of inputs of unit variance have unit variance
        (lambda: LowRankBilinearRead(3, 5, 997), "score", 997**-0.5),
        (lambda: BlockBilinearRead(3, 5, 1000), "score", 1000**-0.5),
        (lambda: TuckerRead(3, 5, 997, rank=1), "score", 997**-0.5),
        (lambda: BilinearAttention(3, 5, 97, glimpses=19), "score", 97**-0.5),
        (lambda: DotRead(61, 43, "general"), "score.query.weight", (61 * 43) ** -0.5),
        (lambda: HaloAttention(48, heads=2, block=31), "rows", 24**-0.5),
        (lambda: HaloAttention(48, heads=2, block=31), "columns", 24**-0.5),
        (lambda: BottleneckSelfAttention(48, heads=2), "offsets.1", 24**-0.5),
        (lambda: AttentionAugmentedConvolution(3, 11, heads=2), "offsets.1", 20**-0.5),
        (lambda: StandAloneSelfAttention(96, kernel_size=31), "rows", 1.0),
        (lambda: StandAloneSelfAttention(96, kernel_size=31), "columns", 1.0),
        (lambda: GeneralizedAttention(1200), "key_vector", 1.0),
        (lambda: GeneralizedAttention(1200), "position_vector", 1.0),
        (lambda: MultiHeadAttentionPooling(None, 64, seeds=31), "seed", 64**-0.5),
        (lambda: CLIPAttentionPooling(None, 64), "embedding", 64**-0.5),
        (lambda: CLIPAttentionPooling(None, 1024), "mean_embedding", 1024**-0.5),
        (lambda: SlotAttention(3, width=1009), "mean", 1009**-0.5),
        (lambda: SlotAttention(3, width=1009), "log_deviation", 1009**-0.5),
        # As the papers say, or their authors' code has it
        (lambda: LinformerAttention(8, tokens=97, slots=31), "key_slots", 31**-0.5),
        (lambda: LinformerAttention(8, tokens=97, slots=31), "value_slots", 31**-0.5),
        (lambda: LinformerAttention(8, tokens=97, slots=31, sharing="none"), "value_slots", 31**-0.5),
        (lambda: DifferentialAttention(1024, heads=2), "balance", 0.1),
        (lambda: DeformableAttention(8, heads=2), "table", 0.01),
        (lambda: AgentAttention(64), "gather_bias.block", 0.02),
        (lambda: GridAttention(64, size=23), "bias", 0.02),
        (lambda: ShiftedWindowAttention(64, window=23), "bias", 0.02),
        (lambda: NeighbourhoodAttention(64, kernel_size=23), "bias", 0.02),
        (lambda: ClassAttention(None, 1024), "token", 0.02),
        (lambda: PerceiverResampler(61, layers=1), "latents", 0.02),
        (lambda: QueryFormer(64, layers=1), "query", 0.02),
    ],
)
def test_initial_values_have_the_scale_of_what_they_stand_for(build, name, deviation):
    values = build().get_parameter(name).detach()
    assert values.numel() > 900, "enough for an estimate of some percent"
    assert abs(float(values.mean())) < 0.15 * deviation
    assert float(values.std()) == pytest.approx(deviation, rel=0.1)


# Running statistics


@pytest.mark.parametrize("build", [CBAM, SpatialGate, TripletAttention])
@torch.no_grad()
def test_the_statistics_of_spatial_maps_follow_a_batch_by_a_hundredth(build):
    """The momentum of the authors' code, ten times slower than PyTorch's."""
    module, normed = build(5), {}
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.register_forward_hook(lambda norm, inputs, output: normed.setdefault(norm, inputs[0]))
    module(2 + torch.randn(3, 5, 7, 11))
    assert normed
    for norm, values in normed.items():
        torch.testing.assert_close(norm.running_mean, 0.01 * values.mean()[None])
        torch.testing.assert_close(norm.running_var, 0.99 + 0.01 * values.var()[None])


REDUCING = [case for case in first_cases() if "reduction" in signature(case.mechanism).parameters]


@pytest.mark.parametrize("case", REDUCING, ids=str)
@pytest.mark.parametrize("reduction", [0, -2])
def test_a_reduction_below_one_is_refused(case, reduction):
    with pytest.raises(ValueError, match=f"reduction={reduction}"):
        case.build(reduction=reduction)
