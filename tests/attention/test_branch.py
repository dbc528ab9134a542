"""Branch attention against the papers' equations, written again as loops."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regard.attention import AttentionalFeatureFusion, SelectiveKernel, ShapeError, offering
from regard.attention.norm import BatchNorm


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def stirred(module):
    """Random parameters and running statistics, in double precision."""
    with torch.no_grad():
        for tensor in [*module.double().parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
        for name, parameter in module.named_parameters():
            if not name.endswith("bias"):
                parameter.sub_(0.5)
    return module


def watched(module, *inputs):
    offers = []
    with offering.listen(offers.append):
        y = module(*inputs)
    return y, {offer.fact.label: offer.weights for offer in offers}


def slow_norm(norm, x):
    """Batch normalisation, channel by channel."""
    y = torch.zeros_like(x)
    for c in range(x.shape[1]):
        mean, variance = norm.running_mean[c], norm.running_var[c]
        if norm.training:
            values = x[:, c].reshape(-1).tolist()
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
        y[:, c] = (x[:, c] - mean) / math.sqrt(variance + norm.eps) * norm.weight[c] + norm.bias[c]
    return y


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
    norm, x = stirred(BatchNorm(3)), doubles(*shape).requires_grad_()
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    expected = slow_norm(norm.eval(), x)
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


def slow_convolution(x, layer):
    """A grouped, strided, dilated convolution, tap by tap."""
    (k, _), stride, dilation, groups = layer.kernel_size, layer.stride[0], layer.dilation[0], layer.groups
    B, inputs, H, W = x.shape
    outputs, pad = layer.out_channels, dilation * (k // 2)
    h, w = math.ceil(H / stride), math.ceil(W / stride)
    y = torch.zeros(B, outputs, h, w, dtype=x.dtype)
    for o in range(outputs):
        group = o // (outputs // groups)
        for i in range(inputs // groups):
            for r in range(h):
                for c in range(w):
                    for dr in range(k):
                        for dc in range(k):
                            row, column = r * stride + dr * dilation - pad, c * stride + dc * dilation - pad
                            if 0 <= row < H and 0 <= column < W:
                                y[:, o, r, c] += (
                                    layer.weight[o, i, dr, dc] * x[:, group * (inputs // groups) + i, row, column]
                                )
    return y


@torch.no_grad()
def slow_sk(module, x):
    outputs = []
    for convolution in module.convolutions:
        outputs.append(slow_norm(convolution[1], slow_convolution(x, convolution[0])).clamp(min=0))
    B, C, h, w = outputs[0].shape
    s = sum(outputs).sum((2, 3)) / (h * w)
    z = torch.stack([module.squeeze[0].weight @ s[b] for b in range(B)])
    z = slow_norm(module.squeeze[1], z).clamp(min=0)
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
    module, x = stirred(SelectiveKernel(4, 6, **arguments)).train(training), doubles(2, 4, 5, 3)
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


@torch.no_grad()
def slow_bottleneck(layers, x):
    """`bn W2 relu bn W1` position by position."""
    flat = x.flatten(2)
    hidden = torch.stack([flat[:, :, n] @ layers[0].weight[..., 0].T for n in range(flat.shape[2])], 2)
    hidden = slow_norm(layers[1], hidden).clamp(min=0)
    out = torch.stack([hidden[:, :, n] @ layers[3].weight[..., 0].T for n in range(flat.shape[2])], 2)
    return slow_norm(layers[4], out)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("shape", [(3, 8, 5), (2, 8, 5, 3), (2, 8, 2, 3, 5)])
def test_aff(shape, variant, training):
    module = stirred(AttentionalFeatureFusion(8, variant=variant)).train(training)
    x, y = doubles(*shape), doubles(*shape)
    local = slow_bottleneck(module.local_context, x + y)
    pooled = slow_bottleneck(module.global_context, (x + y).flatten(2).mean(2, keepdim=True))
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
    torch.testing.assert_close(slow_convolution(x, layer), F.conv2d(x, layer.weight, None, 2, 2, 2, 2))
