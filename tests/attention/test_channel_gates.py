"""Gates of channels against the papers' equations, written again as loops, timm's modules, and published counts."""

import itertools
import math
import random
from copy import deepcopy

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
    offered,
    randomize,
    relu,
    sigmoid,
    softmax,
)
from slow_layers import batch_norm, convolve
from timm.layers.gather_excite import GatherExcite as TimmGatherExcite
from timm.layers.squeeze_excite import EffectiveSEModule
from timm.models.xcit import XCA

from regard.attention import (
    AttentionRefinement,
    ChannelSelfAttention,
    CrossCovarianceAttention,
    EffectiveSqueezeExcitation,
    FrequencyChannelAttention,
    GatedChannelTransformation,
    GatherExcite,
    GaussianContextTransformer,
    LinearContextTransform,
    NormalizationAttention,
    SqueezeExcitation,
    StyleRecalibration,
)
from regard.attention.channel.frequency_channel import TOP_16

MAPS = ((2, 7, 5, 3), (1, 11, 1, 1), (3, 7, 13), (2, 5, 2, 3, 2))


def values(x, b, c):
    return x[b, c].reshape(-1).tolist()


def mean(numbers):
    return sum(numbers) / len(numbers)


def gated(x, gates):
    """Every channel of the map times its gate, and the gates as a tensor."""
    y = torch.empty_like(x)
    for b, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        y[b, c] = gates[b][c] * x[b, c]
    return y, torch.tensor(gates, dtype=x.dtype)


def slow_ese(module, x):
    def gate(score):
        return sigmoid(score) if module.gate == "sigmoid" else min(6.0, max(0.0, score + 3)) / 6

    return gated(x, [[gate(score) for score in affine(module.excite, channel_means(x[b]))] for b in range(x.shape[0])])


def slow_gated_channel(module, x):
    B, C = x.shape[:2]
    alpha, gamma, beta = module.embedding.tolist(), module.gain.tolist(), module.bias.tolist()
    gates = []
    for b in range(B):
        if module.norm == "l2":
            s = [alpha[c] * math.sqrt(sum(v * v for v in values(x, b, c)) + 1e-5) for c in range(C)]
            n = [math.sqrt(C) * s[c] / math.sqrt(sum(v * v for v in s) + 1e-5) for c in range(C)]
        else:
            s = [alpha[c] * sum(abs(v) for v in values(x, b, c)) for c in range(C)]
            n = [s[c] / (mean([abs(v) for v in s]) + 1e-5) for c in range(C)]
        gates.append([1 + math.tanh(gamma[c] * n[c] + beta[c]) for c in range(C)])
    return gated(x, gates)


def slow_style(module, x):
    B, C = x.shape[:2]
    styles = []
    for b in range(B):
        styles.append([])
        for c in range(C):
            centre = mean(values(x, b, c))
            deviation = math.sqrt(mean([(v - centre) ** 2 for v in values(x, b, c)]) + 1e-5)
            styles[b].append(float(module.weight[0, c]) * centre + float(module.weight[1, c]) * deviation)
    styles = batch_norm(module.norm, torch.tensor(styles, dtype=x.dtype)).tolist()
    return gated(x, [[sigmoid(z) for z in row] for row in styles])


def slow_refinement(module, x):
    scores = [affine(module.excite, channel_means(x[b])) for b in range(x.shape[0])]
    scores = batch_norm(module.norm, torch.tensor(scores, dtype=x.dtype)).tolist()
    return gated(x, [[sigmoid(score) for score in row] for row in scores])


def standardize(numbers):
    centre = mean(numbers)
    deviation = math.sqrt(mean([(v - centre) ** 2 for v in numbers]) + 1e-5)
    return [(v - centre) / deviation for v in numbers]


def slow_gaussian(module, x):
    c = float(module.deviation)
    return gated(x, [[math.exp(-(z**2) / (2 * c**2)) for z in standardize(channel_means(image))] for image in x])


def slow_linear_context(module, x):
    w, shift = module.transform.weight.tolist(), module.transform.bias.tolist()
    size = x.shape[1] // module.groups
    gates = []
    for b in range(x.shape[0]):
        s = channel_means(x[b])
        z = [v for start in range(0, len(s), size) for v in standardize(s[start : start + size])]
        gates.append([sigmoid(w[c] * z[c] + shift[c]) for c in range(len(s))])
    return gated(x, gates)


