"""What the oracles share: plain Python mathematics, random values, and what a mechanism offers.

Oracles are written from the paper's equation as loops over Python numbers or float64 tensors; they use nothing of
`regard` but its classes' parameters.
"""

import itertools
import math

import torch

from regard.attention import offering


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


def softmax(numbers):
    """Of a list; what is None takes no part, and of nothing at all it is zeros."""
    highest = max((number for number in numbers if number is not None), default=0.0)
    powers = [0.0 if number is None else math.exp(number - highest) for number in numbers]
    return [power / (sum(powers) or 1.0) for power in powers]


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
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def draw_mask(shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) > 0.4


def offered(module, *inputs):
    """What the module gives, and its one offer."""
    offers = []
    with offering.listen(offers.append):
        y = module(*inputs)
    (offer,) = offers
    return y, offer


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def cells(spatial):
    return list(itertools.product(*(range(size) for size in spatial)))


def affine(layer, vector):
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [bias[o] + sum(weight[o][i] * vector[i] for i in range(len(vector))) for o in range(len(weight))]


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))
