"""Spatial attention against the papers' equations, written again as loops, timm's own form, and published counts."""

import itertools
import math

import pytest
import torch
from oracle import RESNET_50, WIDTHS, affine, cells, count, dot, draw, having, randomize, sigmoid, watched
from slow_layers import batch_norm, convolve, interpolated

from regard.attention import (
    AttentionGate,
    LargeKernelAttention,
    LargeSelectiveKernel,
    MultiScaleConvolutionalAttention,
    ShapeError,
    SpatialGate,
    SpatialGroupEnhance,
    SpatialSqueezeExcitation,
)
from regard.attention.norm import BatchNorm


def slow_spatial_squeeze(module, x):
    B, C, *spatial = x.shape
    gate = torch.empty(B, *spatial, dtype=x.dtype)
    y = torch.empty_like(x)
    for b, cell in itertools.product(range(B), cells(spatial)):
        vector = [float(x[(b, c, *cell)]) for c in range(C)]
        gate[(b, *cell)] = sigmoid(affine(module.score, vector)[0])
        for c in range(C):
            y[(b, c, *cell)] = gate[(b, *cell)] * vector[c]
    return y, {"spatial": gate}


def slow_spatial_gate(module, x):
    B, C, *spatial = x.shape
    scores = torch.empty(B, 1, *spatial, dtype=x.dtype)
    for b in range(B):
        statistics = torch.empty(2, *spatial, dtype=x.dtype)
        for cell in cells(spatial):
            vector = [float(x[(b, c, *cell)]) for c in range(C)]
            statistics[(0, *cell)], statistics[(1, *cell)] = max(vector), sum(vector) / C
        scores[b] = convolve(module.convolution, statistics)
    if isinstance(module.norm, BatchNorm):
        scores = batch_norm(module.norm, scores)
    gate = 1 / (1 + (-scores[:, 0]).exp())
    y = torch.empty_like(x)
    for c in range(C):
        y[:, c] = gate * x[:, c]
    return y, {"spatial": gate}


def slow_spatial_group(module, x):
    B, C, *spatial = x.shape
    where = cells(spatial)
    width = C // module.groups
    gate = torch.empty(B, module.groups, *spatial, dtype=x.dtype)
    y = torch.empty_like(x)
    for b, group in itertools.product(range(B), range(module.groups)):
        members = range(group * width, (group + 1) * width)
        vectors = [[float(x[(b, c, *cell)]) for c in members] for cell in where]
        mean = [sum(vector[j] for vector in vectors) / len(where) for j in range(width)]
        likeness = [dot(mean, vector) for vector in vectors]
        middle = sum(likeness) / len(where)
        square = sum((value - middle) ** 2 for value in likeness)
        deviation = math.sqrt(square / max(1, len(where) - module.unbiased))
        for cell, value in zip(where, likeness, strict=True):
            score = float(module.weight[group, 0]) * (value - middle) / (deviation + 1e-5)
            gate[(b, group, *cell)] = sigmoid(score + float(module.bias[group, 0]))
            for c in members:
                y[(b, c, *cell)] = gate[(b, group, *cell)] * x[(b, c, *cell)]
    return y, {"spatial": gate}


def slow_large_kernel(module, x):
    attention = convolve(module.mix, convolve(module.far, convolve(module.near, x)))
    return attention * x, {"attention": attention}


def slow_multi_scale(module, x):
    near = convolve(module.near, x)
    scales = [near, *(convolve(column, convolve(row, near)) for row, column in module.strips)]
    attention = convolve(module.mix, sum(scales))
    return attention * x, {"attention": attention}


def slow_large_selective_kernel(module, x):
    B, _, H, W = x.shape
    weights = torch.empty(B, 2, H, W, dtype=x.dtype)
    y = torch.empty_like(x)
    for b, image in enumerate(x):
        near = convolve(module.near, image)
        views = [convolve(module.near_view, near), convolve(module.far_view, convolve(module.far, near))]
        statistics = torch.empty(2, H, W, dtype=x.dtype)
        for h, w in cells((H, W)):
            values = [float(value) for view in views for value in view[:, h, w]]
            statistics[0, h, w], statistics[1, h, w] = sum(values) / len(values), max(values)
        weights[b] = 1 / (1 + (-convolve(module.select, statistics)).exp())
        selected = torch.empty_like(views[0])
        for h, w in cells((H, W)):
            selected[:, h, w] = sum(float(weights[b, i, h, w]) * views[i][:, h, w] for i in range(2))
        y[b] = convolve(module.excite, selected) * image
    return y, {"branch": weights}


