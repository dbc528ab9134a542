"""Attention within parts of a map against the papers' equations, written again as loops, and the authors' forms."""

import itertools
import math

import pytest
import torch
from oracle import affine, cells, count, dot, draw, gelu, heard, offered, randomize, relu, softmax
from slow_layers import running_norm

from regard.attention import (
    AxialAttention,
    BiLevelRoutingAttention,
    ContextualTransformer,
    FocalModulation,
    GridAttention,
    HaloAttention,
    NeighbourhoodAttention,
    OutlookAttention,
    ShapeError,
    ShiftedWindowAttention,
    StandAloneSelfAttention,
)
from regard.attention.offering import Request

MECHANISMS = (
    ShiftedWindowAttention,
    AxialAttention,
    NeighbourhoodAttention,
    GridAttention,
    HaloAttention,
    OutlookAttention,
    ContextualTransformer,
    FocalModulation,
    StandAloneSelfAttention,
    BiLevelRoutingAttention,
)
SIZES = ((5, 7), (4, 6), (1, 7), (1, 1), (2, 3))


def vectors(x):
    """Of every image the vector of every cell."""
    return [{cell: x[(b, slice(None), *cell)].tolist() for cell in cells(x.shape[2:])} for b in range(len(x))]


def slow_attention(x, heads, projected, pairs, output):
    """Self-attention among the pairs of cells that `pairs(query, queries, keys, head)` scores; None takes no part.

    Args:
        projected: from a vector to query, key and value.
        pairs: from a query's cell, its vector, a key's cell and vector, and a head to the score.
        output: from all heads' contexts to the output's vector.
    """
    where = cells(x.shape[2:])
    attention = torch.zeros(len(x), heads, len(where), len(where), dtype=x.dtype)
    y = torch.empty_like(x)
    for b, image in enumerate(vectors(x)):
        parts = {cell: projected(vector) for cell, vector in image.items()}
        d = len(parts[where[0]][0]) // heads
        for i, cell in enumerate(where):
            gathered = []
            for h in range(heads):
                own = slice(h * d, (h + 1) * d)
                scores = [pairs(cell, parts[cell][0][own], other, parts[other][1][own], h) for other in where]
                weights = softmax(scores)
                attention[b, h, i] = torch.tensor(weights, dtype=x.dtype)
                gathered += [
                    sum(w * parts[other][2][own][e] for w, other in zip(weights, where, strict=True)) for e in range(d)
                ]
            y[(b, slice(None), *cell)] = torch.tensor(output(gathered), dtype=x.dtype)
    return y, attention


def thirds(layer):
    """From a vector to query, key and value, by one layer for all three."""

    def projected(vector):
        everything = affine(layer, vector)
        width = len(everything) // 3
        return [everything[part * width : (part + 1) * width] for part in range(3)]

    return projected


def agree(module, x, slow):
    """Output and map are those of the slow reference."""
    with torch.no_grad():
        y, offer = offered(module, x)
        expected, attention = slow(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights(Request()), attention)
    assert offer.grid == x.shape[2:]


# Shifted windows


