"""Gates over channels and positions against the papers' equations, written again as loops, and published counts."""

import itertools
import math

import pytest
import torch
from oracle import (
    RESNET_50,
    WIDTHS,
    affine,
    cells,
    channel_means,
    count,
    dot,
    draw,
    having,
    randomize,
    relu,
    sigmoid,
    softmax,
    watched,
)
from slow_layers import batch_norm, convolve, layer_norm

from regard.attention import (
    BottleneckAttention,
    EfficientMultiScaleAttention,
    PolarizedSelfAttention,
    ShuffleAttention,
    StripPooling,
    TripletAttention,
)


def standardize(norm, c, numbers):
    """One channel of one image, as a list, normalised over its own positions."""
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers) + norm.eps)
    return [float(norm.weight[c]) * (number - mean) / deviation + float(norm.bias[c]) for number in numbers]


def slow_bam(module, x):
    B, C, *spatial = x.shape
    code = module.variant == "code"
    linear = [layer for layer in module.channel if hasattr(layer, "in_features")]
    convolutions = [layer for layer in module.spatial if hasattr(layer, "kernel_size")]
    norms = [layer for layer in module.channel if hasattr(layer, "running_var")]
    norms += [layer for layer in module.spatial if hasattr(layer, "running_var")]
    hidden = torch.tensor([affine(linear[0], channel_means(image)) for image in x], dtype=x.dtype)
    hidden = (batch_norm(norms.pop(0), hidden) if code else hidden).clamp(min=0)
    channel = torch.tensor([affine(linear[1], vector) for vector in hidden.tolist()], dtype=x.dtype)
    if not code:
        channel = batch_norm(norms.pop(0), channel)
    scores = x
    for convolution in convolutions:
        scores = convolve(convolution, scores)
        if convolution is not convolutions[-1]:
            scores = (batch_norm(norms.pop(0), scores) if code else scores).clamp(min=0)
    if not code:
        scores = batch_norm(norms.pop(0), scores)
    assert not norms
    gate, y = torch.empty_like(x), torch.empty_like(x)
    for b, c, cell in itertools.product(range(B), range(C), cells(spatial)):
        one, other = float(channel[b, c]), float(scores[(b, 0, *cell)])
        gate[(b, c, *cell)] = sigmoid(one * other if code else one + other)
        y[(b, c, *cell)] = x[(b, c, *cell)] * (1 + gate[(b, c, *cell)])
    return y, {"gate": gate}


def slow_triplet(module, x):
    """As the paper has it: rotate the map, gate its first two axes by the pooled third, rotate back."""
    maps, parts = {}, []
    for label, axes in (
        ("height_channel", (3, 2, 1)),  # pool the width; the image is height by channel
        ("channel_width", (2, 1, 3)),
        ("spatial", (1, 2, 3)),
    ):
        rotated = x.permute(0, *axes)
        convolution, norm, _ = getattr(module, label)
        statistics = torch.stack([rotated.amax(1), rotated.sum(1) / rotated.shape[1]], 1)
        scores = convolve(convolution, statistics)
        maps[label] = 1 / (1 + (-batch_norm(norm, scores)[:, 0]).exp())
        gated = rotated * maps[label][:, None]
        parts.append(gated.permute(0, *(1 + axes.index(axis) for axis in (1, 2, 3))))
    return sum(parts) / 3, maps


def slow_shuffle(module, x):
    B, C, *spatial = x.shape
    where = cells(spatial)
    width = C // module.groups
    gate, gated, y = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    for b, c in itertools.product(range(B), range(C)):
        inside = c % width
        values = [float(x[(b, c, *cell)]) for cell in where]
        if inside < width // 2:
            score = float(module.channel_weight[inside]) * sum(values) / len(where)
            scores = [score + float(module.channel_bias[inside])] * len(where)
        else:
            j = inside - width // 2
            normal = standardize(module.norm, j, values)
            scores = [float(module.spatial_weight[j]) * value + float(module.spatial_bias[j]) for value in normal]
        for cell, value, score in zip(where, values, scores, strict=True):
            gate[(b, c, *cell)] = sigmoid(score)
            gated[(b, c, *cell)] = value * sigmoid(score)
    first = [c for c in range(C) if c < C / 2]
    second = [c for c in range(C) if c >= C / 2]
    dealt = [c for pair in itertools.zip_longest(first, second) for c in pair if c is not None]
    for position, c in enumerate(dealt):
        y[:, position] = gated[:, c]
    return y, {"gate": gate}


