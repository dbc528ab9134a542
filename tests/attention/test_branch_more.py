"""More weights over branches and kernels, against the papers' equations, written again as loops, and timm's modules."""

import itertools
import math

import pytest
import torch
from oracle import (
    affine,
    cells,
    channel_means,
    count,
    dot,
    draw,
    offered,
    randomize,
    relu,
    sigmoid,
    softmax,
    watched,
    weights_of,
)
from slow_layers import batch_norm, bottleneck, convolution, convolve, interpolated
from timm.layers import CondConv2d, SplitAttn
from torch import nn

from regard.attention import (
    AttentionFusion,
    AttentionToScale,
    ConditionallyParameterizedConvolution,
    DynamicConvolution,
    FeatureFusion,
    FeaturePyramidAttention,
    GlobalAttentionUpsample,
    Involution,
    IterativeAttentionalFeatureFusion,
    MeanFieldRefinement,
    OmniDimensionalDynamicConvolution,
    PyramidSplitAttention,
    ShapeError,
    SpatialPyramidAttention,
    SplitAttention,
)


def slow_grouped(layer, vector):
    """A convolution of size one on a vector, group by group."""
    outputs, inputs = layer.weight.shape[:2]
    first = [o // (outputs // layer.groups) * inputs for o in range(outputs)]
    weight, bias = layer.weight[:, :, 0].tolist(), layer.bias.tolist()
    return [bias[o] + dot(weight[o], vector[first[o] : first[o] + inputs]) for o in range(outputs)]


# Split attention


@torch.no_grad()
def slow_split(module, x):
    layer, norm, _ = module.convolution
    K, R, C = module.groups, module.radix, module.out_channels
    u = convolve(layer, x)
    u = batch_norm(norm, u).clamp(min=0)
    sums = [sum(u[:, r * C : (r + 1) * C] for r in range(R))[b] for b in range(len(x))]
    z = torch.tensor([slow_grouped(module.squeeze[0], channel_means(one)) for one in sums], dtype=x.dtype)
    z = batch_norm(module.squeeze[1], z).clamp(min=0)
    weights, y = torch.zeros(len(x), R, C, dtype=x.dtype), torch.zeros(len(x), C, *u.shape[2:], dtype=x.dtype)
    for b, c in itertools.product(range(len(x)), range(C)):
        scores = slow_grouped(module.select, z[b].tolist())
        group, place = divmod(c, C // K)
        own = [scores[group * R * (C // K) + r * (C // K) + place] for r in range(R)]
        for r, weight in enumerate(softmax(own) if R > 1 else [sigmoid(own[0])]):
            weights[b, r, c] = weight
            y[b, c] += weight * u[b, r * C + c]
    return y, weights


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {"minimum_width": 3},
        {"stride": 2, "minimum_width": 3},
        {"groups": 3, "minimum_width": 9},
        {"groups": 2, "radix": 3, "kernel_size": 1, "reduction": 3, "minimum_width": 2},
        {"radix": 1, "minimum_width": 2},
    ],
    ids=str,
)
def test_split(arguments, training):
    module = randomize(SplitAttention(12, 6, **arguments)).train(training)
    x = draw((2, 12, 5, 3))
    expected, weights = slow_split(module, x)
    y, offer = offered(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, weights)
    assert offer.fact.sums_to_one == (("radix",) if module.radix > 1 else ())


SPLIT_KEYS = {
    "conv.": "convolution.0.",
    "bn0.": "convolution.1.",
    "fc1.": "squeeze.0.",
    "bn1.": "squeeze.1.",
    "fc2.": "select.",
}


@pytest.mark.parametrize("arguments", [{}, {"groups": 2}, {"radix": 1}, {"stride": 2, "radix": 4}], ids=str)
def test_split_is_timm_s(arguments):
    theirs = randomize(SplitAttn(16, 24, norm_layer=nn.BatchNorm2d, **arguments)).eval()
    ours = SplitAttention(16, 24, **arguments).double().eval()
    state = {}
    for key, value in theirs.state_dict().items():
        (prefix,) = (prefix for prefix in SPLIT_KEYS if key.startswith(prefix))
        state[key.replace(prefix, SPLIT_KEYS[prefix])] = value[..., 0] if value.shape[2:] == (1, 1) else value
    ours.load_state_dict(state)
    x = draw((2, 16, 7, 5))
    torch.testing.assert_close(ours(x), theirs(x))


def test_split_makes_resnest_50():
    """ResNeSt-50 has a convolution of split attention in every block, of the stage's width; timm's has 27,483,240."""
    blocks = {64: 3, 128: 4, 256: 6, 512: 3}
    with torch.device("meta"):
        added = sum(n * (count(SplitAttention(c, c)) - 9 * c * c - 2 * c) for c, n in blocks.items())
    stem = 3 * 32 * 9 + 32 * 32 * 9 + 32 * 64 * 9 + 2 * 64 - 3 * 64 * 49  # three 3x3 in place of one 7x7
    assert 25_557_032 + added + stem == 27_483_240


def test_split_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="multiples of groups·radix = 4"):
        SplitAttention(6, 8, groups=2)
    with pytest.raises(ValueError, match="odd"):
        SplitAttention(8, 8, kernel_size=2)


# Mixtures of kernels


@torch.no_grad()
def slow_mixture(module, x, weights):
    """By linearity the weighted sum of the outputs of all kernels."""
    y = []
    for b in range(len(x)):
        parts = []
        for k, weight in enumerate(weights[b].tolist()):
            bias = getattr(module, "bias", None)
            bias = None if bias is None else bias[k]
            parts.append(weight * convolution(x[b], module.weight[k], bias, module.stride, groups=module.groups))
        y.append(sum(parts))
    return torch.stack(y)


CONVOLUTIONS = [{}, {"stride": 2}, {"groups": 2}, {"kernel_size": 1}, {"kernel_size": 5, "stride": 3}]


@pytest.mark.parametrize(
    "arguments", [*CONVOLUTIONS, {"kernels": 3, "reduction": 2}, {"bias": False}, {"temperature": 1.0}], ids=str
)
def test_dynamic_convolution(arguments):
    module = randomize(DynamicConvolution(6, 4, **arguments))
    x = draw((2, 6, 5, 3))
    hidden = [relu(affine(module.squeeze, channel_means(one))) for one in x]
    temperature = arguments.get("temperature", 30)
    weights = [softmax([score / temperature for score in affine(module.select, vector)]) for vector in hidden]
    weights = torch.tensor(weights, dtype=x.dtype)
    y, offer = offered(module, x)
    torch.testing.assert_close(offer.weights, weights)
    torch.testing.assert_close(y, slow_mixture(module, x, weights))


@torch.no_grad()
def test_dynamic_convolution_cools():
    """The training loop sets the temperature: at a high one the kernels are mixed evenly."""
    module, x = randomize(DynamicConvolution(6, 4)), draw((2, 6, 5, 3))
    spreads = []
    for temperature in (1000.0, 30.0, 1.0):
        module.temperature = temperature
        weights = offered(module, x)[1].weights
        spreads.append(float(weights.max() - weights.min()))
    assert spreads[0] < 0.01
    assert spreads[0] * 10 < spreads[1]
    assert spreads[1] * 2 < spreads[2]


@pytest.mark.parametrize("arguments", [*CONVOLUTIONS, {"experts": 3}, {"routing_bias": True}], ids=str)
def test_conditional_convolution(arguments):
    module = randomize(ConditionallyParameterizedConvolution(6, 4, **arguments))
    x = draw((2, 6, 5, 3))
    weights = [[sigmoid(score) for score in affine(module.route, channel_means(one))] for one in x]
    weights = torch.tensor(weights, dtype=x.dtype)
    y, offer = offered(module, x)
    torch.testing.assert_close(offer.weights, weights)
    torch.testing.assert_close(y, slow_mixture(module, x, weights))
    assert not offer.fact.sums_to_one


@pytest.mark.parametrize("arguments", [{}, {"stride": 2}, {"groups": 2}, {"kernel_size": 5}], ids=str)
def test_conditional_convolution_is_timm_s(arguments):
    """timm's takes the routing weights as an argument, and its kernels flat."""
    ours = randomize(ConditionallyParameterizedConvolution(6, 4, **arguments))
    theirs = CondConv2d(6, 4, num_experts=8, **arguments).double()
    theirs.load_state_dict({"weight": ours.weight.flatten(1)})
    x = draw((2, 6, 7, 5))
    torch.testing.assert_close(ours(x), theirs(x, ours.route(x.mean((2, 3))).sigmoid()))


@pytest.mark.parametrize("mechanism", [ConditionallyParameterizedConvolution, DynamicConvolution])
def test_mixtures_start_every_kernel_as_a_convolution_starts(mechanism):
    weight = mechanism(16, 12, kernel_size=3).weight
    bound = 1 / math.sqrt(16 * 9)
    for kernel in weight:
        assert 0.9 * bound < kernel.abs().max() <= bound


@pytest.mark.parametrize("mechanism", [ConditionallyParameterizedConvolution, DynamicConvolution])
def test_mixtures_refuse_what_does_not_divide(mechanism):
    with pytest.raises(ValueError, match="groups=4"):
        mechanism(6, 8, groups=4)
    with pytest.raises(ValueError, match="odd"):
        mechanism(6, 8, kernel_size=4)


# Pyramid split attention


def slow_pyramid_split(module, x):
    kernels = [layer.weight for layer in module.convolutions]
    splits, scores = [], []
    for i, kernel in enumerate(kernels):
        groups = x.shape[1] // kernel.shape[1]
        splits.append(convolution(x, kernel, stride=module.stride, groups=groups))
        squeeze, _, excite, _ = module.networks[i if len(module.networks) > 1 else 0]
        hidden = [relu(affine(squeeze, channel_means(one))) for one in splits[i]]
        scores.append([[sigmoid(score) for score in affine(excite, vector)] for vector in hidden])
    c = len(kernels[0])
    weights = torch.zeros(len(x), 4, c, dtype=x.dtype)
    y = torch.zeros(len(x), 4 * c, *splits[0][0].shape[1:], dtype=x.dtype)
    for b, place in itertools.product(range(len(x)), range(c)):
        for i, weight in enumerate(softmax([scores[i][b][place] for i in range(4)])):
            weights[b, i, place] = weight
            y[b, i * c + place] = weight * splits[i][b][place]
    return y, weights


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{}, {"stride": 2}, {"shared": False, "kernel_size": 1}, {"groups": 2}], ids=str)
def test_pyramid_split(arguments):
    module = randomize(PyramidSplitAttention(8, 16, reduction=2, **arguments))
    x = draw((2, 8, 5, 3))
    expected, weights = slow_pyramid_split(module, x)
    y, offer = offered(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, weights)


