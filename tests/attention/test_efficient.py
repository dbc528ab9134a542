"""Efficient attention against the papers' equations, written again without the library, and against timm and PyTorch.

The references take the projections apart by hand and compute in double precision, pair by pair where the library never
forms a pair.
"""

import itertools
import math

import pytest
import torch
from oracle import WIDTHS, affine, compare, count, dot, draw, draw_mask, offered, randomize, softmax
from reading import masked

from regard import functional
from regard.attention import (
    CosineAttention,
    DifferentialAttention,
    EfficientAttention,
    EntmaxSelfAttention,
    GroupedQueryAttention,
    LinearAttention,
    LinformerAttention,
    MultiHeadSelfAttention,
    MultiScaleLinearAttention,
    PerformerAttention,
    PoolingMixer,
    SeparableSelfAttention,
    SpatialReductionAttention,
)
from regard.attention.offering import Request

TOKENS = [((2, 7, 6), 3), ((1, 1, 6), 2), ((2, 11, 5), 1)]


def parts(module, x):
    """Query, key and value of every head, `(B, h, N, d)` each, taken apart one number at a time."""
    B, N, C = x.shape
    d = C // module.heads
    z = torch.einsum("bnc,oc->bno", x, module.project.weight)
    z = (z if module.project.bias is None else z + module.project.bias).detach()
    taken = torch.zeros(3, B, module.heads, N, d, dtype=x.dtype)
    for part, h, e in itertools.product(range(3), range(module.heads), range(d)):
        taken[part, :, h, :, e] = z[:, :, part * C + h * d + e]
    return taken


def joined(module, heads):
    """The output projection of what the heads read, `(B, h, N, d)`."""
    B, h, N, d = heads.shape
    side_by_side = torch.zeros(B, N, h * d, dtype=heads.dtype)
    for i, e in itertools.product(range(h), range(d)):
        side_by_side[:, :, i * d + e] = heads[:, i, :, e]
    y = torch.einsum("bnc,oc->bno", side_by_side, module.output.weight)
    return y if module.output.bias is None else y + module.output.bias


def attend(module, x, similarity, mask=None, causal=False):
    """Output and weights of attention whose weights are `similarity(query, key)` over the sum of all."""
    query, key, value = parts(module, x)
    B, h, N, _ = query.shape
    weights = torch.zeros(B, h, N, N, dtype=x.dtype)
    for b, i, t, n in itertools.product(range(B), range(h), range(N), range(N)):
        if (mask is None or mask[b, n]) and (n <= t or not causal):
            weights[b, i, t, n] = similarity(query[b, i, t], key[b, i, n])
    total = weights.sum(3, keepdim=True)
    weights = torch.where(total == 0, 0.0, weights / torch.where(total == 0, 1.0, total))
    return joined(module, torch.einsum("bhtn,bhnd->bhtd", weights, value)), weights


# Linear


def elu_product(query, key):
    def feature(z):
        return z + 1 if z > 0 else math.exp(z)

    return sum(feature(a) * feature(b) for a, b in zip(query.tolist(), key.tolist(), strict=True))


@pytest.mark.parametrize(("shape", "heads"), TOKENS)
@pytest.mark.parametrize("causal", [False, True])
@masked
def test_linear_is_the_equation(shape, heads, causal, masked):
    module = randomize(LinearAttention(shape[2], heads=heads, causal=causal, bias=not causal))
    x = draw(shape)
    mask = draw_mask(shape[:2]) if masked else None
    compare(module, x, attend(module, x, elu_product, mask, causal), mask)


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_the_causal_product_is_the_same_in_chunks_of_any_size(chunk):
    query, key, value = draw((3, 2, 5, 7, 3)).abs()
    expected = torch.zeros_like(value)
    for t, n in itertools.product(range(7), range(7)):
        if n <= t:
            expected[:, :, t] += (query[:, :, t] * key[:, :, n]).sum(-1, keepdim=True) * value[:, :, n]
    torch.testing.assert_close(functional.causal_product(query, key, value, chunk), expected)