def slow_efficient_multi_scale(module, x):
    B, C, H, W = x.shape
    q = C // module.groups
    gate = torch.empty(B, module.groups, H, W, dtype=x.dtype)
    y = torch.empty_like(x)
    weight, bias = module.coordinate.weight[:, :, 0], module.coordinate.bias
    for b, group in itertools.product(range(B), range(module.groups)):
        image = x[b, group * q : (group + 1) * q]
        rows = [weight @ (sum(image[:, h, w] for w in range(W)) / W) + bias for h in range(H)]
        columns = [weight @ (sum(image[:, h, w] for h in range(H)) / H) + bias for w in range(W)]
        one = torch.empty_like(image)
        for j in range(q):
            numbers = [
                float(image[j, h, w]) * sigmoid(float(rows[h][j])) * sigmoid(float(columns[w][j]))
                for h, w in cells((H, W))
            ]
            one[j] = torch.tensor(standardize(module.norm, j, numbers), dtype=x.dtype).reshape(H, W)
        two = convolve(module.local, image)
        weights = [softmax([sum(view[j].reshape(-1).tolist()) / (H * W) for j in range(q)]) for view in (one, two)]
        for h, w in cells((H, W)):
            score = dot(weights[0], two[:, h, w].tolist()) + dot(weights[1], one[:, h, w].tolist())
            gate[b, group, h, w] = sigmoid(score)
            y[b, group * q : (group + 1) * q, h, w] = image[:, h, w] * sigmoid(score)
    return y, {"spatial": gate}