def test_pyramid_split_has_the_paper_s_kernels_and_groups():
    module = PyramidSplitAttention(64, 64)
    assert [(layer.kernel_size[0], layer.groups) for layer in module.convolutions] == [(3, 1), (5, 4), (7, 8), (9, 16)]
    assert [layer.groups for layer in PyramidSplitAttention(24, 40).convolutions] == [1, 2, 2, 2]
    assert [layer.groups for layer in PyramidSplitAttention(96, 96, groups=3).convolutions] == [3, 12, 24, 24]
    with pytest.raises(ValueError, match="multiple of 4"):
        PyramidSplitAttention(64, 66)
    with pytest.raises(ValueError, match="odd"):
        PyramidSplitAttention(64, 64, kernel_size=4)


def test_pyramid_split_makes_epsanet_50():
    """The authors' EPSANet-50 (small), which has it in place of the 3x3 convolutions, has 22.56 million parameters."""
    blocks = {64: 3, 128: 4, 256: 6, 512: 3}
    with torch.device("meta"):
        added = sum(n * (count(PyramidSplitAttention(c, c)) - 9 * c * c) for c, n in blocks.items())
    assert round((25_557_032 + added) / 1e6, 2) == 22.56


# Involution


@torch.no_grad()
def slow_involution(module, x):
    """Position by position; with a stride, the pixel is the mean of those that the stride skips."""
    s, k, G, C = module.stride, module.kernel_size, module.groups, module.out_channels
    first, norm, _, last = module.generate
    B, _, H, W = x.shape
    where = cells((-(-H // s), -(-W // s)))
    pixels = [[x[b, :, i * s : i * s + s, j * s : j * s + s].mean((1, 2)) for i, j in where] for b in range(B)]
    hidden = torch.stack([torch.stack([first.weight[:, :, 0, 0] @ p for p in image], 1) for image in pixels])
    hidden = batch_norm(norm, hidden).clamp(min=0)
    values = x
    if module.in_channels != C:
        values = convolve(module.value, x)
    kernels = torch.zeros(B, G, k * k, len(where), dtype=x.dtype)
    y = torch.zeros(B, C, where[-1][0] + 1, where[-1][1] + 1, dtype=x.dtype)
    for b, (n, (i, j)) in itertools.product(range(B), enumerate(where)):
        kernels[b, :, :, n] = (last.weight[:, :, 0, 0] @ hidden[b, :, n] + last.bias).reshape(G, k * k)
        for c, u, v in itertools.product(range(C), range(k), range(k)):
            row, column = i * s + u - k // 2, j * s + v - k // 2
            if 0 <= row < H and 0 <= column < W:
                y[b, c, i, j] += kernels[b, c // (C // G), u * k + v, n] * values[b, c, row, column]
    return y, kernels


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "arguments", [{"groups": 2}, {"groups": 3, "stride": 2}, {"out_channels": 4, "reduction": 2}], ids=str
)
def test_involution(arguments, training):
    arguments = {"in_channels": 6, "out_channels": 6, "kernel_size": 3, **arguments}
    module = randomize(Involution(**arguments)).train(training)
    x = draw((2, 6, 5, 3))
    expected, kernels = slow_involution(module, x)
    y, offer = offered(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, kernels)


def test_involution_has_the_paper_s_defaults():
    assert (Involution(64, 64).kernel_size, Involution(64, 64).groups, Involution(64, 64).hidden_channels) == (7, 4, 16)
    assert [Involution(c, c).groups for c in (8, 40, 67, 96)] == [1, 2, 1, 6]
    assert isinstance(Involution(64, 64).value, nn.Identity)
    with pytest.raises(ValueError, match="divisor"):
        Involution(64, 64, groups=3)
    with pytest.raises(ValueError, match="odd"):
        Involution(64, 64, kernel_size=2)


# Fusions of two maps


def slow_gate(local, pooled, u):
    flat = u.flatten(2)
    mean = flat.sum(2, keepdim=True) / flat.shape[2]
    return (1 / (1 + torch.exp(-bottleneck(local, flat) - bottleneck(pooled, mean)))).reshape(u.shape)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("shape", [(3, 8, 5), (2, 8, 5, 3), (2, 8, 2, 3, 5)])
def test_iterative_aff(shape, variant, training):
    module = randomize(IterativeAttentionalFeatureFusion(8, variant=variant)).train(training)
    x, y = draw((2, *shape))
    first = slow_gate(module.first_local, module.first_global, x + y)
    u = first * x + (1 - first) * y
    second = slow_gate(module.second_local, module.first_global if variant == "code" else module.second_global, u)
    z, maps = watched(module, x, y)
    torch.testing.assert_close(z, second * x + (1 - second) * y)
    torch.testing.assert_close(maps, {"first_gate": first, "gate": second})


@pytest.mark.usefixtures("unchecked_shapes")
def test_iterative_aff_has_twice_the_gate_and_in_the_code_shares_one_part():
    C, d = 64, 16
    part = 2 * C * d + 2 * C + 2 * d
    assert count(IterativeAttentionalFeatureFusion(C)) == 4 * part
    assert count(IterativeAttentionalFeatureFusion(C, variant="code")) == 3 * part
    with pytest.raises(ValueError, match="'paper' or 'code'"):
        IterativeAttentionalFeatureFusion(8, variant="double")


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduction", [1, 3])
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 7, 5, 3), (2, 7, 2, 3, 5)])
def test_feature_fusion(shape, reduction, training):
    module = randomize(FeatureFusion(7, reduction)).train(training)
    x, y = draw((2, *shape))
    layer, norm, _ = module.project
    u = torch.einsum("oc,bcn->bon", layer.weight[:, :7, 0], x.flatten(2))
    u = u + torch.einsum("oc,bcn->bon", layer.weight[:, 7:, 0], y.flatten(2))
    u = batch_norm(norm, u).clamp(min=0)
    hidden = [relu(affine(module.squeeze, channel_means(one))) for one in u]
    gate = [[sigmoid(score) for score in affine(module.excite, vector)] for vector in hidden]
    gate = torch.tensor(gate, dtype=x.dtype)
    z, offer = offered(module, x, y)
    torch.testing.assert_close(z, (u + gate[:, :, None] * u).reshape(x.shape))
    torch.testing.assert_close(offer.weights, gate)


