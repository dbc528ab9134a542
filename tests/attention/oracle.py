"""What the oracles share: plain Python mathematics, random values, and what a mechanism offers.

Oracles are written from the paper's equation as loops over Python numbers or float64 tensors; they use nothing of
`regard` but its classes' parameters.
"""

import itertools
import math

import torch

from regard.attention import offering
from regard.attention.offering import Request

WIDTHS = (64, 256, 512, 1024, 2048)
RESNET_50 = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3  # how many channels each block gives


# Numbers and lists of them


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


def gelu(number):
    return number * (1 + math.erf(number / math.sqrt(2))) / 2


def relu(numbers):
    return [max(0.0, number) for number in numbers]


def tanh(numbers):
    return [math.tanh(number) for number in numbers]


def softmax(numbers):
    """Of a list; what is None takes no part, and of nothing at all it is zeros."""
    highest = max((number for number in numbers if number is not None), default=0.0)
    powers = [0.0 if number is None else math.exp(number - highest) for number in numbers]
    return [power / (sum(powers) or 1.0) for power in powers]


def plus(*vectors):
    return [sum(numbers) for numbers in zip(*vectors, strict=True)]


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def weighted(weights, vectors):
    return [dot(weights, column) for column in zip(*vectors, strict=True)]


def cells(spatial):
    return list(itertools.product(*(range(size) for size in spatial)))


def channel_means(image):
    """Of one example `(C, *spatial)`."""
    return [sum(numbers) / len(numbers) for numbers in image.flatten(1).tolist()]


def affine(layer, vector):
    """A linear layer, or a convolution of size one."""
    weight = layer.weight.flatten(1).tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [shift + dot(row, vector) for row, shift in zip(weight, bias, strict=True)]


# Modules and random values


def having(mechanism, **options):
    """How to build it for a channel count, with these arguments."""
    return lambda channels: mechanism(channels, **options)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def randomize(module):
    """Random values everywhere, statistics of normalisation included, in double precision."""
    generator = torch.Generator().manual_seed(1)
    module.double()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.abs_().add_(0.3)
    return module


def draw(shape):
    """The same numbers whenever the shape is the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def doubles(*shape):
    """Other numbers at every call."""
    return torch.randn(*shape, dtype=torch.float64)


def draw_mask(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) > 0.4


# What a mechanism gives, and what it offers meanwhile


def heard(module, *inputs, **options):
    """What the module gives, and its offers."""
    offers = []
    with offering.listen(offers.append):
        y = module(*inputs, **options)
    return y, offers


def offered(module, *inputs, **options):
    """What the module gives, and its one offer."""
    y, (offer,) = heard(module, *inputs, **options)
    return y, offer


def weights_of(offer, request=None):
    """All that is offered, or the part that is requested of what is made on request."""
    return offer.weights(request or Request()) if callable(offer.weights) else offer.weights


def watched(module, *inputs, request=None, **options):
    """What the module gives, and its maps by label."""
    y, offers = heard(module, *inputs, **options)
    return y, {offer.fact.label: weights_of(offer, request) for offer in offers}


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64))


def compare(module, x, expected, *mask):
    """The output and the one offered map are the expected ones."""
    with torch.no_grad():
        y, offer = offered(module, x, *mask)
        weights = weights_of(offer)
    torch.testing.assert_close(y, expected[0].detach())
    torch.testing.assert_close(weights, expected[1].detach())
    return offer