def mean_over_cells(image, sizes):
    """The mean over each of `sizes` equal parts of every axis of `(C, *spatial)`; a part may share its border cells."""
    result = torch.empty(len(image), *sizes, dtype=image.dtype)
    for cell in cells(sizes):
        parts = [
            range(p * n // size, -(-(p + 1) * n // size))
            for p, n, size in zip(cell, image.shape[1:], sizes, strict=True)
        ]
        inside = [image[(slice(None), *at)] for at in itertools.product(*parts)]
        result[(slice(None), *cell)] = sum(inside) / len(inside)
    return result


def slow_attention_gate(module, x, gating):
    simple = module.variant == "simple"
    sizes, coarse = tuple(x.shape[2:]), tuple(gating.shape[2:])

    def project(layers, images):
        """`W x + b` of every cell, and the normalisation that the simple variant has."""
        weight = layers[0].weight[:, :, 0]
        bias = torch.zeros(len(weight), dtype=images.dtype) if layers[0].bias is None else layers[0].bias
        result = torch.empty(len(images), len(weight), *images.shape[2:], dtype=images.dtype)
        for b, cell in itertools.product(range(len(images)), cells(images.shape[2:])):
            result[(b, slice(None), *cell)] = weight @ images[(b, slice(None), *cell)] + bias
        return batch_norm(layers[1], result) if simple else result

    if simple:
        gating = interpolated(gating, sizes)
        skip = x
    else:
        skip = torch.stack([mean_over_cells(image, coarse) for image in x])
    hidden = project(module.skip, skip) + project(module.gating, gating)
    gate = 1 / (1 + (-project(module.score, hidden.clamp(min=0))).exp())
    if not simple:
        gate = interpolated(gate, sizes)
    return gate * x, {"spatial": gate[:, 0]}


CASES = [
    (slow_spatial_squeeze, SpatialSqueezeExcitation, [(2, 7, 5, 3), (1, 11, 1, 1), (2, 7, 13), (2, 7, 2, 3, 5)]),
    (slow_spatial_squeeze, having(SpatialSqueezeExcitation, bias=False), [(2, 7, 5, 3)]),
    (slow_spatial_gate, SpatialGate, [(2, 7, 5, 3), (1, 7, 1, 1)]),
    (slow_spatial_gate, having(SpatialGate, kernel_size=3, norm=False), [(2, 7, 5, 3)]),
    (slow_spatial_gate, having(SpatialGate, dims=1), [(2, 7, 11)]),
    (slow_spatial_gate, having(SpatialGate, dims=3, kernel_size=3), [(2, 7, 2, 3, 5)]),
    (slow_spatial_group, SpatialGroupEnhance, [(2, 7, 5, 3), (1, 7, 1, 1), (2, 6, 13)]),
    (slow_spatial_group, having(SpatialGroupEnhance, groups=5), [(2, 12, 5, 3), (1, 12, 1, 1), (2, 15, 2, 3, 5)]),
    (slow_spatial_group, having(SpatialGroupEnhance, groups=2, unbiased=True), [(2, 6, 5, 3), (1, 6, 1, 1)]),
    (slow_large_kernel, LargeKernelAttention, [(2, 3, 5, 7), (1, 3, 1, 1)]),
    (slow_large_kernel, having(LargeKernelAttention, dims=1), [(2, 3, 29)]),
    (slow_large_kernel, having(LargeKernelAttention, kernel_size=6, dilation=2, dims=3), [(1, 3, 2, 3, 5)]),
    (slow_multi_scale, MultiScaleConvolutionalAttention, [(2, 3, 5, 7), (1, 3, 1, 1), (1, 3, 2, 13)]),
    (slow_multi_scale, having(MultiScaleConvolutionalAttention, kernel_size=3, strip_sizes=(5,)), [(2, 3, 5, 7)]),
    (slow_large_selective_kernel, LargeSelectiveKernel, [(2, 7, 5, 3), (1, 2, 1, 1)]),
    (slow_large_selective_kernel, having(LargeSelectiveKernel, reduction=1), [(2, 3, 5, 3)]),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("slow", "build", "shape"), [(s, b, shape) for s, b, shapes in CASES for shape in shapes])
def test_is_the_equation(slow, build, shape, training):
    module = randomize(build(shape[1])).train(training)
    x = draw(shape)
    with torch.no_grad():
        expected, expected_maps = slow(module, x)  # first: training moves the running statistics
        y, maps = watched(module, x)
    torch.testing.assert_close(y, expected)
    assert maps.keys() == expected_maps.keys()
    for label, weights in expected_maps.items():
        torch.testing.assert_close(maps[label], weights)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "simple"])