# Attention to scale


@torch.no_grad()
@pytest.mark.parametrize(("scales", "dims"), [(1, 2), (3, 1), (3, 2), (2, 3)])
def test_attention_to_scale(scales, dims):
    module = randomize(AttentionToScale(2, scales, hidden_channels=5, dims=dims))
    maps = draw((scales, 2, 2, *(5, 3, 2)[:dims]))
    first, _, last = module.score
    expected, weights = torch.zeros_like(maps[0]), torch.zeros(2, scales, *maps.shape[3:], dtype=maps.dtype)
    for b in range(2):
        stacked = torch.stack([maps[r, b, c] for r in range(scales) for c in range(2)])
        hidden = convolve(first, stacked).clamp(min=0)
        scores = convolve(last, hidden)
        for cell in cells(maps.shape[3:]):
            for r, weight in enumerate(softmax([float(scores[(q, *cell)]) for q in range(scales)])):
                weights[(b, r, *cell)] = weight
                expected[(b, slice(None), *cell)] += weight * maps[(r, b, slice(None), *cell)]
    y, offer = offered(module, *maps)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, weights)


def test_attention_to_scale_has_the_paper_s_width_and_refuses_another_number():
    assert count(AttentionToScale(7, 3)) == 3 * 7 * 9 * 512 + 512 + 512 * 3 + 3
    module, x = AttentionToScale(2, 3), torch.randn(2, 2, 5, 3)
    with pytest.raises(ShapeError, match="3 maps"):
        module(x, x)
    with pytest.raises(ShapeError, match="2 spatial axes"):
        module(*[x[..., None]] * 3)
    with pytest.raises(ValueError, match="scales=0"):
        AttentionToScale(2, 0)


