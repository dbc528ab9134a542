"""Channel attention against the papers' equations, written again as loops, and against published counts."""

import pytest
import torch
from oracle import WIDTHS, channel_means, count, draw, randomize, sigmoid, watched

from regard.attention import EfficientChannelAttention, ShapeError, SqueezeExcitation

SHAPES = ((2, 7, 5, 3), (2, 11, 13), (1, 7, 1, 1), (2, 7, 2, 3, 5))


def slow_se(module, x):
    gates = torch.zeros(x.shape[:2], dtype=x.dtype)
    w1, w2 = module.squeeze.weight.tolist(), module.excite.weight.tolist()
    b1 = [0.0] * len(w1) if module.squeeze.bias is None else module.squeeze.bias.tolist()
    b2 = [0.0] * len(w2) if module.excite.bias is None else module.excite.bias.tolist()
    for b in range(x.shape[0]):
        s = channel_means(x[b])
        hidden = [max(0.0, b1[j] + sum(w1[j][c] * s[c] for c in range(len(s)))) for j in range(len(w1))]
        for c in range(len(s)):
            gates[b, c] = sigmoid(b2[c] + sum(w2[c][j] * hidden[j] for j in range(len(hidden))))
    return gates


def slow_eca(module, x):
    gates = torch.zeros(x.shape[:2], dtype=x.dtype)
    weights = module.mix.weight.reshape(-1).tolist()
    middle = len(weights) // 2
    for b in range(x.shape[0]):
        means = channel_means(x[b])
        for c in range(len(means)):
            total = 0.0
            for j, weight in enumerate(weights):
                neighbour = c + j - middle
                if 0 <= neighbour < len(means):
                    total += weight * means[neighbour]
            gates[b, c] = sigmoid(total)
    return gates


def apply_by_loop(gates, x):
    y = torch.empty_like(x)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            y[b, c] = float(gates[b, c]) * x[b, c]
    return y


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", [2, 3, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_se_is_the_equation(shape, reduction, bias):
    module = randomize(SqueezeExcitation(shape[1], reduction=reduction, bias=bias))
    x = draw(shape)
    y, maps = watched(module, x)
    expected = slow_se(module, x)
    torch.testing.assert_close(maps["channel"], expected)
    torch.testing.assert_close(y, apply_by_loop(expected, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel_size", [None, 1, 3, 5, 9])
def test_eca_is_the_equation(shape, kernel_size):
    module = randomize(EfficientChannelAttention(shape[1], kernel_size=kernel_size))
    x = draw(shape)
    y, maps = watched(module, x)
    expected = slow_eca(module, x)
    torch.testing.assert_close(maps["channel"], expected)
    torch.testing.assert_close(y, apply_by_loop(expected, x))


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (SqueezeExcitation, (580, 8_464, 33_312, 132_160, 526_464)),
        (lambda channels: SqueezeExcitation(channels, bias=False), (512, 8_192, 32_768, 131_072, 524_288)),
        (EfficientChannelAttention, (3, 5, 5, 5, 7)),
        (lambda channels: EfficientChannelAttention(channels, kernel_size=3), (3, 3, 3, 3, 3)),
    ],
)
def test_parameter_counts_are_the_published_ones(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


@pytest.mark.parametrize("channels", range(1, 70))
def test_eca_kernel_is_odd_and_follows_the_channel_count(channels):
    kernel_size = EfficientChannelAttention(channels).kernel_size
    assert kernel_size % 2 == 1
    assert (kernel_size == 1) == (channels < 8)
    assert kernel_size <= max(1, channels)


@pytest.mark.parametrize("kernel_size", [-1, 0, 2, 4])
def test_eca_refuses_a_kernel_without_a_middle(kernel_size):
    with pytest.raises(ValueError, match="odd"):
        EfficientChannelAttention(8, kernel_size=kernel_size)


@pytest.mark.parametrize("mechanism", [SqueezeExcitation, EfficientChannelAttention])
def test_gates_do_not_depend_on_the_order_of_positions(mechanism):
    module = randomize(mechanism(64))
    x = draw((2, 64, 17))
    order = torch.randperm(17, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("mechanism", [SqueezeExcitation, EfficientChannelAttention])
def test_another_channel_count_is_refused(mechanism):
    with pytest.raises(ShapeError, match="9"):
        mechanism(8)(torch.zeros(2, 9, 4, 4))


def test_the_bottleneck_has_at_least_one_channel_and_no_more_than_it_must():
    assert SqueezeExcitation(3).hidden_channels == 1
    assert SqueezeExcitation(31).hidden_channels == 1
    assert SqueezeExcitation(32).hidden_channels == 2
