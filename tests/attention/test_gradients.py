"""Gradients of what a mechanism's defaults leave out: parameters and formulae that only some argument brings.

The contract suite builds every mechanism with nothing but its required arguments; here stand the others, each with the
arguments that open its other ways. A gradient that is cut there leaves the values as they are.
"""

import pytest
import torch
from cases import first_cases, stir, tensors
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from regard.attention import (
    AdditiveRead,
    AgentAttention,
    AttentionalFeatureFusion,
    AttentionAugmentedConvolution,
    AttentionFusion,
    AttentionGate,
    AttentionOnAttention,
    AxialAttention,
    BilinearAttention,
    BlockBilinearRead,
    BottleneckAttention,
    CascadedGroupAttention,
    ChannelSelfAttention,
    ClassResidualPooling,
    CoAttentionalTransformer,
    CompactBilinearRead,
    ConcurrentSqueezeExcitation,
    ConditionallyParameterizedConvolution,
    ContextualTransformer,
    CosineAttention,
    CrossmodalAttention,
    DeformableAttention,
    DifferentialAttention,
    DividedSpaceTimeAttention,
    DotRead,
    DualAttention,
    EfficientAttention,
    FactorizedBilinearRead,
    FeatureWiseModulation,
    FocalModulation,
    FrequencyChannelAttention,
    GatedChannelTransformation,
    GatedCrossAttention,
    GatedInstancePooling,
    GatherExcite,
    GaussianContextTransformer,
    GeneralizedAttention,
    GlobalAttentionUpsample,
    GlobalContext,
    GridAttention,
    GroupedQueryAttention,
    Hamburger,
    IterativeAttentionalFeatureFusion,
    LinearAttention,
    LinformerAttention,
    LocalRead,
    LowRankBilinearRead,
    MeanFieldRefinement,
    MultiHeadAttentionPooling,
    MultiHeadLatentAttention,
    MultiScaleDeformableAttention,
    NonLocal,
    ObjectContext,
    OmniDimensionalDynamicConvolution,
    OutlookAttention,
    ParallelCoAttention,
    PatternedAttention,
    PerformerAttention,
    PolarizedSelfAttention,
    PyramidSplitAttention,
    ResidualAttention,
    ShiftedWindowAttention,
    ShowAttendTell,
    SpatialGate,
    SpatialGroupEnhance,
    SpatialPyramidAttention,
    SplitAttention,
    StackedRead,
    StandAloneSelfAttention,
    StripPooling,
    TalkingHeadsAttention,
    TuckerRead,
)