# Spatial pyramid attention


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"sizes": (3, 1)}], ids=str)
@pytest.mark.parametrize("spatial", [(7,), (8, 4), (7, 5), (1, 3), (2, 3, 5)])
def test_spatial_pyramid_attention(spatial, options):
    module = randomize(SpatialPyramidAttention(6, reduction=2, dims=len(spatial), **options))
    x = draw((2, 6, *spatial))
    gate = torch.zeros(2, 6, dtype=x.dtype)
    for b in range(2):
        means = []
        for size in options.get("sizes", (4, 2, 1)):
            for c, cell in itertools.product(range(6), cells((size,) * len(spatial))):
                touched = [
                    slice(math.floor(i * n / size), math.ceil((i + 1) * n / size))
                    for i, n in zip(cell, spatial, strict=True)
                ]
                part = x[(b, c, *touched)]
                means.append(float(part.sum()) / part.numel())
        hidden = relu(affine(module.squeeze, means))
        gate[b] = torch.tensor([sigmoid(score) for score in affine(module.excite, hidden)], dtype=x.dtype)
    y, offer = offered(module, x)
    torch.testing.assert_close(y, x * gate.reshape(2, 6, *[1] * len(spatial)))
    torch.testing.assert_close(offer.weights, gate)


def test_spatial_pyramid_attention_of_one_cell_is_squeeze_and_excitation():
    assert [count(SpatialPyramidAttention(c, sizes=(1,))) for c in (64, 256, 2048)] == [512, 8_192, 524_288]
    assert count(SpatialPyramidAttention(64)) == 21 * 64 * 4 + 4 * 64
    with pytest.raises(ValueError, match=r"sizes=\(2, 0\), expected a tuple"):
        SpatialPyramidAttention(8, sizes=(2, 0))