@pytest.mark.parametrize(
    ("shape", "coarse", "hidden"),
    [
        ((2, 7, 5, 3), (2, 7, 5, 3), None),
        ((2, 7, 4, 6), (2, 11, 2, 3), None),
        ((2, 7, 5, 7), (2, 3, 2, 3), 5),
        ((1, 7, 1, 1), (1, 5, 1, 1), 3),
        ((1, 2, 11), (1, 3, 5), None),
        ((1, 2, 3, 4, 5), (1, 3, 2, 2, 3), 2),
    ],
)
def test_attention_gate_is_the_equation(shape, coarse, hidden, variant, training):
    gating_channels = None if shape == coarse else coarse[1]
    module = randomize(AttentionGate(shape[1], gating_channels, hidden, variant)).train(training)
    x, gating = draw(shape), draw(coarse).flip(1)
    with torch.no_grad():
        expected, expected_maps = slow_attention_gate(module, x, gating)
        y, maps = watched(module, x, gating)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(maps["spatial"], expected_maps["spatial"])


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (SpatialSqueezeExcitation, (65, 257, 513, 1_025, 2_049)),
        (having(SpatialSqueezeExcitation, bias=False), WIDTHS),
        (SpatialGate, (100,) * 5),
        (SpatialGroupEnhance, (128,) * 5),
        (LargeKernelAttention, (9_024, 85_248, 301_568, 1_127_424, 4_352_000)),
    ],
)
def test_parameter_counts_are_the_published_ones(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


def test_other_counts_follow_their_arguments():
    assert sum(count(SpatialGroupEnhance(channels)) for channels in RESNET_50) == 25_559_080 - 25_557_032
    assert count(SpatialGroupEnhance(67)) == 2
    assert count(SpatialGroupEnhance(96)) == 2 * 48
    assert count(SpatialGate(64, norm=False)) == 98
    assert count(MultiScaleConvolutionalAttention(64)) == 64 * 64 + 64 + (26 + 16 + 24 + 44) * 64
    assert count(LargeSelectiveKernel(64)) == 26 * 64 + 50 * 64 + 2 * (64 * 32 + 32) + 198 + 32 * 64 + 64
    assert count(AttentionGate(64, 128)) == (64 + 128 + 2) * 32 + 1
    assert count(AttentionGate(64, 128, 48, "simple")) == (64 + 128 + 7) * 48 + 3


def test_spatial_gate_is_that_of_timm():
    cbam = pytest.importorskip("timm.layers.cbam")
    theirs = randomize(cbam.SpatialAttn(7)).eval()
    ours = SpatialGate(7).double().eval()
    state = theirs.state_dict()
    ours.load_state_dict(
        {
            "convolution.weight": state["conv.conv.weight"].flip(1),  # theirs: the mean before the maximum
            **{f"norm.{key}": state[f"conv.bn.{key}"] for key in ours.norm.state_dict()},
        }
    )
    x = draw((2, 7, 5, 3))
    torch.testing.assert_close(ours(x), theirs(x))


def test_spatial_group_starts_at_the_sigmoid_of_one():
    x = draw((2, 6, 5, 3))
    torch.testing.assert_close(SpatialGroupEnhance(6, groups=3).double()(x), x * sigmoid(1))


@pytest.mark.parametrize("build", [SpatialGroupEnhance, having(SpatialGroupEnhance, unbiased=True)])
def test_spatial_group_of_equal_positions_has_finite_gradients(build):
    module = randomize(build(6))
    x = torch.ones(2, 6, 5, 3, dtype=torch.float64, requires_grad=True)
    for gradient in torch.autograd.grad(module(x).sum(), [x, *module.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("build", [SpatialSqueezeExcitation, SpatialGroupEnhance])
def test_permuting_the_positions_permutes_the_output(build):
    module = randomize(build(7))
    x = draw((2, 7, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


def test_groups_are_gated_apart():
    module = randomize(SpatialGroupEnhance(12, groups=3))
    x, other = draw((1, 12, 5, 3)), draw((1, 12, 5, 3))
    other[:, 4:] = torch.randn_like(other[:, 4:])
    x[:, :4] = other[:, :4]
    assert torch.equal(module(x)[:, :4], module(other)[:, :4])
    assert not torch.equal(module(x)[:, 4:], module(other)[:, 4:])


@pytest.mark.parametrize(("build", "reach"), [(LargeKernelAttention, 11), (MultiScaleConvolutionalAttention, 12)])
def test_how_far_a_large_kernel_sees(build, reach):
    """LKA: 2 + 3·3 cells to each side; MSCA along an axis: 2 + 10."""
    module = randomize(build(2)).eval()
    x = torch.ones(1, 2, 1, 31, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[..., 15].sum(), x)
    seen = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (15 - reach, 15 + reach)


def test_attention_gate_is_one_number_a_position_below_one():
    module = randomize(AttentionGate(7, 5))
    x = draw((2, 7, 5, 3))
    ratio = module(x, draw((2, 5, 3, 2))) / x
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert ((ratio > 0) & (ratio < 1)).all()


@pytest.mark.parametrize("variant", ["paper", "simple"])
def test_gradients_of_a_coarse_gating_signal_are_the_derivatives(variant):
    module = randomize(AttentionGate(3, 5, variant=variant)).eval()
    x, gating = draw((2, 3, 5, 4)).requires_grad_(), draw((2, 5, 2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(module, (x, gating), fast_mode=True)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["paper", "simple"])
def test_attention_gate_of_equal_sizes_takes_any_number_of_axes(variant):
    """As every merge; only what is resized has three at most. The gate sees each position alone."""
    module = randomize(AttentionGate(3, variant=variant)).eval()
    x, gating = draw((2, 3, 2, 1, 5, 7)), draw((2, 3, 2, 1, 5, 7)).flip(1)
    torch.testing.assert_close(module(x, gating).flatten(2), module(x.flatten(2), gating.flatten(2)))


def test_attention_gate_follows_its_gating_signal():
    module = randomize(AttentionGate(7, 5))
    x, gating = draw((1, 7, 4, 4)), draw((1, 5, 2, 2))
    moved = gating.clone()
    moved[..., 0, 0] += 1
    changed = (module(x, moved) != module(x, gating)).any(1)[0]
    assert changed[0, 0]
    assert not changed[3, 3]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (having(SpatialGate, kernel_size=4), "odd"),
        (having(SpatialGate, dims=4), "1, 2 or 3"),
        (having(LargeKernelAttention, kernel_size=12), "rounded up, is odd"),
        (having(LargeKernelAttention, dilation=0), "from 1 to"),
        (having(LargeKernelAttention, dims=4), "1, 2 or 3"),
        (having(SpatialGroupEnhance, groups=0), "from 1 to"),
        (having(MultiScaleConvolutionalAttention, strip_sizes=(7, 4)), "odd"),
        (having(AttentionGate, variant="grid"), "'paper' or 'simple'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(8)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("module", "shape", "coarse"),
    [
        (AttentionGate(8), (2, 8, 4, 4), (2, 8, 2, 2)),
        (AttentionGate(8, 5), (2, 8, 4, 4), (2, 8, 2, 2)),
        (AttentionGate(8, 5), (2, 7, 4, 4), (2, 5, 2, 2)),
        (AttentionGate(8, 5), (2, 8, 4, 4), (2, 5, 2)),
        (AttentionGate(8, 5), (2, 8, 4, 4), (1, 5, 2, 2)),
        (AttentionGate(8, 5), (2, 8), (2, 5)),
    ],
)
def test_wrong_shapes_are_refused(module, shape, coarse):
    with pytest.raises(ShapeError, match="AttentionGate"):
        module(torch.zeros(shape), torch.zeros(coarse))
