"""Gates over channels and positions against the papers' equations, written again as loops, and published counts."""

import itertools

import pytest
import torch
from oracle import WIDTHS, affine, cells, channel_means, count, draw, having, randomize, relu, sigmoid, watched
from slow_layers import batch_norm

from regard.attention import (
    CBAM,
    ConcurrentSqueezeExcitation,
    CoordinateAttention,
    ShapeError,
    SimAM,
)
from regard.attention.norm import BatchNorm


def slow_cbam(module, x):
    B, C, *spatial = x.shape
    where = cells(spatial)
    channel = torch.zeros(B, C, dtype=x.dtype)
    for b in range(B):
        highest = [max(x[b, c].reshape(-1).tolist()) for c in range(C)]
        logits = []
        for statistic in (channel_means(x[b]), highest):
            hidden = relu(affine(module.squeeze, statistic))
            logits.append(affine(module.excite, hidden))
        for c in range(C):
            channel[b, c] = sigmoid(logits[0][c] + logits[1][c])
    z = torch.empty_like(x)
    for b, c in itertools.product(range(B), range(C)):
        z[b, c] = float(channel[b, c]) * x[b, c]
    half = module.kernel_size // 2
    offsets = cells([module.kernel_size] * len(spatial))
    logits = [[[0.0] * len(where)] for _ in range(B)]
    for b in range(B):
        highest = {cell: max(float(z[(b, c, *cell)]) for c in range(C)) for cell in where}
        mean = {cell: sum(float(z[(b, c, *cell)]) for c in range(C)) / C for cell in where}
        for n, cell in enumerate(where):
            for offset in offsets:
                at = tuple(p + o - half for p, o in zip(cell, offset, strict=True))
                if at in mean:
                    logits[b][0][n] += float(module.spatial.weight[(0, 0, *offset)]) * highest[at]
                    logits[b][0][n] += float(module.spatial.weight[(0, 1, *offset)]) * mean[at]
    if isinstance(module.norm, BatchNorm):
        logits = batch_norm(module.norm, torch.tensor(logits, dtype=x.dtype)).tolist()
    gate = torch.zeros(B, *spatial, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        for n, cell in enumerate(where):
            gate[(b, *cell)] = sigmoid(logits[b][0][n])
            for c in range(C):
                y[(b, c, *cell)] = gate[(b, *cell)] * z[(b, c, *cell)]
    return y, {"channel": channel, "spatial": gate}


def slow_scse(module, x):
    B, C, *spatial = x.shape
    channel = torch.zeros(B, C, dtype=x.dtype)
    gate = torch.zeros(B, *spatial, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        hidden = relu(affine(module.squeeze, channel_means(x[b])))
        channel[b] = torch.tensor([sigmoid(value) for value in affine(module.excite, hidden)], dtype=x.dtype)
        for cell in cells(spatial):
            vector = [float(x[(b, c, *cell)]) for c in range(C)]
            gate[(b, *cell)] = sigmoid(affine(module.spatial, vector)[0])
            for c in range(C):
                one, other = float(channel[b, c]) * vector[c], float(gate[(b, *cell)]) * vector[c]
                y[(b, c, *cell)] = one + other if module.fusion == "sum" else max(one, other)
    return y, {"channel": channel, "spatial": gate}


def slow_coordinate(module, x):
    B, C, H, W = x.shape
    squeezed = []
    for b in range(B):
        lines = [[sum(float(x[b, c, h, w]) for w in range(W)) / W for c in range(C)] for h in range(H)]
        lines += [[sum(float(x[b, c, h, w]) for h in range(H)) / H for c in range(C)] for w in range(W)]
        columns = [affine(module.squeeze, line) for line in lines]
        squeezed.append([[column[m] for column in columns] for m in range(module.hidden_channels)])
    squeezed = batch_norm(module.norm, torch.tensor(squeezed, dtype=x.dtype)).tolist()
    height, width = torch.zeros(B, C, H, dtype=x.dtype), torch.zeros(B, C, W, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        for n in range(H + W):
            vector = [row[n] * min(6.0, max(0.0, row[n] + 3)) / 6 for row in squeezed[b]]
            values = affine(module.height if n < H else module.width, vector)
            for c in range(C):
                if n < H:
                    height[b, c, n] = sigmoid(values[c])
                else:
                    width[b, c, n - H] = sigmoid(values[c])
        for c, h, w in itertools.product(range(C), range(H), range(W)):
            y[b, c, h, w] = x[b, c, h, w] * height[b, c, h] * width[b, c, w]
    return y, {"height": height, "width": width}


def slow_simam(module, x):
    gate = torch.empty_like(x)
    for b, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        values = x[b, c].reshape(-1).tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1) if len(values) > 1 else 0.0
        for cell in cells(x.shape[2:]):
            # The minimal energy of the paper, equation 5, with the variance of its listing.
            square = (float(x[(b, c, *cell)]) - mean) ** 2
            energy = 4 * (variance + module.regularization) / (square + 2 * variance + 2 * module.regularization)
            gate[(b, c, *cell)] = sigmoid(1 / energy)
    return gate * x, {"neuron": gate}


CASES = [
    *(
        (slow_cbam, having(CBAM, **options), shapes)
        for options, shapes in [
            ({}, [(2, 7, 5, 3), (1, 7, 1, 1), (2, 11, 3, 2)]),
            ({"reduction": 2, "kernel_size": 3}, [(2, 7, 5, 3)]),
            ({"reduction": 3, "bias": False}, [(2, 7, 5, 3)]),
            ({"kernel_size": 3, "norm": False}, [(2, 7, 5, 3), (1, 7, 1, 1)]),
            ({"dims": 1}, [(2, 7, 11)]),
            ({"dims": 3, "kernel_size": 3}, [(2, 7, 2, 3, 5)]),
        ]
    ),
    *(
        (slow_scse, having(ConcurrentSqueezeExcitation, **options), shapes)
        for options in ({}, {"reduction": 3}, {"reduction": 16}, {"fusion": "max"})
        for shapes in [[(2, 7, 5, 3), (1, 11, 1, 1), (2, 7, 13), (2, 7, 2, 3, 5)]]
    ),
    (slow_coordinate, CoordinateAttention, [(2, 7, 5, 3), (1, 11, 1, 1), (2, 7, 1, 13)]),
    (slow_coordinate, having(CoordinateAttention, reduction=1), [(2, 11, 5, 3)]),
    (slow_simam, SimAM, [(2, 7, 5, 3), (2, 7, 1, 1), (1, 11, 13), (2, 7, 2, 3, 5)]),
    (slow_simam, having(SimAM, regularization=0.5), [(2, 7, 5, 3), (2, 7, 1, 1)]),
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
    for label, gate in expected_maps.items():
        torch.testing.assert_close(maps[label], gate)


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (CBAM, (680, 8_564, 33_412, 132_260, 526_564)),
        (having(CBAM, bias=False), (612, 8_292, 32_868, 131_172, 524_388)),
        (
            having(ConcurrentSqueezeExcitation, reduction=16),
            (645, 8_721, 33_825, 133_185, 528_513),
        ),
        (CoordinateAttention, (1_688, 6_680, 25_648, 100_448, 397_504)),
        (SimAM, (0, 0, 0, 0, 0)),
    ],
)
def test_parameter_counts_are_the_published_ones(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


def test_other_counts_follow_their_arguments():
    assert count(CBAM(64, norm=False)) == 678
    assert count(CBAM(64, kernel_size=3)) == 600
    assert count(CBAM(64, dims=1)) == 596
    assert count(CBAM(64, dims=3)) == 580 + 2 * 343 + 2
    assert count(CBAM(64, reduction=8)) == 580 + 4 * 129 + 100
    assert count(ConcurrentSqueezeExcitation(64)) == 2 * 64 * 32 + 32 + 2 * 64 + 1
    assert count(CoordinateAttention(64, reduction=4)) == 3 * 64 * 16 + 3 * 16 + 2 * 64


@pytest.mark.parametrize("build", [CBAM, ConcurrentSqueezeExcitation, CoordinateAttention, SimAM])
@pytest.mark.parametrize("channels", [1, 3, 15])
def test_one_image_of_one_cell_trains(build, channels):
    module = build(channels).train()
    x = torch.randn(1, channels, 1, 1, requires_grad=True)
    for gradient in torch.autograd.grad(module(x).sum(), [x, *module.parameters()]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("build", [ConcurrentSqueezeExcitation, SimAM])
def test_permuting_the_positions_permutes_the_output(build):
    module = randomize(build(7))
    x = draw((2, 7, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


def test_cbam_without_its_convolutions_neighbours_does_not_depend_on_the_order_of_positions():
    module = randomize(CBAM(7, kernel_size=1, dims=1)).eval()
    x = draw((2, 7, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


def test_coordinate_attention_follows_permuted_rows_and_columns():
    module = randomize(CoordinateAttention(7)).eval()
    x = draw((2, 7, 5, 3))
    rows, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(module(x[:, :, rows][:, :, :, columns]), module(x)[:, :, rows][:, :, :, columns])


def test_simam_of_one_cell_is_the_gate_of_one_half():
    x = draw((2, 7, 1, 1))
    torch.testing.assert_close(SimAM(7)(x), x * sigmoid(0.5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (having(CBAM, kernel_size=4), "odd"),
        (having(CBAM, kernel_size=0), "odd"),
        (having(CBAM, dims=4), "1, 2 or 3"),
        (having(ConcurrentSqueezeExcitation, fusion="mean"), "'sum' or 'max'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(8)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (CBAM(8), (2, 9, 4, 4)),
        (CBAM(8), (2, 8, 4)),
        (CBAM(8, dims=1), (2, 8, 4, 4)),
        (CBAM(8, dims=3), (2, 8, 4, 4)),
        (ConcurrentSqueezeExcitation(8), (2, 9, 4, 4)),
        (CoordinateAttention(8), (2, 8, 4)),
        (CoordinateAttention(8), (2, 8, 4, 4, 4)),
        (SimAM(8), (2, 9, 4, 4)),
    ],
)
def test_wrong_shapes_are_refused(module, shape):
    with pytest.raises(ShapeError, match=type(module).__name__):
        module(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "theirs"),
    [
        ((3, 7), torch.nn.BatchNorm1d),
        ((3, 7, 5), torch.nn.BatchNorm1d),
        ((1, 7, 5, 3), torch.nn.BatchNorm2d),
        ((2, 7, 1, 1), torch.nn.BatchNorm2d),
        ((2, 7, 2, 3, 5), torch.nn.BatchNorm3d),
        ((1, 7, 1, 2), torch.nn.BatchNorm2d),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_torch_wherever_that_is_defined(shape, theirs, training):
    ours = randomize(BatchNorm(shape[1])).train(training)
    same = theirs(shape[1]).double().train(training)
    same.load_state_dict(ours.state_dict())
    x = draw(shape)
    torch.testing.assert_close(ours(x), same(x))
    torch.testing.assert_close(ours.state_dict(), same.state_dict())


@pytest.mark.parametrize("shape", [(1, 7), (1, 7, 1), (1, 7, 1, 1), (1, 7, 1, 1, 1)])
def test_batch_norm_of_a_single_value_uses_and_keeps_the_running_statistics(shape):
    norm = randomize(BatchNorm(7)).train()
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    x = draw(shape)
    y = norm(x)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(y, norm.eval()(x))