# Pyramid attention network


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gate", ["relu", "sigmoid"])
@pytest.mark.parametrize(("coarse", "fine"), [((5, 3), (5, 3)), ((3, 2), (5, 3)), ((4,), (7,)), ((1, 2, 1), (2, 3, 2))])
def test_global_attention_upsample(coarse, fine, gate, training):
    module = randomize(GlobalAttentionUpsample(3, gate=gate, dims=len(fine))).train(training)
    high, low = draw((2, 3, *coarse)), draw((2, 3, *fine))
    scores = torch.tensor([affine(module.excite, channel_means(one)) for one in high], dtype=high.dtype)
    scores = batch_norm(module.norm, scores)
    weights = scores.clamp(min=0) if gate == "relu" else 1 / (1 + torch.exp(-scores))
    projected = convolve(module.project, low)
    y, offer = offered(module, high, low)
    expected = interpolated(high, fine) + weights.reshape(2, 3, *[1] * len(fine)) * projected
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, weights)


@pytest.mark.usefixtures("unchecked_shapes")
def test_global_attention_upsample_refuses_a_high_level_that_is_larger():
    with pytest.raises(ShapeError, match="high level first"):
        GlobalAttentionUpsample(3)(torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 7))
    with pytest.raises(ValueError, match="'relu' or 'sigmoid'"):
        GlobalAttentionUpsample(3, gate="tanh")