@pytest.mark.parametrize("build", [LinearAttention, PerformerAttention])
def test_causal_attention_does_not_see_the_future(build):
    module = randomize(build(8, heads=2, causal=True))
    x = draw((2, 70, 8))  # more than one chunk
    y = module(x)
    x[:, 66:] += 1
    torch.testing.assert_close(module(x)[:, :66], y[:, :66])
    assert not torch.allclose(module(x)[:, 66:], y[:, 66:])


def test_linear_attention_keeps_small_features_and_long_sums():
    """`elu(z) + 1` rounds to zero below -17; sums over a long sequence leave the range of half precision."""
    z = torch.tensor([-30.0, -1.0, 0.0, 2.0])
    torch.testing.assert_close(functional.elu_features(z), torch.tensor([math.exp(-30), math.exp(-1), 1.0, 3.0]))
    features = torch.full((1, 1, 4096, 2), 8.0, dtype=torch.float16)
    read = functional.feature_read(features, features, torch.full((1, 1, 4096, 3), 5.0, dtype=torch.float16))
    torch.testing.assert_close(read, torch.full_like(read, 5.0))


# Efficient


@pytest.mark.parametrize(("shape", "heads"), TOKENS)
@pytest.mark.parametrize("normalization", ["softmax", "scaling"])
@masked
def test_efficient_is_the_equation(shape, heads, normalization, masked):
    module = randomize(EfficientAttention(shape[2], heads=heads, normalization=normalization))
    x = draw(shape)
    mask = draw_mask(shape[:2]) if masked else None
    query, key, value = parts(module, x).detach()
    for b, h in itertools.product(range(shape[0]), range(heads)):
        kept = [n for n in range(shape[1]) if mask is None or mask[b, n]]
        if normalization == "softmax":
            for t in range(shape[1]):
                query[b, h, t] = torch.tensor(softmax(query[b, h, t].tolist()), dtype=x.dtype)
            for e in range(key.shape[3]):
                column = [float(key[b, h, n, e]) if n in kept else None for n in range(shape[1])]
                key[b, h, :, e] = torch.tensor(softmax(column), dtype=x.dtype)
        else:
            query[b, h] /= math.sqrt(max(1, len(kept)))
            key[b, h] /= math.sqrt(max(1, len(kept)))
            key[b, h, [n for n in range(shape[1]) if n not in kept]] = 0
    weights = torch.einsum("bhtd,bhnd->bhtn", query, key)
    offer = compare(module, x, (joined(module, torch.einsum("bhtn,bhnd->bhtd", weights, value)), weights), mask)
    assert offer.fact.sums_to_one == (("key",) if normalization == "softmax" else ())


# Spatial reduction


