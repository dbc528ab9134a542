"""Layers that several oracles need, one number, position or head at a time; `oracle.affine` is another."""

import math

import torch
from oracle import affine, cells, dot, softmax, weighted


def layer_norm(norm, vector):
    mean = sum(vector) / len(vector)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in vector) / len(vector) + norm.eps)
    gain, shift = norm.weight.tolist(), norm.bias.tolist()
    return [g * (number - mean) / deviation + s for g, number, s in zip(gain, vector, shift, strict=True)]


def running_norm(norm, vector):
    """Batch normalisation of one position, by the running statistics."""
    centred = [number - mean for number, mean in zip(vector, norm.running_mean.tolist(), strict=True)]
    deviations = [math.sqrt(variance + norm.eps) for variance in norm.running_var.tolist()]
    gain, shift = norm.weight.tolist(), norm.bias.tolist()
    return [g * z / deviation + s for g, z, deviation, s in zip(gain, centred, deviations, shift, strict=True)]


def batch_norm(norm, x):
    """Of `(B, C, *sizes)`, channel by channel; in training with the batch's statistics, but of a single value."""
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        numbers = x[:, c]
        mean, variance = norm.running_mean[c], norm.running_var[c]
        if norm.training and numbers.numel() > 1:
            mean = numbers.sum() / numbers.numel()
            variance = ((numbers - mean) ** 2).sum() / numbers.numel()
        y[:, c] = norm.weight[c] * (numbers - mean) / (variance + norm.eps) ** 0.5 + norm.bias[c]
    return y


def convolution(x, weight, bias=None, stride=1, dilation=1, groups=1):
    """Of `(C, *spatial)` or a batch of these, by odd kernels with zeros around the map, cell by cell."""
    sizes, spatial = weight.shape[2:], x.shape[2 - weight.ndim :]
    kernels = weight.unflatten(0, (groups, -1))
    y = torch.zeros(*x.shape[: -len(sizes) - 1], len(weight), *(-(-size // stride) for size in spatial), dtype=x.dtype)
    for cell in cells(y.shape[-len(sizes) :]):
        if bias is not None:
            y[(..., *cell)] += bias
        for offset in cells(sizes):
            at = tuple(stride * p + dilation * (o - k // 2) for p, o, k in zip(cell, offset, sizes, strict=True))
            if all(0 <= a < size for a, size in zip(at, spatial, strict=True)):
                values = x[(..., *at)].unflatten(-1, (groups, -1))
                y[(..., *cell)] += (kernels[(..., *offset)] @ values[..., None]).flatten(-3)
    return y


def convolve(layer, x):
    return convolution(x, layer.weight, layer.bias, layer.stride[0], layer.dilation[0], layer.groups)


def bottleneck(layers, x):
    """`bn W2 relu bn W1` position by position, of any map; gives `(B, C, N)`."""
    first, norm, _, last, last_norm = layers
    hidden = batch_norm(norm, convolve(first, x.flatten(2))).clamp(min=0)
    return batch_norm(last_norm, convolve(last, hidden))


def interpolated(x, sizes):
    """Linear interpolation of the last axes, one by one, between the centres of cells; the outer reach to the edge."""
    for axis, size in enumerate(sizes, start=x.ndim - len(sizes)):
        parts = []
        for i in range(size):
            place = min(max((i + 0.5) * x.shape[axis] / size - 0.5, 0.0), x.shape[axis] - 1.0)
            low = int(place)
            high = min(low + 1, x.shape[axis] - 1)
            parts.append(x.select(axis, low) * (1 - place + low) + x.select(axis, high) * (place - low))
        x = torch.stack(parts, axis)
    return x


def multi_head(module, queries, memory, some):
    """Multi-head attention of lists of vectors, and its map as [head][query][token]; `some` tells which pairs may."""
    keys, values = ([affine(layer, x) for x in memory] for layer in (module.key, module.value))
    read, maps = [[] for _ in queries], []
    d = len(values[0]) // module.heads
    for h in range(module.heads):
        cut = slice(h * d, (h + 1) * d)
        maps.append([])
        for t, query in enumerate(queries):
            q = affine(module.query, query)[cut]
            scores = [dot(q, key[cut]) / math.sqrt(d) if may else None for key, may in zip(keys, some[t], strict=True)]
            maps[h].append(softmax(scores))
            read[t] += weighted(maps[h][t], [value[cut] for value in values])
    return [affine(module.output, vector) for vector in read], maps