def slow_unit(layers, x):
    layer, norm, _ = layers
    return batch_norm(norm, convolve(layer, x)).clamp(min=0)


def slow_half(x):
    """The maximum of every two positions along each axis, or of the one that is left at the end."""
    for axis in range(2, x.ndim):
        pairs = [x.narrow(axis, i, min(2, x.shape[axis] - i)).amax(axis) for i in range(0, x.shape[axis], 2)]
        x = torch.stack(pairs, axis)
    return x


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("spatial", [(11,), (7, 5), (1, 1), (3, 2, 3)])
def test_feature_pyramid_attention(spatial, training):
    module = randomize(FeaturePyramidAttention(2, dims=len(spatial))).train(training)
    for layers in (*module.down, *module.across):  # shifts above zero, so that no ReLU closes the whole pyramid
        layers[1].bias.add_(9)
    x = draw((2, 2, *spatial))
    d1 = slow_unit(module.down[0], slow_half(x))
    d2 = slow_unit(module.down[1], slow_half(d1))
    d3 = slow_unit(module.down[2], slow_half(d2))
    u3 = slow_unit(module.across[2], d3)
    u2 = slow_unit(module.across[1], d2) + interpolated(u3, d2.shape[2:])
    u1 = slow_unit(module.across[0], d1) + interpolated(u2, d1.shape[2:])
    weight = interpolated(u1, spatial)
    assert all((part != 0).any() for part in (d1, d2, d3, u3))
    mean = torch.tensor([channel_means(one) for one in x], dtype=x.dtype).reshape(2, 2, *[1] * len(spatial))
    expected = weight * slow_unit(module.main, x) + slow_unit(module.context, mean)
    y, offer = offered(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, weight[:, 0])


def test_feature_pyramid_attention_has_kernels_of_7_5_and_3():
    module = FeaturePyramidAttention(8)
    assert [layers[0].kernel_size for layers in module.down] == [(7, 7), (5, 5), (3, 3)]
    assert [layers[0].kernel_size for layers in module.across] == [(7, 7), (5, 5), (3, 3)]


# Attention over modalities


@torch.no_grad()
@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize(("modalities", "spatial"), [(1, (3,)), (3, (5,)), (2, (3, 2)), (2, (2, 1, 3))])
def test_attention_fusion(modalities, spatial, project):
    module = randomize(AttentionFusion(3, modalities, project))
    inputs = draw((modalities, 2, 3, *spatial))
    expected, weights = torch.zeros_like(inputs[0]), torch.zeros(2, modalities, *spatial, dtype=inputs.dtype)
    vector, bias = module.score.weight[0, :, 0].tolist(), float(module.score.bias)
    for b, cell in itertools.product(range(2), cells(spatial)):
        u = []
        for m in range(modalities):
            x = [float(inputs[(m, b, c, *cell)]) for c in range(3)]
            layer = module.project[m]
            u.append(
                [dot(layer.weight[o, :, 0].tolist(), x) + float(layer.bias[o]) for o in range(3)] if project else x
            )
        for m, weight in enumerate(softmax([dot(vector, u[m]) + bias for m in range(modalities)])):
            weights[(b, m, *cell)] = weight
            for c in range(3):
                expected[(b, c, *cell)] += weight * u[m][c]
    y, offer = offered(module, *inputs)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, weights)


@pytest.mark.usefixtures("unchecked_shapes")
def test_attention_fusion_refuses_another_number():
    with pytest.raises(ShapeError, match="3"):
        AttentionFusion(3, 3)(*[torch.randn(2, 3, 5)] * 2)
    with pytest.raises(ValueError, match="modalities=0"):
        AttentionFusion(3, 0)