def slow_shifted_window(module, x):
    M = module.window
    shifts = [module.shift if size > M else 0 for size in x.shape[2:]]

    def bias(offset, h):
        if module.version == "v1":
            return float(module.bias[(offset[0] + M - 1) * (2 * M - 1) + offset[1] + M - 1, h])
        if module.version == "v2":
            spaced = [math.copysign(math.log(1 + abs(delta)), delta) for delta in offset]
        else:
            spaced = [math.copysign(math.log(1 + 8 * abs(delta) / (M - 1), 8), delta) for delta in offset]
        hidden = relu(affine(module.continuous_bias[0], spaced))
        value = affine(module.continuous_bias[2], hidden)[h]
        return value if module.version == "v2" else 16 / (1 + math.exp(-value))

    def window(cell):  # windows of the map itself: nothing is rolled here
        return [(at - shift) // M for at, shift in zip(cell, shifts, strict=True)]

    biases = {(o, h): bias(o, h) for o in itertools.product(range(1 - M, M), repeat=2) for h in range(module.heads)}

    def score(cell, query, other, key, h):
        if window(cell) != window(other):
            return None
        offset = (cell[0] - other[0], cell[1] - other[1])
        if module.version == "v1":
            return dot(query, key) / math.sqrt(len(query)) + biases[offset, h]
        cosine = dot(query, key) / math.sqrt(dot(query, query) * dot(key, key))
        return cosine * min(math.exp(float(module.log_scale[h])), 100.0) + biases[offset, h]

    return slow_attention(x, module.heads, thirds(module.project), score, lambda vector: affine(module.output, vector))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window", "shift"), [(2, 0), (3, 1), (3, 2), (5, 2)])
def test_shifted_window_is_the_equation(size, window, shift):
    agree(randomize(ShiftedWindowAttention(6, window, shift, heads=2)), draw((2, 6, *size)), slow_shifted_window)


@pytest.mark.parametrize("version", ["v2", "v2_released"])
def test_shifted_window_has_a_second_version(version):
    module = randomize(ShiftedWindowAttention(6, 3, 1, heads=2, version=version))
    agree(module, draw((1, 6, 5, 4)), slow_shifted_window)


def test_the_temperature_of_shifted_window_has_a_floor():
    module = randomize(ShiftedWindowAttention(4, 2, heads=1, version="v2"))
    module.log_scale.data.fill_(9.0)
    agree(module, draw((1, 4, 3, 3)), slow_shifted_window)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("version", ["v1", "v2_released"])
def test_shifted_window_is_that_of_torchvision(shift, version):
    from torchvision.models import swin_transformer

    kind = {"v1": "ShiftedWindowAttention", "v2_released": "ShiftedWindowAttentionV2"}[version]
    theirs = randomize(getattr(swin_transformer, kind)(12, [5, 5], [shift, shift], 3))
    theirs.qkv.bias.data[12:24] = 0  # version 2 leaves out the bias of the keys
    ours = ShiftedWindowAttention(12, 5, shift, heads=3, version=version).double()
    names = {
        "project.weight": "qkv.weight",
        "project.bias": "qkv.bias",
        "output.weight": "proj.weight",
        "output.bias": "proj.bias",
    }
    if version == "v1":
        names["bias"] = "relative_position_bias_table"
    else:
        theirs.define_relative_position_bias_table()  # a buffer of coordinates, which was randomized
        theirs.relative_coords_table = theirs.relative_coords_table.double()
        names["log_scale"] = "logit_scale"
        names |= {f"continuous_bias.{part}": f"cpb_mlp.{part}" for part in ("0.weight", "0.bias", "2.weight")}
    ours.load_state_dict({mine: theirs.state_dict()[other] for mine, other in names.items()})
    x = draw((2, 12, 10, 15))
    expected = theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    tolerance = 1e-7 if version == "v1" else 1e-4  # their coordinates are in single precision
    torch.testing.assert_close(ours(x), expected, rtol=tolerance, atol=tolerance)


def test_the_padding_of_shifted_window_is_read_by_nobody():
    module = randomize(ShiftedWindowAttention(4, 4, 2, heads=1))
    with torch.no_grad():
        module.project.bias.fill_(30.0)  # what torchvision's padded places would have for keys and values
    agree(module, draw((1, 4, 5, 6)), slow_shifted_window)


def test_shifted_window_counts():
    assert count(ShiftedWindowAttention(96)) == 4 * 96 * 96 + 4 * 96 + 169 * 3  # Swin-T's first stage
    assert count(ShiftedWindowAttention(96, version="v2")) == 4 * 96 * 96 + 4 * 96 + 3 + 3 * 512 + 512 * 3
    assert ShiftedWindowAttention(768).heads == 24


# Axial


def slow_axial(module, x):
    attentions = []
    total = torch.zeros_like(x)
    for axis in range(2):

        def score(cell, query, other, key, h, axis=axis):
            if any(a != b for n, (a, b) in enumerate(zip(cell, other, strict=True)) if n != axis):
                return None
            return dot(query, key) / math.sqrt(len(query))

        read, attention = slow_attention(
            x, module.heads, thirds(module.project[axis]), score, lambda v, axis=axis: affine(module.output[axis], v)
        )
        attentions.append(attention)
        total = total + read
        if module.combine == "compose":
            x = read
    return x if module.combine == "compose" else total, attentions


@pytest.mark.parametrize("spatial", [(3, 4), (1, 5), (5, 2), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"combine": "sum"}, {"bias": True}])
def test_axial_is_the_equation(spatial, options):
    module = randomize(AxialAttention(6, heads=2, **options))
    x = draw((2, 6, *spatial))
    with torch.no_grad():
        y, offers = heard(module, x)
    expected, attentions = slow_axial(module, x)
    torch.testing.assert_close(y, expected)
    assert tuple(offer.fact.label for offer in offers) == ("height", "width")
    for offer, attention in zip(offers, attentions, strict=True):
        torch.testing.assert_close(offer.weights(Request()), attention)
        assert offer.grid == spatial