def slow_normalization(module, x):
    B, C = x.shape[:2]
    normal = batch_norm(module.norm, x).flatten(2).tolist()
    scales = [abs(scale) for scale in module.norm.weight.tolist()]
    rows = [[[sigmoid(scales[c] / sum(scales) * z) for z in normal[b][c]] for c in range(C)] for b in range(B)]
    gate = torch.tensor(rows, dtype=x.dtype).reshape(x.shape)
    return x * gate, gate


def slow_frequency(module, x, frequencies=TOP_16):
    B, C, H, W = x.shape

    def basis(u, position, size):
        return math.sqrt((1 if u == 0 else 2) / size) * math.cos(math.pi * u * (position + 0.5) / size)

    gates = []
    for b in range(B):
        spectrum = []
        for c in range(C):
            # The channel belongs to the part in which it lies when the parts are as equal as they can be.
            u, v = next(
                frequencies[p] for p in range(len(frequencies)) if c < math.ceil((p + 1) * C / len(frequencies))
            )
            u, v = math.floor(u * H / 7), math.floor(v * W / 7)
            spectrum.append(
                sum(
                    basis(u, h, H) * basis(v, w, W) * float(x[b, c, h, w])
                    for h, w in itertools.product(range(H), range(W))
                )
            )
        hidden = relu(affine(module.squeeze, spectrum))
        gates.append([sigmoid(score) for score in affine(module.excite, hidden)])
    return gated(x, gates)