def slow_polarized(module, x):
    """In the paper's order: every projection at every position, and only then the sums."""
    B, C, *spatial = x.shape
    where = cells(spatial)
    theirs = (module.variant, module.arrangement) == ("code", "sequential")
    pooling, spatial_gate = (torch.empty(B, *spatial, dtype=x.dtype) for _ in range(2))
    channel = torch.empty(B, C, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        vectors = [[float(x[(b, c, *cell)]) for c in range(C)] for cell in where]
        picked = softmax([affine(module.channel_query, vector)[0] for vector in vectors])
        values = [affine(module.channel_value, vector) for vector in vectors]
        pooled = [sum(p * value[j] for p, value in zip(picked, values, strict=True)) for j in range(len(values[0]))]
        if theirs:
            first, norm, _, last = module.excite
            excited = affine(last, relu(layer_norm(norm, affine(first, pooled))))
        else:
            excited = affine(module.excite, pooled)
        if hasattr(module.norm, "weight"):
            excited = layer_norm(module.norm, excited)
        gates = [sigmoid(value) for value in excited]
        gated = [[gates[c] * vector[c] for c in range(C)] for vector in vectors]
        seen = gated if module.arrangement == "sequential" else vectors
        queries = [affine(module.spatial_query, vector) for vector in seen]
        query = [sum(each[j] for each in queries) / len(where) for j in range(len(queries[0]))]
        query = softmax(query) if module.variant == "paper" else query
        values = [affine(module.spatial_value, vector) for vector in seen]
        if theirs:
            channels = [softmax([value[j] for value in values]) for j in range(len(query))]
            values = [[channel[n] for channel in channels] for n in range(len(where))]
        scores = [dot(query, value) for value in values]
        scores = softmax(scores) if module.variant == "code" and not theirs else scores
        channel[b] = torch.tensor(gates, dtype=x.dtype)
        for n, cell in enumerate(where):
            pooling[(b, *cell)], spatial_gate[(b, *cell)] = picked[n], sigmoid(scores[n])
            for c in range(C):
                alone = sigmoid(scores[n]) * seen[n][c]
                y[(b, c, *cell)] = alone if module.arrangement == "sequential" else gated[n][c] + alone
    return y, {"pooling": pooling, "channel": channel, "spatial": spatial_gate}


def slow_strip_pooling(module, x):
    B, C, H, W = x.shape
    code = module.variant == "code"
    rows = convolve(module.height[0], x.sum(3) / W)
    columns = convolve(module.width[0], x.sum(2) / H)
    if code:
        rows, columns = batch_norm(module.height[1], rows), batch_norm(module.width[1], columns)
    gate, y = torch.empty_like(x), torch.empty_like(x)
    for b, h, w in cells((B, H, W)):
        crossed = rows[b, :, h] + columns[b, :, w]
        crossed = crossed.clamp(min=0) if code else crossed
        scores = module.excite.weight[:, :, 0] @ crossed + module.excite.bias
        for c in range(C):
            gate[b, c, h, w] = sigmoid(float(scores[c]))
            y[b, c, h, w] = gate[b, c, h, w] * x[b, c, h, w]
    return y, {"gate": gate}


CASES = [
    *(
        (slow_bam, having(BottleneckAttention, variant=variant, **options), shapes)
        for variant in ("paper", "code")
        for options, shapes in [
            ({"reduction": 2}, [(2, 5, 3, 11), (1, 5, 1, 1)]),
            ({"reduction": 3, "dilation": 2}, [(2, 7, 5, 3)]),
            ({"dims": 1}, [(2, 7, 13)]),
            ({"dims": 3, "dilation": 1}, [(1, 5, 2, 3, 2)]),
        ]
    ),
    (slow_triplet, TripletAttention, [(2, 7, 5, 3), (1, 7, 1, 1)]),
    (slow_triplet, having(TripletAttention, kernel_size=3), [(2, 2, 5, 3), (1, 1, 1, 1)]),
    (slow_shuffle, ShuffleAttention, [(2, 6, 5, 3), (1, 6, 1, 1), (2, 7, 5, 3), (2, 8, 13), (1, 9, 2, 3, 5)]),
    (slow_shuffle, having(ShuffleAttention, groups=2), [(2, 12, 5, 3), (2, 9, 5, 3)]),
    (slow_efficient_multi_scale, EfficientMultiScaleAttention, [(2, 7, 5, 3), (1, 7, 1, 1), (2, 37, 2, 3)]),
    (slow_efficient_multi_scale, having(EfficientMultiScaleAttention, groups=3), [(2, 12, 5, 3), (1, 12, 1, 7)]),
    *(
        (slow_polarized, having(PolarizedSelfAttention, **options), shapes)
        for options, shapes in [
            ({}, [(2, 7, 5, 3), (1, 6, 1, 1), (2, 6, 13), (1, 6, 2, 3, 5)]),
            ({"arrangement": "sequential"}, [(2, 7, 5, 3)]),
            ({"variant": "code"}, [(2, 7, 5, 3)]),
            ({"variant": "code", "arrangement": "sequential"}, [(2, 23, 5, 3), (1, 7, 1, 1)]),
            ({"norm": True}, [(2, 7, 5, 3), (1, 6, 1, 1)]),
        ]
    ),
    (slow_strip_pooling, StripPooling, [(2, 5, 7, 3), (1, 5, 1, 1), (1, 5, 1, 7)]),
    (slow_strip_pooling, having(StripPooling, variant="code"), [(2, 5, 7, 3), (1, 5, 1, 1)]),
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
        (having(BottleneckAttention, variant="code"), (1_173, 17_361, 68_513, 272_193, 1_085_057)),
        (TripletAttention, (300,) * 5),
        (having(TripletAttention, kernel_size=3), (60,) * 5),
        (having(ShuffleAttention, groups=32), (6, 24, 48, 96, 192)),
        (EfficientMultiScaleAttention, (48, 672, 2_624, 10_368, 41_216)),
        (PolarizedSelfAttention, tuple(2 * width**2 + width for width in WIDTHS)),
    ],
)
def test_parameter_counts_are_the_published_ones(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


@pytest.mark.parametrize(
    ("build", "widths", "added"),
    [
        (having(BottleneckAttention, variant="code"), [64, 128, 256], 11_712_503 - 11_689_512),
        (having(BottleneckAttention, variant="code"), [256, 512, 1024], 25_915_099 - 25_557_032),
        (ShuffleAttention, RESNET_50, 25_557_740 - 25_557_032),
        (TripletAttention, RESNET_50, 25_561_832 - 25_557_032),
    ],
)
def test_networks_grow_by_the_published_number(build, widths, added):
    assert sum(count(build(channels)) for channels in widths) == added


def test_other_counts_follow_their_arguments():
    mlp = 64 * 4 + 4 + 4 * 64 + 64
    assert count(BottleneckAttention(64)) == mlp + 2 * 64 + 64 * 4 + 4 + 2 * (9 * 16 + 4) + 4 + 1 + 2
    assert count(BottleneckAttention(64, dims=1)) == mlp + 2 * 64 + 64 * 4 + 4 + 2 * (3 * 16 + 4) + 4 + 1 + 2
    assert count(PolarizedSelfAttention(64, norm=True)) == 2 * 64**2 + 64 + 2 * 64
    assert count(StripPooling(64)) == 2 * (3 * 64**2 + 64) + 64**2 + 64
    assert count(StripPooling(64, variant="code")) == 2 * (3 * 64**2 + 2 * 64) + 64**2 + 64


@pytest.mark.parametrize(
    ("channels", "groups", "taken"), [(64, 64, 32), (256, 64, 64), (96, 64, 48), (67, 64, 1), (45, 64, 15), (2, 64, 1)]
)
def test_shuffle_takes_groups_that_can_be_halved(channels, groups, taken):
    assert ShuffleAttention(channels, groups).groups == taken


def test_shuffle_starts_at_the_sigmoid_of_one_and_mixes_the_halves_of_the_channels():
    x = draw((2, 8, 5, 3))
    torch.testing.assert_close(ShuffleAttention(8).double()(x), x[:, [0, 4, 1, 5, 2, 6, 3, 7]] * sigmoid(1))


def test_efficient_multi_scale_normalises_as_group_norm_does():
    """The softmax of its first view takes the mean of a normalised channel to be the shift."""
    norm = randomize(EfficientMultiScaleAttention(7, groups=1)).norm
    torch.testing.assert_close(norm(draw((2, 7, 5, 3))).mean(dim=(2, 3)), norm.bias.expand(2, -1))


@pytest.mark.parametrize("build", [ShuffleAttention, PolarizedSelfAttention])
def test_permuting_the_positions_permutes_the_output(build):
    module = randomize(build(8))
    x = draw((2, 8, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


def test_gates_of_triplet_attention_may_close():
    """No rectifier comes before the sigmoid: about half of the gates are below one half."""
    _, maps = watched(randomize(TripletAttention(7)).eval(), draw((2, 7, 5, 3)))
    assert all((gate < 0.5).any() and (gate > 0.5).any() for gate in maps.values())


def test_bam_on_a_map_smaller_than_its_kernels_is_a_map():
    """Dilated convolutions that are not padded as far leave one cell, which a broadcast hides."""
    module = randomize(BottleneckAttention(7)).eval()
    assert module.spatial(draw((1, 7, 7, 7))).shape == (1, 1, 7, 7)
    _, maps = watched(module, draw((1, 7, 7, 7)))
    assert len(maps["gate"][0, 0].unique()) > 1


def test_bam_only_adds_to_its_input():
    x = draw((2, 7, 5, 3))
    ratio = randomize(BottleneckAttention(7)).eval()(x) / x
    assert ((ratio > 1) & (ratio < 2)).all()


def test_polarized_gates_of_the_authors_code_hardly_move():
    x = draw((2, 8, 5, 3))
    _, ours = watched(randomize(PolarizedSelfAttention(8)), x)
    _, theirs = watched(randomize(PolarizedSelfAttention(8, variant="code")), x)
    assert ((theirs["spatial"] >= 0.5) & (theirs["spatial"] < 0.7311)).all()
    assert (ours["spatial"] < 0.5).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (having(BottleneckAttention, variant="product"), "'paper' or 'code'"),
        (having(BottleneckAttention, dims=4), "1, 2 or 3"),
        (having(TripletAttention, kernel_size=4), "odd"),
        (lambda _: ShuffleAttention(1), "from 2 to"),
        (having(ShuffleAttention, groups=0), "from 1 to"),
        (having(EfficientMultiScaleAttention, groups=0), "from 1 to"),
        (having(PolarizedSelfAttention, arrangement="serial"), "'parallel' or 'sequential'"),
        (having(PolarizedSelfAttention, variant="authors"), "'paper' or 'code'"),
        (having(StripPooling, variant="authors"), "'paper' or 'code'"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(8)