def test_axial_reaches_every_position_in_two_steps():
    module = randomize(AxialAttention(4))
    x = draw((1, 4, 5, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[0, :, 4, 0].sum(), x)
    assert gradient.abs().amax(1).min() > 0
    (gradient,) = torch.autograd.grad(randomize(AxialAttention(4, combine="sum"))(x)[0, :, 4, 0].sum(), x)
    assert not gradient[:, :, 0, 1].any()  # in one step only its row and column


def test_axial_counts():
    assert count(AxialAttention(64)) == 2 * 4 * 64 * 64
    assert count(AxialAttention(64, bias=True)) == 2 * 16_640
    assert AxialAttention(67).heads == 1
    assert AxialAttention(36).heads == 6


# Neighbourhoods


def slow_neighbourhood(module, x):
    k = module.kernel_size

    def neighbours(at, size):
        """The run of k positions of one rest, at most, whose middle is nearest."""
        line = [place for place in range(size) if (place - at) % module.dilation == 0]
        starts = range(max(1, len(line) - k + 1))
        start = min(starts, key=lambda start: abs(start + k // 2 - line.index(at)))
        return line[start : start + k]

    def score(cell, query, other, key, h):
        if any(b not in neighbours(a, size) for a, b, size in zip(cell, other, x.shape[2:], strict=True)):
            return None
        row, column = ((a - b) // module.dilation + k - 1 for a, b in zip(cell, other, strict=True))
        return dot(query, key) / math.sqrt(len(query)) + float(module.bias[h, row, column])

    return slow_attention(x, module.heads, thirds(module.project), score, lambda v: affine(module.output, v))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 2), (3, 3)])
def test_neighbourhood_is_the_equation(size, kernel_size, dilation):
    module = randomize(NeighbourhoodAttention(6, kernel_size, dilation, heads=2))
    agree(module, draw((1, 6, *size)), slow_neighbourhood)


def test_every_neighbourhood_has_as_many_positions():
    module = randomize(NeighbourhoodAttention(4, 3))
    _, offer = offered(module, draw((1, 4, 5, 7)))
    reads = offer.weights(Request())[0, 0] > 0
    assert (reads.sum(1) == 9).all()  # at the corners too
    assert reads.diagonal().all()
    assert reads[0].nonzero()[:, 0].tolist() == [0, 1, 2, 7, 8, 9, 14, 15, 16]


def test_a_neighbourhood_of_the_whole_map_is_self_attention():
    module = randomize(NeighbourhoodAttention(6, 5, heads=3))
    module.bias.data.zero_()
    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": module.project.weight,
            "in_proj_bias": module.project.bias,
            "out_proj.weight": module.output.weight,
            "out_proj.bias": module.output.bias,
        }
    )
    x = draw((2, 6, 5, 5))
    tokens = x.flatten(2).transpose(1, 2)
    expected = theirs(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, (5, 5))
    torch.testing.assert_close(module(x), expected)


# Grids and blocks