def slow_channel_self(module, x):
    B, C = x.shape[:2]
    attention = torch.zeros(B, C, C, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        vectors = [values(x, b, c) for c in range(C)]
        for j in range(C):
            energy = [dot(vectors[j], vectors[i]) for i in range(C)]
            if module.variant == "dissimilar":
                energy = [max(energy) - value for value in energy]
            weights = softmax(energy)
            attention[b, j] = torch.tensor(weights, dtype=x.dtype)
            y[b, j] = x[b, j] + float(module.gain) * sum(weights[i] * x[b, i] for i in range(C))
    return y, attention


def slow_cross_covariance(module, x):
    B, N, C = x.shape
    h, d = module.heads, C // module.heads
    attention = torch.zeros(B, h, d, d, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        projected = [affine(module.project, vector) for vector in x[b].tolist()]  # N of 3C
        context = [[0.0] * C for _ in range(N)]
        for head, i in itertools.product(range(h), range(d)):
            q, *keys = (
                [projected[n][channel] for n in range(N)]
                for channel in (head * d + i, *(C + head * d + j for j in range(d)))
            )
            length = math.sqrt(dot(q, q))
            cosines = [dot(q, key) / (length * math.sqrt(dot(key, key))) for key in keys]
            weights = softmax([float(module.scale[head]) * cosine for cosine in cosines])
            attention[b, head, i] = torch.tensor(weights, dtype=x.dtype)
            for n, j in itertools.product(range(N), range(d)):
                context[n][head * d + i] += weights[j] * projected[n][2 * C + head * d + j]
        y[b] = torch.tensor([affine(module.output, vector) for vector in context], dtype=x.dtype)
    return y, attention


def slow_gather(module, x):
    """θ⁻, θ and θ⁺ of a map as large as the module's `kernel`, if it has one."""
    B, C, *spatial = x.shape
    e, gathered = module.extent, x
    if module.variant == "theta_minus":
        grid = [1] * len(spatial) if e is None else [-(-size // e) for size in spatial]
        gathered = torch.empty(B, C, *grid, dtype=x.dtype)
        for cell in cells(grid):
            near = [
                x[(..., *at)]
                for at in cells(spatial)
                if e is None or all(abs(p - e * q) < e for p, q in zip(at, cell, strict=True))
            ]
            gathered[(..., *cell)] = sum(near) / len(near)
    elif e is None:
        total = sum(module.kernel[(..., *cell)] * x[(..., *cell)] for cell in cells(spatial))
        gathered = total.reshape(B, C, *[1] * len(spatial))
    for layer in module.steps:
        if isinstance(layer, torch.nn.ReLU):
            gathered = gathered.clamp(min=0)
        else:
            gathered = (batch_norm if hasattr(layer, "running_mean") else convolve)(layer, gathered)
    gate = torch.empty_like(x)
    for b, cell in itertools.product(range(B), cells(spatial)):
        nearest = tuple(p * g // size for p, g, size in zip(cell, gathered.shape[2:], spatial, strict=True))
        vector = gathered[(b, slice(None), *nearest)].tolist()
        if module.variant == "theta_plus":
            vector = affine(module.excite, relu(affine(module.squeeze, vector)))
        for c in range(C):
            gate[(b, c, *cell)] = sigmoid(vector[c])
    return gate * x, gate


def agree(module, slow, shape):
    """Output and map are those of the slow reference, in training and in evaluation."""
    for training in (True, False):
        module = randomize(module).train(training).requires_grad_(False)
        x = draw(shape)
        expected, weights = slow(module, x)
        y, offer = offered(module, x)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(offer.weights, weights)


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize(
    ("mechanism", "slow", "options"),
    [
        (EffectiveSqueezeExcitation, slow_ese, {}),
        (EffectiveSqueezeExcitation, slow_ese, {"gate": "hard_sigmoid"}),
        (GatedChannelTransformation, slow_gated_channel, {}),
        (GatedChannelTransformation, slow_gated_channel, {"norm": "l1"}),
        (StyleRecalibration, slow_style, {}),
        (AttentionRefinement, slow_refinement, {}),
        (GaussianContextTransformer, slow_gaussian, {}),
        (GaussianContextTransformer, slow_gaussian, {"deviation": 0.7}),
        (GaussianContextTransformer, slow_gaussian, {"learned": True}),
        (LinearContextTransform, slow_linear_context, {}),
        (NormalizationAttention, slow_normalization, {}),
        (ChannelSelfAttention, slow_channel_self, {}),
        (ChannelSelfAttention, slow_channel_self, {"variant": "dissimilar"}),
    ],
)
def test_values_are_those_of_the_equation(mechanism, slow, options, shape):
    agree(mechanism(shape[1], **options), slow, shape)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_linear_context_standardizes_within_groups(groups):
    agree(LinearContextTransform(6, groups=groups), slow_linear_context, (2, 6, 5, 3))


@pytest.mark.parametrize("shape", [(2, 17, 7, 7), (1, 32, 5, 3), (2, 5, 14, 1), (1, 3, 1, 1)])
def test_frequency_channel_is_the_equation(shape):
    agree(FrequencyChannelAttention(shape[1], reduction=3), slow_frequency, shape)


def test_frequency_channel_takes_other_frequencies():
    frequencies = ((3, 5), (0, 2))
    module = FrequencyChannelAttention(5, reduction=2, frequencies=frequencies)
    agree(module, lambda module, x: slow_frequency(module, x, frequencies), (2, 5, 8, 7))


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 1, 6), (2, 5, 8)])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_cross_covariance_is_the_equation(shape, heads, bias):
    agree(CrossCovarianceAttention(shape[2], heads=heads, bias=bias), slow_cross_covariance, shape)


@pytest.mark.parametrize("spatial", [(5, 3), (1, 7), (8, 4), (11,), (2, 3, 5)])
@pytest.mark.parametrize("extent", [None, 2, 4])
@pytest.mark.parametrize("variant", ["theta_minus", "theta", "theta_plus"])
def test_gather_excite_is_the_equation(variant, extent, spatial):
    module = GatherExcite(3, variant, extent, size=spatial, reduction=2, dims=len(spatial))
    agree(module, slow_gather, (2, 3, *spatial))


def test_gather_excite_without_parameters_gathers_at_any_extent():
    agree(GatherExcite(2, extent=3), slow_gather, (1, 2, 7, 5))


def test_a_gathering_kernel_fits_itself_to_the_map():
    module = randomize(GatherExcite(3, "theta", size=(7, 5))).eval()
    with torch.no_grad():
        module.kernel.copy_(module.kernel[:, :1, :1].expand_as(module.kernel).clone())
    small, large = torch.ones(1, 3, 7, 5).double(), torch.ones(1, 3, 2, 11).double()
    torch.testing.assert_close(module(small)[:, :, 0, 0], module(large)[:, :, 0, 0])
    assert module(draw((2, 3, 1, 1))).shape == (2, 3, 1, 1)


# Known modules of timm


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_ese_is_that_of_timm(gate):
    theirs = randomize(EffectiveSEModule(7, gate_layer=gate))
    ours = EffectiveSqueezeExcitation(7, gate=gate).double()
    ours.load_state_dict({"excite.weight": theirs.fc.weight[:, :, 0, 0], "excite.bias": theirs.fc.bias})
    x = draw((2, 7, 5, 3))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("extent", [0, 2, 4, 8])
def test_gather_excite_without_parameters_is_that_of_timm(extent):
    theirs = TimmGatherExcite(7, extent=extent, use_mlp=False)
    x = draw((2, 7, 13, 5))
    torch.testing.assert_close(GatherExcite(7, extent=extent or None)(x), theirs(x))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_cross_covariance_is_that_of_timm(bias, fused):
    theirs = randomize(XCA(12, num_heads=3, qkv_bias=bias))
    theirs.fused_attn = fused
    names = {"qkv": "project", "proj": "output"}
    state = {name: value for name, value in theirs.state_dict().items() if name != "temperature"}
    state = {f"{names[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in state.items()}
    ours = CrossCovarianceAttention(12, heads=3, bias=bias).double()
    ours.load_state_dict({**state, "scale": theirs.temperature.reshape(-1)})
    x = draw((2, 7, 12))
    torch.testing.assert_close(ours(x), theirs(x))


# Counts


@pytest.mark.parametrize(
    ("mechanism", "counts"),
    [
        (EffectiveSqueezeExcitation, (4_160, 65_792, 262_656, 1_049_600, 4_196_352)),
        (GatedChannelTransformation, (192, 768, 1_536, 3_072, 6_144)),
        (LinearContextTransform, (128, 512, 1_024, 2_048, 4_096)),
        (StyleRecalibration, (256, 1_024, 2_048, 4_096, 8_192)),
        (FrequencyChannelAttention, (512, 8_192, 32_768, 131_072, 524_288)),
        (ChannelSelfAttention, (1, 1, 1, 1, 1)),
        (GaussianContextTransformer, (0, 0, 0, 0, 0)),
    ],
)
def test_parameter_counts_are_the_known_ones(mechanism, counts):
    with torch.device("meta"):
        assert tuple(count(mechanism(channels)) for channels in WIDTHS) == counts


@pytest.mark.parametrize(
    ("mechanism", "total"),
    [
        (GatedChannelTransformation, 25_602_344),
        (StyleRecalibration, 25_617_448),
        (FrequencyChannelAttention, 28_071_976),
    ],
)
def test_resnet_50_has_as_many_parameters_as_known(mechanism, total):
    with torch.device("meta"):
        added = sum(count(mechanism(channels)) for channels in RESNET_50)
    assert 25_557_032 + added == total


def test_theta_plus_is_theta_and_squeeze_excitation_of_the_gathered():
    theta, plus = (GatherExcite(64, variant, size=(7, 7)) for variant in ("theta", "theta_plus"))
    assert count(theta) == 64 * 49 + 2 * 64
    assert count(plus) == count(theta) + count(SqueezeExcitation(64))


# What each of them claims


@pytest.mark.parametrize("mechanism", [GatedChannelTransformation, ChannelSelfAttention])
def test_it_starts_as_the_identity(mechanism):
    x = draw((2, 7, 5, 3))
    assert torch.equal(mechanism(7).double()(x), x)


@pytest.mark.parametrize(("mechanism", "gate"), [(StyleRecalibration, 0.5), (LinearContextTransform, sigmoid(1))])
def test_it_starts_with_one_gate_for_all(mechanism, gate):
    x = draw((3, 8, 5, 3))
    torch.testing.assert_close(mechanism(8).double()(x), gate * x)


def test_channel_self_reads_the_channel_that_is_like_it_or_least_like_it():
    x = 5 * torch.tensor([[[1.0, 0.0, 1.0], [2.0, 0.0, 2.0], [-1.0, 0.0, -1.0]]])
    for variant, highest in (("similar", [1, 1, 2]), ("dissimilar", [2, 2, 1])):
        _, offer = offered(ChannelSelfAttention(3, variant=variant), x)
        assert offer.weights.argmax(2).tolist() == [highest]


def test_cross_covariance_does_not_depend_on_the_order_or_the_number_of_tokens():
    module = randomize(CrossCovarianceAttention(8, heads=2))
    x = draw((2, 7, 8))
    order = random.Random(3).sample(range(7), 7)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])
    torch.testing.assert_close(module(torch.cat((x, x), 1))[:, :7], module(x))


def test_a_frequency_is_orthogonal_to_the_mean():
    module = randomize(FrequencyChannelAttention(16, frequencies=((0, 0), (0, 1))))
    with torch.no_grad():
        module.squeeze.weight.abs_()  # so that no ReLU is closed to a map of ones
    gates = [
        offered(module, x)[1].weights for x in (torch.zeros(1, 16, 7, 7).double(), torch.ones(1, 16, 7, 7).double())
    ]
    with torch.no_grad():
        module.squeeze.weight[:, :8] = 0  # what the channels of the mean say
    other = offered(module, torch.ones(1, 16, 7, 7).double())[1].weights
    torch.testing.assert_close(other, gates[0])
    assert not torch.allclose(gates[0], gates[1])


def test_the_mean_alone_is_squeeze_excitation():
    frequency = randomize(FrequencyChannelAttention(7, reduction=2, frequencies=((0, 0),)))
    plain = SqueezeExcitation(7, reduction=2, bias=False).double()
    plain.load_state_dict(frequency.state_dict())
    with torch.no_grad():
        plain.squeeze.weight *= math.sqrt(5 * 3)
    x = draw((2, 7, 5, 3))
    torch.testing.assert_close(frequency(x), plain(x))


@pytest.mark.parametrize(("channels", "groups"), [(256, 64), (128, 64), (67, 1), (96, 48), (3, 1), (2048, 64)])
def test_linear_context_takes_as_many_groups_as_leave_two_channels_each(channels, groups):
    assert LinearContextTransform(channels).groups == groups


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: EffectiveSqueezeExcitation(8, gate="tanh"), "hard_sigmoid"),
        (lambda: GatedChannelTransformation(8, norm="l3"), "l2"),
        (lambda: GatherExcite(8, "theta"), "size=None"),
        (lambda: GatherExcite(8, "theta", size=(7,)), "2 axes"),
        (lambda: GatherExcite(8, "theta", extent=6), "extent=6"),
        (lambda: GatherExcite(8, extent=1), "extent=1"),
        (lambda: GatherExcite(8, "beta"), "theta_plus"),
        (lambda: GatherExcite(8, dims=4), "1, 2 or 3"),
        (lambda: FrequencyChannelAttention(8, frequencies=()), "one or more"),
        (lambda: FrequencyChannelAttention(8, frequencies=((0, 7),)), "from 0 to 6"),
        (lambda: ChannelSelfAttention(8, variant="paper"), "dissimilar"),
        (lambda: GaussianContextTransformer(8, deviation=0.0), "above 0"),
        (lambda: LinearContextTransform(8, groups=8), "1, 2, 4"),
        (lambda: LinearContextTransform(1), "from 2"),
        (lambda: CrossCovarianceAttention(9, heads=2), "1, 3, 9"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()


@pytest.mark.parametrize("extent", [None, 2])
@pytest.mark.parametrize("variant", ["theta_minus", "theta", "theta_plus"])
def test_every_way_of_gathering_keeps_channels_last_and_trains_on_one_cell(variant, extent):
    module = randomize(GatherExcite(5, variant, extent, size=(3, 3)))
    x = draw((2, 5, 7, 3))
    y = module.eval()(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, module(x))
    assert module.train()(draw((1, 5, 1, 1))).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gather_excite_gathers_halves_over_any_number_of_axes(dims: int, dtype: torch.dtype) -> None:
    """Means over three axes are none that PyTorch takes of halves on CPUs."""
    module = GatherExcite(7, extent=2, dims=dims)
    x = torch.randn(2, 7, *(5, 3, 11)[:dims]).to(dtype).requires_grad_()
    y = deepcopy(module).to(dtype)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), module.double()(x.double()), rtol=0.02, atol=0.02)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