# Omni-dimensional dynamic convolution


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments", [*CONVOLUTIONS, {"kernels": 1}, {"norm": True}, {"temperature": 1.0, "reduction": 2}], ids=str
)
@pytest.mark.parametrize("training", [True, False])
def test_omni_dimensional(arguments, training):
    module = randomize(OmniDimensionalDynamicConvolution(6, 4, minimum_width=5, **arguments)).train(training)
    x = draw((2, 6, 5, 3))
    hidden = torch.tensor([affine(module.squeeze, channel_means(one)) for one in x], dtype=x.dtype)
    hidden = (batch_norm(module.norm, hidden) if arguments.get("norm") else hidden).clamp(min=0).tolist()
    own = x.shape[1] // module.groups
    expected, maps = [], {"kernel": [], "position": [], "input": [], "output": []}
    for b in range(2):
        scores = affine(module.select, hidden[b])
        maps["kernel"].append(softmax([score / arguments.get("temperature", 30) for score in scores]))
        for label in ("position", "input", "output"):
            maps[label].append([sigmoid(score) for score in affine(getattr(module, label), hidden[b])])
        kernel = torch.zeros_like(module.weight[0])
        for o, i, u, v in itertools.product(*map(range, kernel.shape)):
            mixed = sum(
                weight * float(part[o, i, u, v]) for weight, part in zip(maps["kernel"][b], module.weight, strict=True)
            )
            group = o // (4 // module.groups)
            gates = maps["position"][b][u * kernel.shape[2] + v] * maps["input"][b][group * own + i]
            kernel[o, i, u, v] = mixed * gates * maps["output"][b][o]
        expected.append(convolution(x[b], kernel, stride=module.stride, groups=module.groups))
    y, found = watched(module, x)
    torch.testing.assert_close(y, torch.stack(expected))
    torch.testing.assert_close(found, {label: torch.tensor(rows, dtype=x.dtype) for label, rows in maps.items()})


@pytest.mark.parametrize(("kernels", "millions"), [(1, 11.94), (4, 44.90)])
def test_omni_dimensional_makes_the_authors_resnet_18(kernels, millions):
    """Theirs has it in place of every 3x3 convolution but the first, and of one kernel no weights over kernels."""
    total = 11_689_512
    for width, previous in ((64, 64), (128, 64), (256, 128), (512, 256)):
        for inputs in (previous, width, width, width):
            with torch.device("meta"):
                module = OmniDimensionalDynamicConvolution(inputs, width, kernels=kernels, norm=True)
            total += count(module) - 9 * inputs * width - (count(module.select) if kernels == 1 else 0)
    assert round(total / 1e6, 2) == millions


def test_omni_dimensional_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="groups=4"):
        OmniDimensionalDynamicConvolution(6, 8, groups=4)
    with pytest.raises(ValueError, match="odd"):
        OmniDimensionalDynamicConvolution(6, 8, kernel_size=4)


# Mean field


def slow_mean_field(module, x, guide):
    """Pair by pair, in the words of the paper's algorithm 1; the class probabilities after the last step."""
    B, L, *spatial = x.shape
    where = cells(spatial)
    out = torch.zeros_like(x)
    kinds = [module.smoothness_weight.tolist()] + ([module.appearance_weight.tolist()] if guide is not None else [])
    for b in range(B):
        unary = [[float(x[(b, c, *cell)]) for c in range(L)] for cell in where]
        kernels = [[[0.0] * len(where) for _ in where] for _ in kinds]
        for (i, one), (j, other) in itertools.permutations(enumerate(where), 2):
            distance = sum((p - q) ** 2 for p, q in zip(one, other, strict=True))
            kernels[0][i][j] = math.exp(-distance / (2 * module.smoothness**2))
            if guide is not None:
                colour = float(((guide[(b, slice(None), *one)] - guide[(b, slice(None), *other)]) ** 2).sum())
                exponent = distance / (2 * module.appearance_position**2) + colour / (2 * module.appearance_guide**2)
                kernels[1][i][j] = math.exp(-exponent)
        if module.normalize:
            kernels = [[[k / (sum(row) or 1.0) for k in row] for row in kernel] for kernel in kernels]
        state = unary
        for _ in range(module.steps):
            q = [softmax(values) for values in state]
            state = []
            for i in range(len(where)):
                passed = [
                    [sum(row * one[c] for row, one in zip(kernel[i], q, strict=True)) for c in range(L)]
                    for kernel in kernels
                ]
                weighted = [sum(weight[c] * passed[m][c] for m, weight in enumerate(kinds)) for c in range(L)]
                compared = [dot(module.compatibility[c].tolist(), weighted) for c in range(L)]
                state.append([unary[i][c] - compared[c] for c in range(L)])
        for i, cell in enumerate(where):
            out[(b, slice(None), *cell)] = torch.tensor(state[i], dtype=x.dtype)
    return out