VARIANTS = {
    AdditiveRead: [{"bias": True}],
    AgentAttention: [{"bias": True}],
    AttentionAugmentedConvolution: [{"bias": False}],
    AttentionFusion: [{"project": False}],
    AttentionGate: [{"variant": "simple"}],
    AttentionOnAttention: [{"bias": True}, {"beside": "query"}],
    AttentionalFeatureFusion: [{"variant": "code"}],
    AxialAttention: [{"combine": "sum"}, {"bias": True}],
    BilinearAttention: [{"bias": True}],
    BlockBilinearRead: [{"bias": True}, {"normalize": True}],
    BottleneckAttention: [{"variant": "code"}],
    CascadedGroupAttention: [{"variant": "authors"}],
    ChannelSelfAttention: [{"variant": "dissimilar"}],
    ClassResidualPooling: [{"normalized": True}],
    CoAttentionalTransformer: [{"variant": "lxmert"}],
    CompactBilinearRead: [{"normalize": False}],
    ConcurrentSqueezeExcitation: [{"fusion": "max"}],
    ConditionallyParameterizedConvolution: [{"routing_bias": True}],
    ContextualTransformer: [{"variant": "softmax"}, {"variant": "released"}],
    CosineAttention: [{"variant": "swin_v2"}],
    CrossmodalAttention: [{"variant": "code"}],
    DeformableAttention: [{"normalize": True}, {"stride": 2}],
    DifferentialAttention: [{"bias": True}],
    DividedSpaceTimeAttention: [{"temporal_layer": True}],
    DotRead: [{"score": "dot", "query_width": 24}, {"score": "scaled_dot", "query_width": 24}],
    DualAttention: [{"variant": "dissimilar"}, {"shared_residual": True}],
    EfficientAttention: [{"normalization": "scaling"}],
    FactorizedBilinearRead: [{"bias": True}, {"variant": "code"}],
    FeatureWiseModulation: [{"residual": False}],
    FocalModulation: [{"normalized": True}],
    FrequencyChannelAttention: [{"frequencies": ((0, 0), (1, 2))}],
    GatedChannelTransformation: [{"norm": "l1"}],
    GatedCrossAttention: [{"bias": True}],
    GatedInstancePooling: [{"bias": True}, {"gated": False}],
    GatherExcite: [
        {"extent": 2},
        {"variant": "theta", "extent": 4},
        {"variant": "theta", "size": (3, 4)},
        {"variant": "theta", "size": (2, 5)},
        {"variant": "theta_plus", "extent": 2},
        {"variant": "theta_plus", "size": (2, 5)},
    ],
    GaussianContextTransformer: [{"learned": True}],
    GeneralizedAttention: [
        {"query_key": False},
        {"query_position": False},
        {"key_only": False},
        {"position_only": False},
    ],
    GlobalAttentionUpsample: [{"gate": "sigmoid"}],
    GlobalContext: [{"fusion": "scale"}],
    GridAttention: [{"partition": "block"}],
    GroupedQueryAttention: [{"bias": True}],
    Hamburger: [{"one_step": False}],
    IterativeAttentionalFeatureFusion: [{"variant": "code"}],
    LinearAttention: [{"causal": True}],
    LinformerAttention: [{"sharing": "none"}, {"sharing": "key_value"}, {"tokens": 2}],
    LocalRead: [{"position": "monotonic"}, {"score": "dot", "query_width": 24}],
    LowRankBilinearRead: [{"bias": True}],
    MeanFieldRefinement: [{"normalize": True}],
    MultiHeadAttentionPooling: [{"mlp": False}],
    MultiHeadLatentAttention: [{"normalize": True}, {"causal": False}],
    MultiScaleDeformableAttention: [{"levels": ((1, 2), (1, 1))}],
    NonLocal: [{"mode": "gaussian"}, {"mode": "dot_product"}, {"mode": "concatenation"}],
    ObjectContext: [{"scaled": True}],
    OmniDimensionalDynamicConvolution: [{"norm": True}, {"groups": 2}],
    OutlookAttention: [{"scaled": True}, {"stride": 2}],
    ParallelCoAttention: [{"bias": True}],
    PatternedAttention: [{"pattern": "strided"}, {"pattern": "prefix"}],
    PerformerAttention: [{"causal": True}],
    PolarizedSelfAttention: [
        {"arrangement": "sequential"},
        {"variant": "code"},
        {"variant": "code", "arrangement": "sequential"},
        {"norm": True},
    ],
    PyramidSplitAttention: [{"shared": False, "reduction": 4}],
    ResidualAttention: [{"mask": "channel"}, {"mask": "spatial"}],
    ShiftedWindowAttention: [{"version": "v2"}, {"version": "v2_released"}],
    ShowAttendTell: [{"bias": True}, {"gate": "channel"}],
    SpatialGate: [{"norm": False}],
    SpatialGroupEnhance: [{"unbiased": True}],
    SpatialPyramidAttention: [{"bias": True}],
    SplitAttention: [{"radix": 1}, {"groups": 2}],
    StackedRead: [{"score": "general"}],
    StandAloneSelfAttention: [{"scaled": True}],
    StripPooling: [{"variant": "code"}],
    TalkingHeadsAttention: [{"bias": True}, {"mixing_bias": True}],
    TuckerRead: [{"bias": True}],
}
CASES = {case.mechanism: case for case in first_cases()}
every_variant = pytest.mark.parametrize(
    ("case", "arguments"),
    [
        pytest.param(CASES[mechanism], arguments, id=f"{CASES[mechanism]}-{arguments}")
        for mechanism, several in VARIANTS.items()
        for arguments in several
    ],
)


@pytest.mark.slow
@every_variant
def test_a_variant_s_gradient_is_the_derivative(case, arguments):
    """By finite differences, with respect to every input and parameter; and no parameter is out of use.

    Which is asked first: where finite differences disagree, PyTorch takes minutes to say by how much.
    """
    module = stir(case.build(**arguments)).double().eval()
    sizes = {0: (), 1: (5,), 2: (3, 4), 3: (2, 3, 2)}[case.rank]
    inputs = [x.double().requires_grad_() for x in case.inputs(module, batch=2, spatial=sizes, count=3).values()]
    parameters = dict(module.named_parameters())
    expected = module(*inputs)
    expected.square().sum().backward()
    for name, parameter in parameters.items():
        if parameter.grad is None or not parameter.grad.any():
            # The bias of a softmax's scores has none, and changes nothing; whatever else has none is out of use.
            assert name.endswith("bias"), f"no gradient reaches {name}"
            parameter.data += 1
            torch.testing.assert_close(module(*inputs), expected)

    def function(*values):
        replaced = dict(zip(parameters, values[len(inputs) :], strict=True))
        return tuple(tensors(functional_call(module, replaced, values[: len(inputs)])))

    assert torch.autograd.gradcheck(function, (*inputs, *parameters.values()), fast_mode=True)


@every_variant
def test_all_that_a_variant_learns_is_registered(case, arguments):
    """No tensor and no layer is kept as a plain attribute, where no optimizer and no state dict finds it."""
    for part in case.build(**arguments).modules():
        for key, value in vars(part).items():
            if key not in {"_parameters", "_buffers", "_modules"}:
                assert not any(isinstance(leaf, Tensor | nn.Module) for leaf in tree_leaves(value)), key
