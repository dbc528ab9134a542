"""Branch attention against the papers' equations, written again as loops."""

import math

import pytest
import torch
from oracle import doubles, randomize, watched
from slow_layers import batch_norm, bottleneck, convolve
from torch import nn
from torch.nn import functional as F

from regard.attention import AttentionalFeatureFusion, SelectiveKernel, ShapeError
from regard.attention.norm import BatchNorm

# Normalisation


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2), (2, 3, 5, 7), (1, 3, 2), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_torch_s(shape, affine):
    ours, x = BatchNorm(3, eps=1e-3, momentum=0.3, affine=affine), torch.randn(shape)
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](
        3, 1e-3, 0.3, affine
    )
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_batch_norm_of_a_single_value_takes_the_running_statistics(shape):
    norm, x = randomize(BatchNorm(3)), doubles(*shape).requires_grad_()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    expected = batch_norm(norm.eval(), x)
    found = norm.train()(x)
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    found.sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.usefixtures("unchecked_shapes")
def test_batch_norm_refuses_another_channel_count():
    for shape in ((4, 5), (1, 5), (4,)):
        with pytest.raises(ValueError, match=r"\(batch, 3, \*spatial\)"):
            BatchNorm(3)(torch.randn(shape))


# Selective kernel


@torch.no_grad()
def slow_sk(module, x):
    outputs = []
    for convolution in module.convolutions:
        outputs.append(batch_norm(convolution[1], convolve(convolution[0], x)).clamp(min=0))
    B, C, h, w = outputs[0].shape
    s = sum(outputs).sum((2, 3)) / (h * w)
    z = torch.stack([module.squeeze[0].weight @ s[b] for b in range(B)])
    z = batch_norm(module.squeeze[1], z).clamp(min=0)
    R = len(outputs)
    weights, y = torch.zeros(B, R, C, dtype=x.dtype), torch.zeros(B, C, h, w, dtype=x.dtype)
    for b in range(B):
        for c in range(C):
            exponentials = [math.exp(float(module.select.weight[r * C + c] @ z[b])) for r in range(R)]
            for r in range(R):
                weights[b, r, c] = exponentials[r] / sum(exponentials)
                y[b, c] += weights[b, r, c] * outputs[r][b, c]
    return weights, y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stride": 2},
        {"groups": 2, "branches": 3},
        {"kernel_size": 5},
        {"minimum_width": 2, "reduction": 3},
        {"branches": 1},
    ],
    ids=str,
)
def test_sk(arguments, training):
    module, x = randomize(SelectiveKernel(4, 6, **arguments)).train(training), doubles(2, 4, 5, 3)
    weights, expected = slow_sk(module, x)
    found, maps = watched(module, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(maps["branch"], weights)


def test_sk_width_of_the_bottleneck():
    assert SelectiveKernel(8, 1024).hidden_channels == 64
    assert SelectiveKernel(8, 1024, reduction=8).hidden_channels == 128
    assert SelectiveKernel(8, 64).hidden_channels == 32
    assert SelectiveKernel(8, 64, minimum_width=3).hidden_channels == 4


def test_sk_trains_on_one_image():
    module, x = SelectiveKernel(4, 6), torch.randn(1, 4, 5, 3)
    module(x).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_sk_is_refused_an_even_kernel():
    with pytest.raises(ValueError, match="odd"):
        SelectiveKernel(4, 6, kernel_size=4)


# Attentional feature fusion


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("shape", [(3, 8, 5), (2, 8, 5, 3), (2, 8, 2, 3, 5)])
def test_aff(shape, variant, training):
    module = randomize(AttentionalFeatureFusion(8, variant=variant)).train(training)
    x, y = doubles(*shape), doubles(*shape)
    local = bottleneck(module.local_context, x + y)
    pooled = bottleneck(module.global_context, (x + y).flatten(2).mean(2, keepdim=True))
    gate = (1 / (1 + (-(local + pooled)).exp())).reshape(shape)
    expected = gate * x + (1 - gate) * y
    found, maps = watched(module, x, y)
    torch.testing.assert_close(found, 2 * expected if variant == "code" else expected)
    torch.testing.assert_close(maps["gate"], gate)


def test_aff_width_of_the_bottleneck():
    assert AttentionalFeatureFusion(64).hidden_channels == 16
    assert AttentionalFeatureFusion(64, reduction=8).hidden_channels == 8
    assert AttentionalFeatureFusion(3).hidden_channels == 1


@pytest.mark.parametrize("shape", [(1, 8, 5, 3), (1, 8, 1, 1)])
def test_aff_trains_on_one_pair(shape):
    module = AttentionalFeatureFusion(8)
    module(torch.randn(shape), torch.randn(shape)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.usefixtures("unchecked_shapes")
def test_aff_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="'paper' or 'code'"):
        AttentionalFeatureFusion(8, variant="double")
    with pytest.raises(ShapeError, match="one shape"):
        AttentionalFeatureFusion(8)(torch.randn(2, 8, 5, 3), torch.randn(2, 8, 3, 5))


def test_slow_convolution_is_torch_s():
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False).double()
    x = doubles(2, 4, 7, 5)
    torch.testing.assert_close(convolve(layer, x), F.conv2d(x, layer.weight, None, 2, 2, 2, 2))