@torch.no_grad()
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize(("spatial", "steps"), [((5,), 1), ((3, 5), 3), ((1, 1), 2), ((2, 3, 2), 2)])
def test_mean_field(spatial, steps, guided, normalize):
    widths = {"smoothness": 1.3, "appearance_position": 2.1, "appearance_guide": 0.7}
    module = randomize(MeanFieldRefinement(3, steps, 2 if guided else 0, normalize=normalize, **widths))
    x, guide = draw((2, 3, *spatial)), draw((2, 2, *spatial)) if guided else None
    expected = slow_mean_field(module, x, guide)
    y, offer = offered(module, x, guide)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(weights_of(offer), expected.exp() / expected.exp().sum(1, keepdim=True))


@torch.no_grad()
def test_mean_field_starts_as_potts():
    """The model of the paper, 1 for classes that differ, gives the same probabilities; what is alone joins the rest."""
    module, x = MeanFieldRefinement(3).double(), draw((2, 3, 5, 3))
    potts = MeanFieldRefinement(3).double()
    potts.compatibility.copy_(1 - torch.eye(3))
    torch.testing.assert_close(module(x).softmax(1), potts(x).softmax(1))
    alone = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    alone[:, 0] = 1
    alone[:, :, 2, 2] = torch.tensor([0.0, 1.0])
    assert alone.argmax(1)[0, 2, 2] == 1
    assert not MeanFieldRefinement(2).double()(alone).argmax(1).any()


@torch.no_grad()
def test_mean_field_keeps_to_the_edges_of_its_guide():
    """Left and right differ in the guide: a doubtful column follows the side that looks like it."""
    module = MeanFieldRefinement(2, guide_channels=1, smoothness=0.1).double()
    x = torch.zeros(1, 2, 3, 5, dtype=torch.float64)
    x[:, 0, :, :2], x[:, 1, :, 3:] = 2, 2
    for side, first in ((0, 0), (1, 1)):
        guide = torch.zeros(1, 1, 3, 5, dtype=torch.float64)
        guide[..., 3 - (side == 1) :] = 100
        assert (module(x, guide).argmax(1)[0, :, 2] == first).all()


def test_mean_field_has_the_gradient_of_its_guide():
    """The contract suite gives it none."""
    module = randomize(MeanFieldRefinement(2, 2, guide_channels=1, appearance_guide=1.0))
    leaves = [draw((1, 2, 2, 3)), draw((1, 1, 2, 3)), *module.parameters()]

    def function(x, guide, *parameters):
        named = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(module, named, (x, guide))

    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(function, leaves)
    assert all(gradient.any() for gradient in torch.autograd.grad(function(*leaves).square().sum(), leaves))


@torch.no_grad()
def test_mean_field_in_half_precision_knows_far_positions_apart():
    """In bfloat16 the numbers 500 and 501 are one, and so are the squares of the colours 160 and 161."""
    module = MeanFieldRefinement(2, 1, guide_channels=1, smoothness=1.0, appearance_guide=0.25)
    module.smoothness_weight.zero_()
    x, guide = torch.zeros(1, 2, 4), torch.tensor([[[160.0, 160.0, 161.0, 161.0]]])
    x[0, 0, 0], x[0, 1, 3] = 4, 4
    assert module.bfloat16()(x.bfloat16(), guide.bfloat16()).argmax(1).tolist() == [[0, 0, 1, 1]]
    near = module.line(521, x.bfloat16())
    torch.testing.assert_close(near[:20, :20], near[500:520, 500:520])


@pytest.mark.usefixtures("unchecked_shapes")
def test_mean_field_refuses_what_does_not_fit():
    x, guide = torch.randn(2, 3, 5, 7), torch.randn(2, 1, 5, 7)
    for module, given in (
        (MeanFieldRefinement(3), guide),
        (MeanFieldRefinement(3, guide_channels=1), None),
        (MeanFieldRefinement(3, guide_channels=2), guide),
        (MeanFieldRefinement(3, guide_channels=1), guide[..., :3]),
    ):
        with pytest.raises(ShapeError, match="guide_channels"):
            module(x, given)
    with pytest.raises(ValueError, match="steps=0"):
        MeanFieldRefinement(3, steps=0)
    with pytest.raises(ValueError, match=r"smoothness=0\.0, expected a number above 0"):
        MeanFieldRefinement(3, smoothness=0.0)