def slow_grid(module, x):
    G = module.size
    blocks = [-(-size // G) for size in x.shape[2:]]  # rows and columns between two positions of a grid

    def group(cell):
        """Which group, and which place in it."""
        if module.partition == "grid":
            return [a % step for a, step in zip(cell, blocks, strict=True)], [
                a // step for a, step in zip(cell, blocks, strict=True)
            ]
        return [a // G for a in cell], [a % G for a in cell]

    def score(cell, query, other, key, h):
        (mine, at), (theirs, to) = group(cell), group(other)
        if mine != theirs:
            return None
        offset = (at[0] - to[0] + G - 1) * (2 * G - 1) + at[1] - to[1] + G - 1
        return dot(query, key) / math.sqrt(len(query)) + float(module.bias[offset, h])

    return slow_attention(x, module.heads, thirds(module.project), score, lambda v: affine(module.output, v))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group", [2, 3])
@pytest.mark.parametrize("partition", ["grid", "block"])
def test_grid_is_the_equation(size, group, partition):
    agree(randomize(GridAttention(6, group, partition, heads=2)), draw((2, 6, *size)), slow_grid)


@pytest.mark.parametrize("partition", ["grid", "block"])
def test_grid_is_that_of_torchvision(partition):
    from torchvision.models import maxvit

    theirs = randomize(maxvit.RelativePositionalMultiHeadAttention(12, 4, 9))
    ours = GridAttention(12, 3, partition, heads=3).double()
    state = theirs.state_dict()
    weight, bias = state["to_qkv.weight"].clone(), state["to_qkv.bias"].clone()
    for part in (weight, bias):
        part[12:24] *= math.sqrt(4 / 12)  # they divide by the root of all channels, not of a head's
    ours.load_state_dict(
        {
            "project.weight": weight,
            "project.bias": bias,
            "output.weight": state["merge.weight"],
            "output.bias": state["merge.bias"],
            "bias": state["relative_position_bias_table"],
        }
    )
    x = draw((2, 12, 6, 6))
    groups = maxvit.WindowPartition()(x, 2 if partition == "grid" else 3)
    swap = (lambda x: x.transpose(1, 2)) if partition == "grid" else (lambda x: x)
    read = swap(theirs(swap(groups)))
    size, count_of = (2, 3) if partition == "grid" else (3, 2)
    torch.testing.assert_close(ours(x), maxvit.WindowDepartition()(read, size, count_of, count_of))


def test_a_grid_spans_the_map():
    _, offer = offered(randomize(GridAttention(4, 2)), draw((1, 4, 4, 6)))
    reads = offer.weights(Request())[0, 0, 0].nonzero()[:, 0].tolist()
    assert reads == [0, 3, 2 * 6, 2 * 6 + 3]


def test_a_block_is_a_window_without_shift():
    block, window = randomize(GridAttention(6, 3, "block")), ShiftedWindowAttention(6, 3).double()
    window.load_state_dict(block.state_dict())
    x = draw((2, 6, 7, 5))
    torch.testing.assert_close(block(x), window(x), rtol=0, atol=0)


# Halos


def slow_halo(module, x):
    b, s = module.block, module.halo

    def score(cell, query, other, key, h):
        if any(not -s <= there - here // b * b < b + s for here, there in zip(cell, other, strict=True)):
            return None
        row, column = (there - here + b + s - 1 for here, there in zip(cell, other, strict=True))
        place = zip(module.rows[row].tolist(), module.columns[column].tolist(), key, strict=True)
        return dot(query, [sum(parts) for parts in place]) / math.sqrt(len(query))

    return slow_attention(x, module.heads, thirds(module.project), score, lambda vector: vector)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("block", "halo"), [(2, 1), (3, 1), (3, 0), (1, 2), (4, 3)])
def test_halo_is_the_equation(size, block, halo):
    agree(randomize(HaloAttention(6, block, halo, heads=2)), draw((1, 6, *size)), slow_halo)


def test_halo_is_that_of_timm_away_from_the_borders():
    """They let the zeros around the map take part, which is the paper's masked-out padding turned into keys."""
    from timm.layers.halo_attn import HaloAttn

    theirs = randomize(HaloAttn(24, num_heads=3, block_size=3, halo_size=2, scale_pos_embed=True))
    ours = HaloAttention(24, 3, 2, heads=3).double()
    query = theirs.q.weight[:, :, 0, 0]
    memory = theirs.kv.weight[:, :, 0, 0].unflatten(0, (3, 2, 8))  # of every head, its keys and its values
    ours.load_state_dict(
        {
            "project.weight": torch.cat((query, memory[:, 0].flatten(0, 1), memory[:, 1].flatten(0, 1))),
            "rows": theirs.pos_embed.height_rel[4:],  # offsets that no pair has come first
            "columns": theirs.pos_embed.width_rel[4:],
        }
    )
    x = draw((2, 24, 9, 9))
    torch.testing.assert_close(ours(x)[:, :, 3:6, 3:6], theirs(x)[:, :, 3:6, 3:6])
    assert not torch.allclose(ours(x)[:, :, :3], theirs(x)[:, :, :3])


def test_halo_reads_no_padding():
    """The mask must leave out what is outside, not what is inside."""
    _, offer = offered(randomize(HaloAttention(4, 2, 1, heads=1)), draw((1, 4, 4, 4)))
    weights = offer.weights(Request())[0, 0]
    torch.testing.assert_close(weights.sum(1), torch.ones(16, dtype=torch.float64))
    assert weights[0].nonzero()[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]


# Outlooks


def slow_outlook(module, x):
    B, C, H, W = x.shape
    k, s, heads = module.kernel_size, module.stride, module.heads
    d, edge = C // heads, k // 2
    rows, columns = -(-H // s), -(-W // s)
    attention = torch.zeros(B, heads, rows, columns, k * k, k * k, dtype=x.dtype)
    gathered = torch.zeros_like(x)
    y = torch.empty_like(x)
    for b, image in enumerate(vectors(x)):
        values = {cell: affine(module.value, vector) for cell, vector in image.items()}
        for row, column in cells((rows, columns)):
            near = [image[r, c] for r, c in image if r // s == row and c // s == column]
            scores = affine(module.score, [sum(numbers) / len(near) for numbers in zip(*near, strict=True)])
            window = [(row * s + r - edge, column * s + c - edge) for r, c in cells((k, k))]
            for h, t in cells((heads, k * k)):
                start = (h * k * k + t) * k * k
                scale = 1 / math.sqrt(d) if module.scale != 1 else 1
                weights = softmax([scale * score for score in scores[start : start + k * k]])
                attention[b, h, row, column, t] = torch.tensor(weights, dtype=x.dtype)
                for e in range(h * d, (h + 1) * d):
                    if window[t] in image:
                        parts = zip(weights, window, strict=True)
                        gathered[(b, e, *window[t])] += sum(w * values[at][e] for w, at in parts if at in image)
        for cell in image:
            y[(b, slice(None), *cell)] = torch.tensor(affine(module.output, gathered[(b, slice(None), *cell)].tolist()))
    return y, attention


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"scaled": True}, {"stride": 2}, {"stride": 3}, {"kernel_size": 1}])
def test_outlook_is_the_equation(size, options):
    module = randomize(OutlookAttention(4, heads=2, **options))
    x = draw((1, 4, *size))
    with torch.no_grad():
        y, offer = offered(module, x)
        expected, attention = slow_outlook(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, attention)


@pytest.mark.parametrize("stride", [1, 2])
def test_outlook_is_that_of_timm(stride):
    from timm.models.volo import OutlookAttention as Theirs

    theirs = randomize(Theirs(12, 3, stride=stride))
    ours = OutlookAttention(12, stride=stride, heads=3, scaled=True).double()
    names = {"value": "v", "score": "attn", "output": "proj"}
    for mine, other in names.items():
        getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict())
    x = draw((2, 12, 7, 5))
    torch.testing.assert_close(ours(x), theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_outlook_counts():
    assert OutlookAttention(192).heads == 6  # VOLO-D1
    assert count(OutlookAttention(192)) == 192 * 192 + 192 * 81 * 6 + 81 * 6 + 192 * 192 + 192


# Contextual transformer


def slow_contextual_transformer(module, x):
    B, C, H, W = x.shape
    k, heads, part = module.kernel_size, module.heads, C // module.groups
    edge, K = k // 2, k * k
    attention = torch.zeros(B, heads, K, H, W, dtype=x.dtype)
    branch = torch.zeros(B, 2, C, dtype=x.dtype)
    y = torch.empty_like(x)
    for b, image in enumerate(vectors(x)):
        static, values, dynamic = {}, {}, {}
        for at, vector in image.items():
            static[at] = [0.0] * C
            for c in range(C):
                for (r, s), i in itertools.product(cells((k, k)), range(part)):
                    there = image.get((at[0] + r - edge, at[1] + s - edge))
                    if there is not None:
                        static[at][c] += float(module.key[0].weight[c, i, r, s]) * there[c // part * part + i]
            static[at] = relu(running_norm(module.key[1], static[at]))
            values[at] = running_norm(module.value[1], affine(module.value[0], vector))
            hidden = relu(running_norm(module.score[0], affine(module.join, static[at] + vector)))
            scores = torch.tensor(affine(module.score[2], hidden), dtype=x.dtype).reshape(heads, K)
            attention[(b, slice(None), slice(None), *at)] = scores
        if module.variant == "softmax":
            for h, at in itertools.product(range(heads), image):
                row = softmax(attention[(b, h, slice(None), *at)].tolist())
                attention[(b, h, slice(None), *at)] = torch.tensor(row, dtype=x.dtype)
        if module.variant == "released":
            norm = module.score[3]
            for h in range(heads):
                numbers = attention[b, h]
                variance = (numbers - numbers.mean()).square().mean()
                scale, shift = (p[h * K : (h + 1) * K, None, None] for p in (norm.weight, norm.bias))
                attention[b, h] = scale * (numbers - numbers.mean()) / (variance + norm.eps).sqrt() + shift
        for at in image:
            dynamic[at] = [0.0] * C
            for n, (r, s) in enumerate(cells((k, k))):
                there = values.get((at[0] + r - edge, at[1] + s - edge), [0.0] * C)
                for c in range(C):
                    dynamic[at][c] += float(attention[(b, c // (C // heads), n, *at)]) * there[c]
            if module.variant == "released":
                normal = running_norm(module.activate[0], dynamic[at])
                dynamic[at] = [number / (1 + math.exp(-number)) for number in normal]
        mean = [sum(static[at][c] + dynamic[at][c] for at in image) / len(image) for c in range(C)]
        hidden = relu(running_norm(module.squeeze[1], affine(module.squeeze[0], mean)))
        logits = affine(module.select, hidden)
        for c in range(C):
            gates = softmax([logits[c], logits[C + c]])
            branch[b, :, c] = torch.tensor(gates, dtype=x.dtype)
            for at in image:
                y[(b, c, *at)] = gates[0] * static[at][c] + gates[1] * dynamic[at][c]
    return y, attention, branch


@pytest.mark.parametrize(("size", "kernel_size"), [((3, 4), 3), ((1, 5), 3), ((1, 1), 3), ((2, 3), 5)])
@pytest.mark.parametrize("variant", ["paper", "softmax", "released"])
def test_contextual_transformer_is_the_equation(size, kernel_size, variant):
    module = ContextualTransformer(6, kernel_size, heads=3, groups=2, minimum_width=5, variant=variant)
    module = randomize(module).eval()
    x = draw((2, 6, *size))
    with torch.no_grad():
        y, offers = heard(module, x)
        expected, attention, branch = slow_contextual_transformer(module, x)
    maps = {offer.fact.label: offer for offer in offers}
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(maps["attention"].weights, attention)
    torch.testing.assert_close(maps["branch"].weights, branch)
    assert maps["attention"].fact.sums_to_one == (("neighbour",) if variant == "softmax" else ())


def test_contextual_transformer_reads_its_neighbourhood_alone():
    """A softmax over all positions of averaged weights is a common mistake; here what is far has one way, the mean."""
    module = randomize(ContextualTransformer(8, kernel_size=3)).eval()
    module.select.weight.data.zero_()
    x = draw((1, 8, 1, 9)).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[0, :, 0, 2].sum(), x)
    # The weights depend on the neighbours, and the values are theirs: nothing else.
    assert gradient[0, :, 0].abs().amax(0).ne(0).tolist() == [False, True, True, True, *[False] * 5]


def test_contextual_transformer_has_the_authors_widths():
    module = ContextualTransformer(256)
    assert (module.heads, module.groups, module.hidden_channels, module.fusion_channels) == (32, 4, 128, 128)
    assert ContextualTransformer(67).groups == 1
    assert [ContextualTransformer(8, variant=variant).select.bias is not None for variant in ("paper", "released")] == [
        False,
        True,
    ]


# Focal modulation


def slow_focal_modulation(module, x):
    B, C, *spatial = x.shape
    L = module.levels
    gates = torch.zeros(B, L + 1, *spatial, dtype=x.dtype)
    y = torch.empty_like(x)
    for b, image in enumerate(vectors(x)):
        projected = {at: affine(module.project, vector) for at, vector in image.items()}
        context = {at: vector[C : 2 * C] for at, vector in projected.items()}
        total = {at: [0.0] * C for at in image}
        for level in range(L + 1):
            if level < L:
                weight = module.convolutions[level].weight
                edge = weight.shape[2] // 2
                following = {}
                for at, c in itertools.product(image, range(C)):
                    number = 0.0
                    for offset in cells(weight.shape[2:]):
                        there = tuple(p + o - edge for p, o in zip(at, offset, strict=True))
                        if there in image:
                            number += float(weight[(c, 0, *offset)]) * context[there][c]
                    following.setdefault(at, []).append(gelu(number))
                context = following
            else:
                mean = [gelu(sum(vector[c] for vector in context.values()) / len(image)) for c in range(C)]
                context = dict.fromkeys(image, mean)
            for at in image:
                gate = projected[at][2 * C + level]
                gates[(b, level, *at)] = gate
                total[at] = [t + gate * z for t, z in zip(total[at], context[at], strict=True)]
        for at in image:
            if module.normalized:
                total[at] = [number / (L + 1) for number in total[at]]
            product = [q * m for q, m in zip(projected[at], affine(module.modulate, total[at]), strict=False)]
            y[(b, slice(None), *at)] = torch.tensor(affine(module.output, product), dtype=x.dtype)
    return y, gates


@pytest.mark.parametrize("spatial", [(3, 4), (1, 1), (5,), (2, 3, 2)])
@pytest.mark.parametrize("options", [{}, {"levels": 1}, {"normalized": True}])
def test_focal_modulation_is_the_equation(spatial, options):
    module = randomize(FocalModulation(3, dims=len(spatial), **options))
    x = draw((2, 3, *spatial))
    with torch.no_grad():
        y, offer = offered(module, x)
        expected, gates = slow_focal_modulation(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, gates)


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("normalized", [False, True])
def test_focal_modulation_is_that_of_timm(levels, normalized):
    from timm.models.focalnet import FocalModulation as Theirs

    theirs = randomize(Theirs(6, 3, levels, normalize_modulator=normalized))
    ours = FocalModulation(6, levels, normalized=normalized).double()
    for mine, other in {"project": "f", "modulate": "h", "output": "proj"}.items():
        getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict())
    for mine, other in zip(ours.convolutions, theirs.focal_layers, strict=True):
        mine.load_state_dict(other[0].state_dict())
    x = draw((2, 6, 7, 5))
    torch.testing.assert_close(ours(x), theirs(x))
    assert count(ours) == count(theirs)


# Stand-alone


def slow_stand_alone(module, x):
    edge = module.kernel_size // 2

    def score(cell, query, other, key, h):
        offset = [there - here for here, there in zip(cell, other, strict=True)]
        if any(abs(delta) > edge for delta in offset):
            return None
        place = module.rows[h, offset[0] + edge].tolist() + module.columns[h, offset[1] + edge].tolist()
        return (dot(query, key) + dot(query, place)) / (1 if module.scale == 1 else math.sqrt(len(query)))

    return slow_attention(x, module.heads, thirds(module.project), score, lambda vector: vector)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel_size", "heads"), [(1, 3), (3, 3), (5, 2)])
@pytest.mark.parametrize("scaled", [False, True])
def test_stand_alone_is_the_equation(size, kernel_size, heads, scaled):
    module = randomize(StandAloneSelfAttention(6, kernel_size, heads=heads, scaled=scaled))
    agree(module, draw((1, 6, *size)), slow_stand_alone)


def test_stand_alone_counts():
    assert count(StandAloneSelfAttention(64)) == 3 * 64 * 64 + 7 * 64
    assert StandAloneSelfAttention(64).heads == 8


# Bi-level routing


def slow_bi_level_routing(module, x):
    S, C, d = module.regions, module.channels, module.channels // module.heads
    sides = [-(-size // S) for size in x.shape[2:]]
    edge = module.kernel_size // 2
    where = cells(x.shape[2:])
    attention = torch.zeros(len(x), module.heads, len(where), len(where), dtype=x.dtype)
    y = torch.empty_like(x)
    for b, image in enumerate(vectors(x)):
        parts = {cell: thirds(module.project)(vector) for cell, vector in image.items()}
        members = {}
        for cell in where:
            members.setdefault((cell[0] // sides[0], cell[1] // sides[1]), []).append(cell)

        def mean(region, part, parts=parts, members=members):
            inside = members[region]
            return [sum(parts[cell][part][c] for cell in inside) / len(inside) for c in range(C)]

        for region, inside in members.items():
            affinity = {other: dot(mean(region, 0), mean(other, 1)) for other in members}
            best = sorted(affinity, key=lambda other, affinity=affinity: -affinity[other])[: module.top]
            chosen = {cell for other in best for cell in members[other]}
            for cell in inside:
                gathered = []
                for h in range(module.heads):
                    own = slice(h * d, (h + 1) * d)
                    weights = softmax(
                        [
                            dot(parts[cell][0][own], parts[other][1][own]) / math.sqrt(d) if other in chosen else None
                            for other in where
                        ]
                    )
                    attention[b, h, where.index(cell)] = torch.tensor(weights, dtype=x.dtype)
                    for e in range(h * d, (h + 1) * d):
                        local = float(module.local.bias[e])
                        for r, s in cells((module.kernel_size, module.kernel_size)):
                            near = (cell[0] + r - edge, cell[1] + s - edge)
                            if near in parts:
                                local += float(module.local.weight[e, 0, r, s]) * parts[near][2][e]
                        pairs = zip(weights, where, strict=True)
                        gathered.append(local + sum(w * parts[other][2][e] for w, other in pairs))
                y[(b, slice(None), *cell)] = torch.tensor(affine(module.output, gathered), dtype=x.dtype)
    return y, attention


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("regions", "top"), [(2, 1), (2, 2), (3, 4), (1, 1)])
def test_bi_level_routing_is_the_equation(size, regions, top):
    module = randomize(BiLevelRoutingAttention(4, regions, top, kernel_size=3, heads=2))
    agree(module, draw((2, 4, *size)), slow_bi_level_routing)


def test_choosing_all_regions_reads_the_whole_map():
    module = randomize(BiLevelRoutingAttention(6, 3, 9, heads=2))
    _, offer = offered(module, draw((1, 6, 5, 7)))
    assert (offer.weights(Request()) > 0).all()


def test_bi_level_routing_offers_only_what_is_asked_for():
    _, offer = offered(randomize(BiLevelRoutingAttention(6, 2, 2, heads=3)), draw((2, 6, 5, 3)))
    whole = offer.weights(Request())
    torch.testing.assert_close(offer.weights(Request(heads=(2, 0), queries=(7, 1))), whole[:, [2, 0]][:, :, [7, 1]])


# All of them


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ShiftedWindowAttention(6, window=3, shift=3), "0 to 2"),
        (lambda: ShiftedWindowAttention(6, version="v3"), "'v1', 'v2' or 'v2_released'"),
        (lambda: AxialAttention(6, combine="mean"), "'compose' or 'sum'"),
        (lambda: NeighbourhoodAttention(6, kernel_size=4), "odd"),
        (lambda: NeighbourhoodAttention(6, dilation=0), "from 1 to"),
        (lambda: GridAttention(6, partition="window"), "'grid' or 'block'"),
        (lambda: HaloAttention(6, halo=-1), "from 0"),
        (lambda: OutlookAttention(6, kernel_size=2), "odd"),
        (lambda: OutlookAttention(6, stride=4), "1 to 3"),
        (lambda: ContextualTransformer(6, kernel_size=2), "odd"),
        (lambda: ContextualTransformer(6, variant="other"), "'paper', 'softmax' or 'released'"),
        (lambda: FocalModulation(6, levels=0), "from 1 to"),
        (lambda: FocalModulation(6, kernel_size=2), "odd"),
        (lambda: FocalModulation(6, dims=4), "1, 2 or 3"),
        (lambda: BiLevelRoutingAttention(6, regions=2, top=5), "1 to 4"),
        (lambda: BiLevelRoutingAttention(6, kernel_size=2), "odd"),
        (lambda: StandAloneSelfAttention(6, kernel_size=2), "odd"),
        (lambda: ShiftedWindowAttention(6, heads=4), "among 1, 2, 3, 6"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_other_channels_are_refused(mechanism):
    with pytest.raises(ShapeError, match=mechanism.__name__):
        mechanism(8)(torch.zeros(2, 9, 4, 4))
