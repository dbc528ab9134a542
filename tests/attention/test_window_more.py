"""Attention to points that move, against the papers' equations, written again as loops, and against PyTorch."""

import itertools
import math

import pytest
import torch
from oracle import affine, cells, count, dot, draw, draw_mask, gelu, offered, randomize, sigmoid, softmax
from slow_layers import layer_norm
from torch import nn

from regard.attention import DeformableAttention, MultiScaleDeformableAttention, ShapeError
from regard.attention.offering import Request


def hat(distance):
    return max(0.0, 1 - abs(distance))


def bilinear(row, column, spatial):
    """The share of every cell of a map in what is read there; row and column 0 are the middle of the first cell."""
    return {(i, j): hat(row - i) * hat(column - j) for i, j in cells(spatial)}


# Deformable attention


def slow_points(module, query, spatial):
    """Of every group the rows and columns, in cells of the map, where its points lie; `query` by cell."""
    rows, columns = (-(-size // module.stride) for size in spatial)
    weight, bias, k = module.near.weight.tolist(), module.near.bias.tolist(), module.kernel_size
    width = module.group_width
    points = []
    for g in range(module.groups):
        points.append([])
        for r, c in cells((rows, columns)):
            near = []
            for e in range(width):
                total = bias[e]
                for a, b in cells((k, k)):
                    cell = (r * module.stride + a - k // 2, c * module.stride + b - k // 2)
                    if cell in query:
                        total += weight[e][0][a][b] * query[cell][g * width + e]
                near.append(total)
            if isinstance(module.norm, nn.LayerNorm):
                near = layer_norm(module.norm, near)
            near = [gelu(z) for z in near]
            right, down = (module.offset_range * math.tanh(z) / 2 for z in affine(module.offset, near))
            # In cells of the points' grid, then of the map: edges lie on edges.
            row = (r + 0.5 + down) * spatial[0] / rows - 0.5
            column = (c + 0.5 + right) * spatial[1] / columns - 0.5
            points[-1].append((row, column))
    return points


def slow_deformable(module, x):
    spatial = tuple(x.shape[2:])
    where = cells(spatial)
    heads, width, T = module.heads, module.group_width, module.table_size
    d = module.channels // heads
    table = module.table.tolist()
    y, attention = torch.empty_like(x), torch.zeros(len(x), heads, len(where), len(where), dtype=x.dtype)
    for b in range(len(x)):
        image = {cell: x[(b, slice(None), *cell)].tolist() for cell in where}
        query = {cell: affine(module.query, vector) for cell, vector in image.items()}
        points = slow_points(module, query, spatial)
        read = []
        for m in range(len(points[0])):
            shares = [bilinear(*points[g][m], spatial) for g in range(module.groups)]
            sampled = [sum(shares[e // width][cell] * image[cell][e] for cell in where) for e in range(module.channels)]
            both = affine(module.key_value, sampled)
            read.append((both[: module.channels], both[module.channels :], shares))
        for i, cell in enumerate(where):
            gathered = []
            for h in range(heads):
                g, own = h * module.groups // heads, slice(h * d, (h + 1) * d)
                scores = []
                for m, (key, _, _) in enumerate(read):
                    offset = [(cell[axis] - points[g][m][axis]) / spatial[axis] * T for axis in (0, 1)]
                    shares = bilinear(offset[0] + T - 1, offset[1] + T - 1, (2 * T - 1, 2 * T - 1))
                    bias = sum(share * table[h][u][v] for (u, v), share in shares.items())
                    scores.append(dot(query[cell][own], key[own]) / math.sqrt(d) + bias)
                weights = softmax(scores)
                for j, other in enumerate(where):
                    attention[b, h, i, j] = sum(w * read[m][2][g][other] for m, w in enumerate(weights))
                gathered += [sum(w * read[m][1][own][e] for m, w in enumerate(weights)) for e in range(d)]
            y[(b, slice(None), *cell)] = torch.tensor(affine(module.output, gathered), dtype=x.dtype)
    return y, attention


@pytest.mark.parametrize(
    ("spatial", "arguments"),
    [
        ((3, 5), {}),
        ((3, 2), {"groups": 1, "offset_range": 3.0}),
        ((5, 3), {"stride": 2, "normalize": True}),
        ((1, 5), {"stride": 3, "kernel_size": 5, "table_size": 1}),
        ((1, 1), {}),
    ],
)
def test_deformable_is_the_equation(spatial, arguments):
    arguments = {"heads": 2, "groups": 2, "kernel_size": 3, "table_size": 3, **arguments}
    module, x = randomize(DeformableAttention(6, **arguments)), draw((2, 6, *spatial))
    with torch.no_grad():
        y, offer = offered(module, x)
        expected, attention = slow_deformable(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights(Request()), attention)
    assert offer.grid == spatial


def test_deformable_attention_that_does_not_move_is_self_attention():
    """Without offsets and biases every point is a position: `torch.nn.MultiheadAttention`."""
    module = randomize(DeformableAttention(8, heads=2, groups=2))
    peer = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        module.offset.weight.zero_()
        module.table.zero_()
        peer.in_proj_weight.copy_(torch.cat((module.query.weight, module.key_value.weight)))
        peer.in_proj_bias.copy_(torch.cat((module.query.bias, module.key_value.bias)))
        peer.out_proj.weight.copy_(module.output.weight)
        peer.out_proj.bias.copy_(module.output.bias)
    x = draw((2, 8, 3, 5))
    y, offer = offered(module, x)
    tokens = x.flatten(2).transpose(1, 2)
    expected, weights = peer(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(y.flatten(2).transpose(1, 2), expected)
    torch.testing.assert_close(offer.weights(Request()), weights)


def test_deformable_points_move_by_one_cell_at_most():
    module = randomize(DeformableAttention(6, heads=2, groups=2, kernel_size=3, normalize=True))
    with torch.no_grad():
        module.offset.weight *= 1e3
        points = module.points(draw((1, 6, 5, 7)))
    column, row = ((points[..., axis] + 1) * size / 2 - 0.5 for axis, size in enumerate((7, 5)))
    moved = torch.stack((column - torch.arange(7), row - torch.arange(5)[:, None])).abs()
    assert moved.max() <= 1 + 1e-9
    assert moved.max() > 0.9
    assert not torch.allclose(points[0], points[1])  # the groups go their own ways


def test_deformable_parameters_are_those_of_the_papers_third_stage():
    """Four projections of 384 channels, 3 groups of 128 sharing one network, 12 heads with tables of 27 by 27."""
    module = DeformableAttention(384)
    assert (module.heads, module.groups) == (12, 3)
    network = 128 * 25 + 128 + 2 * 128
    assert count(module) == 4 * (384 * 384 + 384) + network + 12 * 27 * 27


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 4}, "4 heads do not divide the width 6"),
        ({"heads": 2, "groups": 3}, r"groups=3 does not divide heads=2: choose groups among 1, 2\."),
        ({"kernel_size": 4}, "kernel_size=4, expected an odd whole number"),
        ({"stride": 0}, "stride=0"),
    ],
)
def test_deformable_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeformableAttention(6, **arguments)


# Multi-scale deformable attention


def slow_multi_scale(module, query, memory, levels, mask=None):
    B, T, N = len(query), query.shape[1], memory.shape[1]
    h, L, K = module.heads, len(levels), module.points
    d = module.width // h
    attention = torch.zeros(B, h, T, N, dtype=query.dtype)
    context = torch.empty(B, T, module.width, dtype=query.dtype)
    for b, t in itertools.product(range(B), range(T)):
        vector = query[b, t].tolist()
        place = [sigmoid(z) for z in affine(module.reference, vector)]  # x before y
        offset, score = affine(module.offset, vector), affine(module.weight, vector)
        values = [affine(module.value, token.tolist()) for token in memory[b]]
        gathered = []
        for i in range(h):
            weights = softmax(score[i * L * K : (i + 1) * L * K])
            first = 0
            for level, (rows, columns) in enumerate(levels):
                for k in range(K):
                    at = (i * L + level) * K + k
                    column = place[0] * columns + offset[2 * at] - 0.5
                    row = place[1] * rows + offset[2 * at + 1] - 0.5
                    for (u, v), share in bilinear(row, column, (rows, columns)).items():
                        n = first + u * columns + v
                        if mask is None or mask[b, n]:
                            attention[b, i, t, n] += weights[level * K + k] * share
                first += rows * columns
            read = attention[b, i, t].tolist()
            gathered += [sum(read[n] * values[n][i * d + e] for n in range(N)) for e in range(d)]
        context[b, t] = torch.tensor(affine(module.output, gathered), dtype=query.dtype)
    return context, attention


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("levels", [((3, 5), (2, 3), (1, 1)), ((2, 3),), None], ids=["three", "one", "row"])
def test_multi_scale_deformable_is_the_equation(levels, masked):
    module = randomize(MultiScaleDeformableAttention(5, 7, levels, width=6, heads=2, points=3))
    tokens = 11 if levels is None else sum(rows * columns for rows, columns in levels)
    query, memory = draw((2, 3, 5)), draw((2, tokens, 7))
    mask = draw_mask((2, tokens)) if masked else None
    with torch.no_grad():
        y, offer = offered(module, query, memory, mask)
        expected, attention = slow_multi_scale(module, query, memory, levels or [(1, tokens)], mask)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights(Request()), attention)
    assert attention.any()


def test_multi_scale_deformable_starts_on_rays_of_equal_weight():
    """The eight neighbours' directions, 1 to K positions out, however the queries look."""
    module = MultiScaleDeformableAttention(8, 5, [(3, 5), (7, 2)], points=2).double()
    query = draw((1, 2, 8))
    offset = module.offset(query).unflatten(2, (8, 2, 2, 2))  # heads, levels, points, x and y
    directions = {tuple(round(number) for number in ray) for ray in offset[0, 0, :, 0, 0].tolist()}
    assert directions == set(itertools.product((-1, 0, 1), (-1, 0, 1))) - {(0, 0)}
    torch.testing.assert_close(offset[..., 1, :], 2 * offset[..., 0, :])
    torch.testing.assert_close(offset[:, 0], offset[:, 1])
    assert not module.weight(query).any()


def test_multi_scale_deformable_does_not_leave_a_single_row_at_the_start():
    module = MultiScaleDeformableAttention(8, 5)
    assert not module.offset.bias.unflatten(0, (-1, 2))[:, 1].any()
    assert module.offset.bias.unflatten(0, (-1, 2))[:, 0].any()


def test_multi_scale_deformable_counts_the_parameters_of_the_published_layer():
    """Deformable DETR: 256 channels, 8 heads, 4 levels, 4 points: offsets, weights, value, output; and the place."""
    module = MultiScaleDeformableAttention(256, 256, [(8, 8), (4, 4), (2, 2), (1, 1)])
    assert count(module) - count(module.reference) == 257 * (256 + 128 + 256 + 256)


def test_multi_scale_deformable_refuses_a_memory_that_is_not_its_levels():
    module = MultiScaleDeformableAttention(8, 5, [(3, 5)])
    with pytest.raises(ShapeError, match="the tokens of the levels"):
        module(torch.randn(1, 2, 8), torch.randn(1, 14, 5))
    with pytest.raises(ValueError, match="3 heads do not divide the width 8"):
        MultiScaleDeformableAttention(8, 5, heads=3)
    with pytest.raises(ValueError, match="each a whole number from 1"):
        MultiScaleDeformableAttention(8, 5, [(3, 0)])