def slow_spatial_reduction(module, x):
    B, C, *spatial = x.shape
    R, h, d = module.reduction, module.heads, C // module.heads
    where = list(itertools.product(*(range(size) for size in spatial)))
    grid = list(itertools.product(*(range(-(-size // R)) for size in spatial)))
    holds = [[cell for cell in where if all(c // R == p for c, p in zip(cell, patch, strict=True))] for patch in grid]
    weights = torch.zeros(B, h, len(where), len(where), dtype=x.dtype)
    y = torch.zeros_like(x)
    for b in range(B):
        tokens = []
        for cells in holds:
            if R == 1:
                tokens.append(x[(b, slice(None), *cells[0])].tolist())
                continue
            reduced = module.reduce.bias.clone()
            for cell in cells:
                tap = module.reduce.weight[(slice(None), slice(None), *(c % R for c in cell))]
                reduced += tap @ x[(b, slice(None), *cell)]
            centred = reduced - reduced.mean()
            normal = centred / torch.sqrt(centred.square().mean() + module.norm.eps)
            tokens.append((normal * module.norm.weight + module.norm.bias).tolist())
        both = [affine(module.key_value, token) for token in tokens]
        for t, cell in enumerate(where):
            query = affine(module.query, x[(b, slice(None), *cell)].tolist())
            read = []
            for i in range(h):
                own = slice(i * d, (i + 1) * d)
                shares = softmax([dot(query[own], vector[:C][own]) / math.sqrt(d) for vector in both])
                read += [sum(a * vector[C:][own][e] for a, vector in zip(shares, both, strict=True)) for e in range(d)]
                for share, cells in zip(shares, holds, strict=True):
                    for held in cells:
                        weights[b, i, t, where.index(held)] = share / len(cells)
            y[(b, slice(None), *cell)] = torch.tensor(affine(module.output, read), dtype=x.dtype)
    return y, weights


@pytest.mark.parametrize(
    ("shape", "heads", "reduction"),
    [((2, 6, 5, 3), 2, 2), ((1, 6, 1, 7), 3, 3), ((1, 5, 3, 3), 1, 8), ((2, 6, 7), 2, 3), ((1, 4, 2, 3, 3), 2, 2)],
)
def test_spatial_reduction_is_the_equation(shape, heads, reduction):
    module = randomize(SpatialReductionAttention(shape[1], heads, reduction, dims=len(shape) - 2))
    x = draw(shape)
    with torch.no_grad():
        expected = slow_spatial_reduction(module, x)
    assert compare(module, x, expected).grid == shape[2:]


def test_spatial_reduction_of_one_has_no_convolution():
    module = randomize(SpatialReductionAttention(6, heads=3, reduction=1, bias=False))
    assert {name for name, _ in module.named_children()} == {"query", "key_value", "output"}
    x = draw((2, 6, 3, 5))
    with torch.no_grad():
        compare(module, x, slow_spatial_reduction(module, x))


@pytest.mark.parametrize("reduction", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_spatial_reduction_is_that_of_timm(reduction, bias):
    from timm.models.pvt_v2 import Attention

    theirs = randomize(Attention(12, num_heads=3, sr_ratio=reduction, qkv_bias=bias))
    ours = SpatialReductionAttention(12, 3, reduction, bias).double()
    names = {"q": "query", "kv": "key_value", "proj": "output", "sr": "reduce", "norm": "norm"}
    renamed = {}
    for key, tensor in theirs.state_dict().items():
        module, parameter = key.split(".")
        renamed[f"{names[module]}.{parameter}"] = tensor
    ours.load_state_dict(renamed)
    x = draw((2, 12, 4, 6))
    expected = theirs(x.flatten(2).transpose(1, 2), [4, 6]).transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(ours(x), expected)


# Performer


@pytest.mark.parametrize(("shape", "heads"), TOKENS)
@pytest.mark.parametrize("causal", [False, True])
@masked
def test_performer_is_the_equation(shape, heads, causal, masked):
    module = randomize(PerformerAttention(shape[2], heads=heads, features=5, causal=causal))
    x = draw(shape)
    mask = draw_mask(shape[:2]) if masked else None

    def feature(z):
        z = [value / (shape[2] // heads) ** 0.25 for value in z]
        return [math.exp(dot(row, z) - dot(z, z) / 2) / math.sqrt(5) for row in module.directions.tolist()]

    def similarity(query, key):
        return dot(feature(query.tolist()), feature(key.tolist()))

    compare(module, x, attend(module, x, similarity, mask, causal), mask)


def test_performer_estimates_softmax_attention_without_bias():
    module = PerformerAttention(8, heads=2, features=20_000).double()
    z = 0.7 * draw((2, 4))
    features = (z * 4**-0.25 @ module.directions.T - z.square().sum(1, keepdim=True) / 4).exp()  # |z / ∜4|² / 2
    exact = math.exp(float(z[0] @ z[1]) / 2)
    assert abs(float((features[0] * features[1]).mean()) / exact - 1) < 0.05
    query, key = module.features(z[None, None], z[None, None], None)
    weights = functional.feature_weights(query, key)[0, 0]
    torch.testing.assert_close(weights, (z @ z.T / 2).softmax(1), rtol=0.05, atol=0)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_performer_directions_are_orthogonal_in_blocks_and_as_long_as_normal_ones(orthogonal):
    module = PerformerAttention(10, heads=2, features=1_003, orthogonal=orthogonal)
    rows = module.directions.double()
    products = (rows[:1000].unflatten(0, (-1, 5)) @ rows[:1000].unflatten(0, (-1, 5)).transpose(1, 2)).clone()
    lengths = products.diagonal(dim1=1, dim2=2).clone()
    products.diagonal(dim1=1, dim2=2).zero_()
    assert (products.abs().max() < 1e-4) == orthogonal
    assert abs(float(lengths.mean()) - 5) < 0.5  # of chi-squared with five degrees of freedom, mean and variance
    assert abs(float(lengths.var()) - 10) < 3
    assert abs(float(rows.mean())) < 0.1
    before = module.directions.clone()
    module.redraw()
    assert not torch.allclose(module.directions, before)


def test_performer_survives_large_inputs():
    module = PerformerAttention(8, heads=2).double()
    y = module(1e3 * draw((2, 5, 8)))
    assert y.isfinite().all()


# Linformer


@pytest.mark.parametrize("sharing", ["none", "heads", "key_value"])
@pytest.mark.parametrize("tokens", [7, 11])
@masked
def test_linformer_is_the_equation(sharing, tokens, masked):
    module = randomize(LinformerAttention(6, heads=3, tokens=tokens, slots=5, sharing=sharing))
    x = draw((2, 7, 6))
    mask = draw_mask((2, 7)) if masked else torch.ones(2, 7, dtype=torch.bool)
    query, key, value = parts(module, x)
    weights = torch.zeros(2, 3, 7, 5, dtype=x.dtype)
    read = torch.zeros_like(query)
    for b, h in itertools.product(range(2), range(3)):
        own = h if sharing == "none" else 0
        E, F = module.key_slots[own].detach(), module.value_slots[own].detach()
        kept = [n for n in range(7) if mask[b, n]]
        keys = [sum(E[s, n] * key[b, h, n] for n in kept) for s in range(5)]
        values = [sum(F[s, n] * value[b, h, n] for n in kept) for s in range(5)]
        for t in range(7):
            row = softmax([float(query[b, h, t] @ keys[s]) / math.sqrt(2) for s in range(5)])
            weights[b, h, t] = torch.tensor(row, dtype=x.dtype)
            read[b, h, t] = sum(row[s] * values[s] for s in range(5))
    compare(module, x, (joined(module, read), weights), *([mask] if masked else []))


def test_linformer_takes_a_short_sequence_as_if_padded_with_zero_keys():
    module = randomize(LinformerAttention(6, heads=3, tokens=11, slots=5))
    x = draw((2, 11, 6))
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[:, 7:] = False
    torch.testing.assert_close(module(x, mask)[:, :7], module(x[:, :7]))


def test_linformer_interpolates_for_a_longer_sequence():
    """A sequence of which every token stands twice is close to the sequence itself; a constant one is the same."""
    module = randomize(LinformerAttention(6, heads=3, tokens=7, slots=5))
    x = draw((2, 1, 6)).repeat(1, 7, 1)
    torch.testing.assert_close(module(x.repeat_interleave(2, 1)), module(x).repeat_interleave(2, 1))
    assert module(draw((2, 23, 6))).isfinite().all()


def test_linformer_counts_follow_the_sharing():
    counts = [count(LinformerAttention(64, sharing=sharing)) for sharing in ("none", "heads", "key_value")]
    assert [number - 16_640 for number in counts] == [2 * 8 * 512 * 128, 2 * 512 * 128, 512 * 128]


# Separable


@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
@masked
def test_separable_is_the_equation(shape, bias, masked):
    module = randomize(SeparableSelfAttention(shape[2], bias=bias))
    x = draw(shape)
    B, N, C = shape
    mask = draw_mask((B, N)) if masked else torch.ones(B, N, dtype=torch.bool)
    mask[:, 0] = True
    y, weights = torch.zeros_like(x), torch.zeros(B, N, dtype=x.dtype)
    for b in range(B):
        vectors = x[b].tolist()
        row = softmax([affine(module.score, vector)[0] if mask[b, n] else None for n, vector in enumerate(vectors)])
        keys = [affine(module.key, vector) for vector in vectors]
        context = [sum(row[n] * keys[n][c] for n in range(N)) for c in range(C)]
        weights[b] = torch.tensor(row, dtype=x.dtype)
        for t in range(N):
            gated = [max(0.0, v) * c for v, c in zip(affine(module.value, vectors[t]), context, strict=True)]
            y[b, t] = torch.tensor(affine(module.output, gated), dtype=x.dtype)
    compare(module, x, (y, weights), *([mask] if masked else []))


@pytest.mark.parametrize("bias", [True, False])
def test_separable_is_that_of_timm(bias):
    from timm.models.mobilevit import LinearSelfAttention

    theirs = randomize(LinearSelfAttention(6, bias=bias))
    ours = SeparableSelfAttention(6, bias=bias).double()
    renamed = {}
    for parameter in ("weight", "bias") if bias else ("weight",):
        score, key, value = (
            theirs.qkv_proj.get_parameter(parameter).flatten(1 if parameter == "weight" else 0).split([1, 6, 6])
        )
        output = theirs.out_proj.get_parameter(parameter).flatten(1 if parameter == "weight" else 0)
        for name, tensor in (("score", score), ("key", key), ("value", value), ("output", output)):
            renamed[f"{name}.{parameter}"] = tensor
    ours.load_state_dict(renamed)
    x = draw((2, 7, 6))
    expected = theirs(x.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)  # theirs: (B, C, pixels, patches)
    torch.testing.assert_close(ours(x), expected)


# Multi-scale linear


def slow_multi_scale_linear(module, x):
    B, C, *spatial = x.shape
    where = list(itertools.product(*(range(size) for size in spatial)))
    N, d, width = len(where), module.head_width, module.width
    flat = torch.zeros(B, N, C, dtype=x.dtype)
    for n, cell in enumerate(where):
        flat[:, n] = x[(slice(None), slice(None), *cell)]
    levels = [torch.einsum("bnc,oc->bno", flat, module.project.weight.flatten(1))]
    for depthwise, grouped in module.scales:
        size = depthwise.kernel_size[0]
        near = torch.zeros_like(levels[0])
        for (n, cell), (m, other) in itertools.product(enumerate(where), repeat=2):
            tap = tuple(o - c + size // 2 for c, o in zip(cell, other, strict=True))
            if all(0 <= t < size for t in tap):
                near[:, n] += depthwise.weight[(slice(None), 0, *tap)] * levels[0][:, m]
        mixed = torch.zeros_like(near)
        for start in range(0, 3 * width, d):
            taps = grouped.weight[start : start + d].flatten(1)
            mixed[:, :, start : start + d] = torch.einsum("bnc,oc->bno", near[:, :, start : start + d], taps)
        levels.append(mixed)
    reads, maps = [], []
    for level, head in itertools.product(levels, range(width // d)):
        start = 3 * d * head
        query, key, value = (level[:, :, start + part * d : start + (part + 1) * d] for part in range(3))
        weights = torch.einsum("btd,bnd->btn", query.clamp_min(0), key.clamp_min(0))
        total = weights.sum(2, keepdim=True)
        weights = torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 0.0)
        maps.append(weights)
        reads.append(torch.einsum("btn,bnd->btd", weights, value))
    z = torch.einsum("bne,ce->bnc", torch.cat(reads, 2), module.output.weight.flatten(1))
    norm = module.norm
    z = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    y = torch.zeros_like(x)
    for n, cell in enumerate(where):
        y[(slice(None), slice(None), *cell)] = z[:, n]
    return y, torch.stack(maps, 1)


@pytest.mark.parametrize(
    ("shape", "width", "scales"),
    [
        ((2, 7, 3, 5), 3, (3,)),
        ((1, 4, 1, 1), 2, (5,)),
        ((1, 3, 2, 3), 8, ()),
        ((2, 5, 7), 2, (3, 5)),
        ((1, 4, 2, 3, 2), 2, (3,)),
    ],
)
def test_multi_scale_linear_is_the_equation(shape, width, scales):
    module = randomize(MultiScaleLinearAttention(shape[1], width, scales, dims=len(shape) - 2)).eval()
    x = draw(shape)
    with torch.no_grad():
        expected = slow_multi_scale_linear(module, x)
    assert compare(module, x, expected).grid == shape[2:]


def test_multi_scale_linear_is_that_of_timm():
    from timm.models.efficientvit_mit import LiteMLA

    theirs = randomize(LiteMLA(12, 12, dim=4, scales=(3, 5), eps=1e-12)).eval()
    ours = MultiScaleLinearAttention(12, 4, (3, 5)).double().eval()
    names = {"qkv.conv": "project", "aggreg": "scales", "proj.conv": "output", "proj.norm": "norm"}
    renamed = {}
    for key, tensor in theirs.state_dict().items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        renamed[names[prefix] + key.removeprefix(prefix)] = tensor
    ours.load_state_dict(renamed)
    x = draw((2, 12, 5, 7))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)  # theirs divides in single precision


# Grouped query


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 3), (3, 1), (2, 2)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", ["not", "keys", "pairs"])
def test_grouped_query_is_the_equation(heads, groups, bias, masked):
    module = randomize(GroupedQueryAttention(12, heads, groups, bias))
    x = draw((2, 5, 12))
    mask = {"not": None, "keys": draw_mask((2, 5)), "pairs": draw_mask((2, 5, 5))}[masked]
    d = 12 // heads
    weights = torch.zeros(2, heads, 5, 5, dtype=x.dtype)
    read = torch.zeros(2, heads, 5, d, dtype=x.dtype)
    for b in range(2):
        vectors = [affine(module.project, vector) for vector in x[b].tolist()]
        for h, t in itertools.product(range(heads), range(5)):
            g = h * groups // heads
            first, second = 12 + g * d, 12 + groups * d + g * d
            scores = []
            for n in range(5):
                kept = mask is None or bool(mask[b, n] if masked == "keys" else mask[b, t, n])
                score = dot(vectors[t][h * d : (h + 1) * d], vectors[n][first : first + d]) / math.sqrt(d)
                scores.append(score if kept else None)
            row = softmax(scores)
            weights[b, h, t] = torch.tensor(row, dtype=x.dtype)
            for e in range(d):
                read[b, h, t, e] = sum(row[n] * vectors[n][second + e] for n in range(5))
    compare(module, x, (joined(module, read), weights), mask)


def test_grouped_query_with_a_group_a_head_is_multi_head_self_attention():
    ours = randomize(GroupedQueryAttention(12, heads=3, groups=3, bias=True))
    theirs = MultiHeadSelfAttention(12, heads=3).double()
    theirs.load_state_dict(ours.state_dict())
    x = draw((2, 5, 12))
    torch.testing.assert_close(ours(x), theirs(x))


def test_grouped_query_counts():
    assert count(GroupedQueryAttention(64, groups=1)) == 64 * 64 + 2 * 64 * 8 + 64 * 64
    assert count(GroupedQueryAttention(64)) == 64 * 64 + 2 * 64 * 16 + 64 * 64


# Differential


@pytest.mark.parametrize(("shape", "heads", "layer"), [((2, 5, 12), 3, 1), ((1, 1, 8), 4, 3), ((2, 7, 6), 1, 12)])
@pytest.mark.parametrize("masked", ["not", "keys", "pairs"])
def test_differential_is_the_equation(shape, heads, layer, masked):
    module = randomize(DifferentialAttention(shape[2], heads, layer))
    x = draw(shape)
    B, N, C = shape
    mask = {"not": None, "keys": draw_mask((B, N)), "pairs": draw_mask((B, N, N))}[masked]
    width, d = C // heads, C // heads // 2
    (query_one, key_one), (query_two, key_two) = module.balance.tolist()
    base = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
    factor = math.exp(dot(query_one, key_one)) - math.exp(dot(query_two, key_two)) + base
    weights = torch.zeros(B, heads, N, N, dtype=x.dtype)
    read = torch.zeros(B, heads, N, width, dtype=x.dtype)
    for b in range(B):
        vectors = [affine(module.project, vector) for vector in x[b].tolist()]
        for h, t in itertools.product(range(heads), range(N)):
            rows = []
            for start in (h * width, h * width + d):
                scores = [
                    dot(vectors[t][start : start + d], v[C + start : C + start + d]) / math.sqrt(d) for v in vectors
                ]
                if mask is not None:
                    kept = mask[b] if masked == "keys" else mask[b, t]
                    scores = [score if kept[n] else None for n, score in enumerate(scores)]
                rows.append(softmax(scores))
            row = [one - factor * other for one, other in zip(*rows, strict=True)]
            weights[b, h, t] = torch.tensor(row, dtype=x.dtype)
            values = [v[2 * C + h * width : 2 * C + (h + 1) * width] for v in vectors]
            context = [sum(row[n] * values[n][e] for n in range(N)) for e in range(width)]
            root = math.sqrt(sum(value**2 for value in context) / width + 1e-5)
            gains = module.norm.weight.tolist()
            for e in range(width):
                read[b, h, t, e] = (1 - base) * gains[e] * context[e] / root
    compare(module, x, (joined(module, read), weights), mask)


@pytest.mark.parametrize("layer", [1, 7])
def test_differential_is_that_of_timm(layer):
    from timm.layers.diff_attention import DiffAttention

    theirs = randomize(DiffAttention(12, num_heads=3, qkv_bias=True, depth=layer - 1))  # theirs counts from zero
    ours = DifferentialAttention(12, heads=3, layer=layer, bias=True).double()
    with torch.no_grad():
        ours.project.load_state_dict(theirs.qkv.state_dict())
        ours.output.load_state_dict(theirs.proj.state_dict())
        ours.norm.weight.copy_(theirs.sub_norm.weight)
        for (i, j), name in zip(itertools.product(range(2), range(2)), ("q1", "k1", "q2", "k2"), strict=True):
            ours.balance[i, j] = getattr(theirs, f"lambda_{name}")
    x = draw((2, 5, 12))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)  # their factor is in single precision


def test_differential_attention_ignores_what_both_softmaxes_share():
    """With both queries and keys alike and λ = 1, all weights are zero."""
    module = randomize(DifferentialAttention(6, heads=1))
    with torch.no_grad():
        for start in (0, 6):
            module.project.weight[start + 3 : start + 6] = module.project.weight[start : start + 3]
        module.balance.zero_()
        module.balance[0] = math.sqrt(math.log(1 + 1 - module.base) / 3)
        _, offer = offered(module, draw((2, 5, 6)))
    torch.testing.assert_close(offer.weights(Request()), torch.zeros(2, 1, 5, 5, dtype=torch.float64))


# Cosine


@pytest.mark.parametrize(("shape", "heads"), TOKENS)
@pytest.mark.parametrize("variant", ["query_key_norm", "swin_v2"])
@masked
def test_cosine_is_the_equation(shape, heads, variant, masked):
    module = randomize(CosineAttention(shape[2], heads, variant=variant))
    with torch.no_grad():
        module.scale[0] = 5.0  # above the bound log(100) of Swin's
    x = draw(shape)
    mask = draw_mask(shape[:2]) if masked else None
    query, key, value = parts(module, x)
    weights = torch.zeros(shape[0], heads, shape[1], shape[1], dtype=x.dtype)
    for b, h, t in itertools.product(range(shape[0]), range(heads), range(shape[1])):
        if variant == "swin_v2":
            g = min(100.0, math.exp(float(module.scale[h].detach())))
        else:
            g = float(module.scale.detach())
        row = []
        for n in range(shape[1]):
            one, other = query[b, h, t].tolist(), key[b, h, n].tolist()
            cosine = dot(one, other) / math.sqrt(dot(one, one) * dot(other, other))
            row.append(g * cosine if mask is None or mask[b, n] else None)
        weights[b, h, t] = torch.tensor(softmax(row), dtype=x.dtype)
    compare(module, x, (joined(module, torch.einsum("bhtn,bhnd->bhtd", weights, value)), weights), mask)


def test_cosine_scales_start_as_published():
    assert float(CosineAttention(8, tokens=64).scale.detach()) == pytest.approx(math.log2(64 * 64 - 64))
    swin = CosineAttention(8, heads=4, variant="swin_v2")
    assert swin.factor().flatten().tolist() == pytest.approx([10.0] * 4)
    assert count(swin) == 4 * 64 + 4 * 8 + 4


# Pooling


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 1, 1), (2, 3, 7), (1, 2, 3, 2, 5)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pooling_mixer_is_the_equation(shape, size):
    x = draw(shape)
    where = list(itertools.product(*(range(length) for length in shape[2:])))
    expected = torch.zeros_like(x)
    for cell in where:
        near = [o for o in where if all(abs(a - b) <= size // 2 for a, b in zip(cell, o, strict=True))]
        mean = sum(x[(slice(None), slice(None), *other)] for other in near) / len(near)
        expected[(slice(None), slice(None), *cell)] = mean - x[(slice(None), slice(None), *cell)]
    torch.testing.assert_close(PoolingMixer(shape[1], size)(x), expected)


def test_pooling_mixer_is_that_of_timm():
    from timm.models.metaformer import Pooling

    x = draw((2, 3, 5, 7))
    torch.testing.assert_close(PoolingMixer(3)(x), Pooling()(x))


# Entmax


@pytest.mark.parametrize(("shape", "heads"), TOKENS)
@pytest.mark.parametrize("alpha", [1.5, 2.0])
@masked
def test_entmax_is_the_equation(shape, heads, alpha, masked):
    """The threshold is found by halving an interval, where the library sorts."""
    module = randomize(EntmaxSelfAttention(shape[2], heads, alpha))
    x = draw(shape)
    mask = draw_mask(shape[:2]) if masked else torch.ones(shape[:2], dtype=torch.bool)
    query, key, value = parts(module, x)
    weights = torch.zeros(shape[0], heads, shape[1], shape[1], dtype=x.dtype)
    for b, h, t in itertools.product(range(shape[0]), range(heads), range(shape[1])):
        kept = [n for n in range(shape[1]) if mask[b, n]]
        z = [(alpha - 1) * float(query[b, h, t] @ key[b, h, n]) / math.sqrt(shape[2] // heads) for n in kept]
        low, high = (max(z) - 1, max(z)) if z else (0.0, 0.0)
        for _ in range(60):
            middle = (low + high) / 2
            total = sum(max(0.0, score - middle) ** (1 / (alpha - 1)) for score in z)
            low, high = (middle, high) if total > 1 else (low, middle)
        for n, score in zip(kept, z, strict=True):
            weights[b, h, t, n] = max(0.0, score - low) ** (1 / (alpha - 1))
    read = torch.einsum("bhtn,bhnd->bhtd", weights, value)
    compare(module, x, (joined(module, read), weights), *([mask] if masked else []))


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_gives_zeros_and_its_derivative(alpha):
    scores = (2 * draw((3, 7))).requires_grad_()
    weights = functional.entmax(scores, alpha)
    assert (weights == 0).any()
    assert torch.autograd.gradcheck(lambda z: functional.entmax(z, alpha), scores)


# All of them


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (LinearAttention, (16_640, 263_168, 1_050_624, 4_198_400, 16_785_408)),
        (EfficientAttention, (16_640, 263_168, 1_050_624, 4_198_400, 16_785_408)),
        (PerformerAttention, (16_640, 263_168, 1_050_624, 4_198_400, 16_785_408)),
    ],
)
def test_parameter_counts_are_those_of_their_four_projections(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (EfficientAttention, {"normalization": "l2"}, "'softmax' or 'scaling'"),
        (SpatialReductionAttention, {"heads": 3}, "choose heads among 1, 2, 4, 8"),
        (SpatialReductionAttention, {"reduction": 0}, "from 1 to"),
        (SpatialReductionAttention, {"dims": 4}, "1, 2 or 3"),
        (PerformerAttention, {"features": 0}, "from 1 to"),
        (LinformerAttention, {"slots": 0}, "from 1 to"),
        (LinformerAttention, {"sharing": "layers"}, "'none', 'heads' or 'key_value'"),
        (MultiScaleLinearAttention, {"head_width": 0}, "from 1 to"),
        (MultiScaleLinearAttention, {"scales": (4,)}, "odd"),
        (MultiScaleLinearAttention, {"dims": 0}, "1, 2 or 3"),
        (GroupedQueryAttention, {"groups": 3}, "choose groups among 1, 2, 4, 8"),
        (DifferentialAttention, {"heads": 8}, "even"),
        (DifferentialAttention, {"layer": 0}, "from 1"),
        (CosineAttention, {"variant": "swin"}, "'query_key_norm' or 'swin_v2'"),
        (CosineAttention, {"tokens": 1}, "from 2 to"),
        (PoolingMixer, {"kernel_size": 2}, "odd"),
        (EntmaxSelfAttention, {"alpha": 1.2}, "1.5"),
    ],
)
def test_wrong_arguments_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(8, **arguments)
