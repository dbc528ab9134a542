"""More of global attention against the papers' equations, written again as loops, timm, and published counts."""

import itertools
import math

import pytest
import torch
from oracle import WIDTHS, cells, count, draw, draw_mask, heard, randomize, softmax, watched, weights_of
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.lambda_layer import LambdaLayer as TheirLambdaLayer

from regard import functional
from regard.attention import (
    AttentionAugmentedConvolution,
    BottleneckSelfAttention,
    ChannelSelfAttention,
    CrissCrossAttention,
    DisentangledNonLocal,
    DoubleAttention,
    DualAttention,
    ExternalAttention,
    GeneralizedAttention,
    Hamburger,
    LambdaLayer,
    ObjectContext,
    PositionAttention,
    ShapeError,
)
from regard.attention.offering import Request

MAPS = ((2, 7, 5, 3), (1, 11, 1, 1), (2, 7, 13), (2, 7, 2, 3, 2))
PLANES = ((2, 11, 5, 3), (1, 7, 1, 1), (2, 7, 1, 3))


def linear(layer, vector):
    product = (layer.weight.reshape(len(layer.weight), -1) * vector).sum(1)
    return product if layer.bias is None else product + layer.bias


def normal(norm, vector):
    """Batch normalisation in evaluation."""
    return norm.weight * (vector - norm.running_mean) / (norm.running_var + norm.eps).sqrt() + norm.bias


def positionwise(layers, vector):
    return normal(layers[1], linear(layers[0], vector)).clamp(min=0)


def weighted(weights, vectors):
    return sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))


def closeness(query, keys):
    return softmax([float((query * key).sum()) for key in keys])


def over_batch(slow, module, x):
    """The oracle of one sample, for all of them: outputs, and each map."""
    with torch.no_grad():
        results = [slow(module, sample) for sample in x]
    outputs, maps = zip(*results, strict=True)
    return torch.stack(outputs), {label: torch.stack([each[label] for each in maps]) for label in maps[0]}


def columns(x):
    """The vector of every position, row by row."""
    return [x[(slice(None), *cell)] for cell in cells(x.shape[1:])]


def as_map(vectors, spatial):
    return torch.stack(vectors, 1).reshape(-1, *spatial)


def table(rows):
    return torch.tensor(rows, dtype=torch.float64)


def slow_double(module, x):
    m, n = module.hidden_channels, module.codes
    vectors = columns(x)
    projected = [linear(module.project, vector) for vector in vectors]
    gather = [softmax([float(p[m + c]) for p in projected]) for c in range(n)]
    descriptors = [weighted(gather[c], [p[:m] for p in projected]) for c in range(n)]
    distribute = [softmax(p[m + n :].tolist()) for p in projected]
    y = [
        vector + linear(module.output, weighted(weights, descriptors))
        for vector, weights in zip(vectors, distribute, strict=True)
    ]
    spatial = x.shape[1:]
    maps = {"gather": table(gather).reshape(n, *spatial), "distribute": table(distribute).T.reshape(n, *spatial)}
    return as_map(y, spatial), maps


def slow_criss_cross(module, x):
    where = cells(x.shape[1:])
    vectors = columns(x)
    rounds = []
    for _ in range(module.recurrence):
        queries, keys, values = (
            [linear(layer, vector) for vector in vectors] for layer in (module.query, module.key, module.value)
        )
        attention = []
        for i, here in enumerate(where):
            scores = []
            for j, there in enumerate(where):
                differing = sum(a != b for a, b in zip(here, there, strict=True))
                scores.append(float(queries[i] @ keys[j]) if differing <= 1 else None)
            attention.append(softmax(scores))
        vectors = [
            vector + module.gain * weighted(weights, values) for vector, weights in zip(vectors, attention, strict=True)
        ]
        rounds.append(attention)
    return as_map(vectors, x.shape[1:]), {"attention": table(rounds)}


def slow_position_reading(module, x):
    vectors = columns(x)
    queries, keys, values = (
        [linear(layer, vector) for vector in vectors] for layer in (module.query, module.key, module.value)
    )
    attention = [closeness(query, keys) for query in queries]
    return as_map([weighted(weights, values) for weights in attention], x.shape[1:]), table(attention)


def slow_position(module, x):
    read, attention = slow_position_reading(module, x)
    return x + module.gain * read, {"attention": attention}


def slow_dual(module, x):
    read, attention = slow_position_reading(module, x)
    channels = []
    for j in range(len(x)):
        energy = [float((x[j] * x[i]).sum()) for i in range(len(x))]
        if module.variant == "dissimilar":
            energy = [max(energy) - value for value in energy]
        channels.append(softmax(energy))
    others = torch.stack([weighted(weights, list(x)) for weights in channels])
    y = x + module.position_gain * read + module.channel_gain * others
    return (y if module.shared_residual else y + x), {"position": attention, "channel": table(channels)}


def slow_external(module, x, mask=None):
    """Of one sample of tokens: exponentials, their sum over the tokens, then their sum over the units."""
    part = [True] * len(x) if mask is None else mask.tolist()
    scores = [linear(module.key, token).tolist() for token in x]
    first = [
        softmax([scores[n][u] if part[n] else None for n in range(len(x))]) for u in range(module.units)
    ]  # units, tokens
    weights = torch.zeros(len(x), module.units, dtype=x.dtype)
    for n, u in itertools.product(range(len(x)), range(module.units)):
        if part[n]:
            weights[n, u] = first[u][n] / sum(first[other][n] for other in range(module.units))
    return torch.stack([weighted(row, list(module.value.weight.T)) for row in weights]), {"attention": weights}


def slow_object_context(module, x):
    vectors, spatial = columns(x), x.shape[1:]
    logits = [linear(module.logit, vector) for vector in vectors]
    regions = [softmax([float(logit[k]) for logit in logits]) for k in range(module.regions)]
    objects = [weighted(weights, vectors) for weights in regions]
    scale = 1 / math.sqrt(module.hidden_channels) if module.scaled else 1
    keys = [positionwise(module.key, each) * scale for each in objects]
    values = [positionwise(module.value, each) for each in objects]
    relation = [closeness(positionwise(module.query, vector), keys) for vector in vectors]
    y = []
    for vector, weights in zip(vectors, relation, strict=True):
        context = positionwise(module.context, weighted(weights, values))
        y.append(positionwise(module.fuse, torch.cat([vector, context])))
    maps = {
        "logit": as_map(logits, spatial),
        "region": table(regions).reshape(-1, *spatial),
        "relation": table(relation).T.reshape(-1, *spatial),
    }
    return as_map(y, spatial), maps


def encoding(distance, pairs):
    angles = [distance / 10000 ** (i / pairs) for i in range(pairs)]
    return table([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])


def slow_generalized(module, x):
    where, vectors, d = cells(x.shape[1:]), columns(x), module.head_width
    values = [linear(module.value, vector) for vector in vectors]
    attention = torch.zeros(module.heads, len(where), len(where), dtype=x.dtype)
    read = [[] for _ in where]
    for h in range(module.heads):
        part = slice(h * d, (h + 1) * d)
        for i, here in enumerate(where):
            scores = []
            for j, there in enumerate(where):
                score = 0.0
                key = None if module.key is None else linear(module.key, vectors[j])[part]
                query = None if module.query is None else linear(module.query, vectors[i])[part]
                apart = sum(
                    linear(layer, encoding(b - a, module.wave_lengths))[part]
                    for layer, a, b in zip(module.offsets, here, there, strict=False)
                )
                score += float(query @ key) if module.query_key else 0.0
                score += float(query @ apart) if module.query_position else 0.0
                score += 0.0 if module.key_vector is None else float(module.key_vector[h] @ key)
                score += 0.0 if module.position_vector is None else float(module.position_vector[h] @ apart)
                scores.append(score)
            weights = softmax(scores)
            attention[h, i] = table(weights)
            read[i].append(weighted(weights, [value[part] for value in values]))
    added = [linear(module.output, torch.cat(parts)) for parts in read]
    return x + module.gain * as_map(added, x.shape[1:]), {"attention": attention}


def slow_relative_heads(queries, keys, values, where, heads, tables, reach):
    """Multi-head attention with a vector for how far apart two positions lie; the concatenated heads and the map."""
    d, e = len(queries[0]) // heads, len(values[0]) // heads
    attention = torch.zeros(heads, len(where), len(where), dtype=torch.float64)
    read = [[] for _ in where]
    for h, (i, here) in itertools.product(range(heads), enumerate(where)):
        query = queries[i][h * d : (h + 1) * d]
        scores = []
        for j, there in enumerate(where):
            key = keys[j][h * d : (h + 1) * d]
            for axis_table, a, b in zip(tables, here, there, strict=True):
                distance = max(1 - reach, min(reach - 1, b - a))
                key = key + axis_table[distance + reach - 1]
            scores.append(float(query @ key) / math.sqrt(d))
        weights = softmax(scores)
        attention[h, i] = table(weights)
        read[i].append(weighted(weights, [value[h * e : (h + 1) * e] for value in values]))
    return [torch.cat(parts) for parts in read], attention


def slow_bottleneck_self(module, x):
    C, where = len(x), cells(x.shape[1:])
    projected = [linear(module.project, vector) for vector in columns(x)]
    queries, keys, values = ([vector[n * C : (n + 1) * C] for vector in projected] for n in range(3))
    read, attention = slow_relative_heads(queries, keys, values, where, module.heads, module.offsets, module.reach)
    return as_map(read, x.shape[1:]), {"attention": attention}


def slow_augmented(module, x):
    """With the convolution as a sum over its kernel."""
    K, V, s = module.key_channels, module.value_channels, module.stride
    C, H, W = x.shape
    h, w = -(-H // s), -(-W // s)
    where = cells((h, w))
    projected = [linear(module.project, x[:, s * i, s * j]) for i, j in where]
    read, attention = slow_relative_heads(
        [p[:K] for p in projected],
        [p[K : 2 * K] for p in projected],
        [p[2 * K :] for p in projected],
        where,
        module.heads,
        module.offsets,
        module.reach,
    )
    attended = as_map([linear(module.output, vector) for vector in read], (h, w))
    weight, size, groups = module.convolution.weight, module.kernel_size, module.convolution.groups
    convolved = torch.zeros(module.out_channels - V, h, w, dtype=x.dtype)
    for o, (i, j) in itertools.product(range(len(convolved)), where):
        group = o // (len(convolved) // groups)
        inputs = x[group * (C // groups) : (group + 1) * (C // groups)]
        for a, b in cells((size, size)):
            row, column = s * i + a - size // 2, s * j + b - size // 2
            if 0 <= row < H and 0 <= column < W:
                convolved[o, i, j] += (weight[o, :, a, b] * inputs[:, row, column]).sum()
        if module.convolution.bias is not None:
            convolved[o, i, j] += module.convolution.bias[o]
    return torch.cat([convolved, attended]), {"attention": attention}


def slow_lambda(module, x):
    where, vectors, k, r = cells(x.shape[1:]), columns(x), module.query_depth, module.kernel_size // 2
    queries = [normal(module.query_norm, linear(module.query, vector)) for vector in vectors]
    keys = [linear(module.key, vector) for vector in vectors]
    values = [normal(module.value_norm, linear(module.value, vector)) for vector in vectors]
    softened = [softmax([float(key[a]) for key in keys]) for a in range(k)]
    y = []
    for here, query in zip(where, queries, strict=True):
        function = torch.stack([weighted(weights, values) for weights in softened])  # (k, v)
        for there, value in zip(where, values, strict=True):
            distance = [b - a for a, b in zip(here, there, strict=True)]
            if all(abs(each) <= r for each in distance):
                embedding = module.position.weight[(slice(None), 0, *(each + r for each in distance))]
                function = function + embedding[:, None] * value
        y.append(torch.cat([sum(query[h * k + a] * function[a] for a in range(k)) for h in range(module.heads)]))
    return as_map(y, x.shape[1:]), {"content": table(softened).reshape(k, *x.shape[1:])}


def slow_hamburger(module, x):
    """Every number of both factors by itself."""
    vectors, R, C = columns(x), module.atoms, len(x)
    N = len(vectors)
    X = [linear(module.lower, vector).clamp(min=0).tolist() for vector in vectors]  # X[n][c]
    D = module.bases.tolist()  # D[c][r]
    codes = [softmax([sum(D[c][r] * X[n][c] for c in range(C)) for r in range(R)]) for n in range(N)]  # codes[n][r]
    for _ in range(module.steps):
        rebuilt = [[sum(D[c][r] * codes[n][r] for r in range(R)) for c in range(C)] for n in range(N)]
        codes = [
            [
                codes[n][r]
                * sum(D[c][r] * X[n][c] for c in range(C))
                / (sum(D[c][r] * rebuilt[n][c] for c in range(C)) + 1e-6)
                for r in range(R)
            ]
            for n in range(N)
        ]
        rebuilt = [[sum(D[c][r] * codes[n][r] for r in range(R)) for c in range(C)] for n in range(N)]
        D = [
            [
                D[c][r]
                * sum(X[n][c] * codes[n][r] for n in range(N))
                / (sum(rebuilt[n][c] * codes[n][r] for n in range(N)) + 1e-6)
                for r in range(R)
            ]
            for c in range(C)
        ]
    added = [normal(module.norm, linear(module.upper, table(D) @ table(code))) for code in codes]
    return x + as_map(added, x.shape[1:]), {"code": table(codes).T.reshape(R, *x.shape[1:])}


def slow_disentangled(module, x):
    vectors = columns(x)
    queries, keys, values = (
        [linear(layer, vector) for vector in vectors] for layer in (module.query, module.key, module.value)
    )
    middle_query, middle_key = sum(queries) / len(queries), sum(keys) / len(keys)
    pairwise = [closeness(query - middle_query, [key - middle_key for key in keys]) for query in queries]
    unary = softmax([float(linear(module.unary, vector)) for vector in vectors])
    added = [
        normal(
            module.norm, linear(module.output, weighted([a + b for a, b in zip(weights, unary, strict=True)], values))
        )
        for weights in pairwise
    ]
    maps = {"pairwise": table(pairwise), "unary": table(unary).reshape(x.shape[1:])}
    return x + as_map(added, x.shape[1:]), maps


def agree(module, slow, x):
    """Output and maps are those of the slow reference; gives the grids over which the keys of the maps lie."""
    with torch.no_grad():
        y, offers = heard(module, x)
    maps = {offer.fact.label: weights_of(offer) for offer in offers}
    expected, expected_maps = over_batch(slow, module, x)
    torch.testing.assert_close(y, expected)
    assert maps.keys() == expected_maps.keys()
    for label, values in expected_maps.items():
        torch.testing.assert_close(maps[label], values)
    return {offer.fact.label: offer.grid for offer in offers}


# Double attention


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("reduction", [2, 4, 16])
def test_double_attention_is_the_equation(shape, reduction):
    agree(randomize(DoubleAttention(shape[1], reduction)), slow_double, draw(shape))


def test_double_attention_gathers_within_a_sample():
    """A softmax without its axis once normalised over the batch."""
    module = randomize(DoubleAttention(7))
    x = draw((3, 7, 5, 3))
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]))


# Criss-cross attention


@pytest.mark.parametrize("shape", [*MAPS, (1, 7, 1, 3), (1, 7, 5, 1)])
@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_criss_cross_is_the_equation(shape, recurrence):
    module = randomize(CrissCrossAttention(shape[1], recurrence=recurrence, reduction=3))
    with torch.no_grad():
        module.gain /= 4  # so that later rounds do not saturate
    assert agree(module, slow_criss_cross, draw(shape)) == {"attention": shape[2:]}


def test_criss_cross_counts_the_position_itself_once():
    module = CrissCrossAttention(7, recurrence=1).double()
    torch.nn.init.zeros_(module.query.weight)  # all scores are alike
    torch.nn.init.zeros_(module.query.bias)
    _, maps = watched(module, draw((1, 7, 5, 3)))
    weights = maps["attention"][0, 0]
    torch.testing.assert_close(weights[weights > 0], torch.full((15 * 7,), 1 / 7, dtype=torch.float64))


@pytest.mark.parametrize(("recurrence", "reached"), [(1, False), (2, True)])
def test_two_rounds_of_criss_cross_reach_every_position(recurrence, reached):
    module = randomize(CrissCrossAttention(7, recurrence=recurrence))
    x = draw((1, 7, 5, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[0, :, 0, 0].sum(), x)
    assert bool(gradient[0, :, 3, 2].any()) == reached


def test_a_single_position_reads_itself():
    module = randomize(CrissCrossAttention(7, recurrence=1))
    x = draw((2, 7, 1, 1))
    value = module.value(x[..., 0, 0])[..., None, None]
    torch.testing.assert_close(module(x), x + module.gain * value)


def test_recurrence_of_nothing_is_refused():
    with pytest.raises(ValueError, match="recurrence=0"):
        CrissCrossAttention(7, recurrence=0)


# Position and dual attention


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("reduction", [1, 3, 8])
def test_position_attention_is_the_equation(shape, reduction):
    module = randomize(PositionAttention(shape[1], reduction))
    assert agree(module, slow_position, draw(shape)) == {"attention": shape[2:]}


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("variant", ["similar", "dissimilar"])
@pytest.mark.parametrize("shared", [True, False])
def test_dual_attention_is_the_equation(shape, variant, shared):
    module = randomize(DualAttention(shape[1], 3, variant, shared))
    assert agree(module, slow_dual, draw(shape)) == {"position": shape[2:], "channel": None}


@pytest.mark.parametrize("variant", ["similar", "dissimilar"])
def test_dual_attention_is_the_sum_of_its_halves(variant):
    module = randomize(DualAttention(7, variant=variant))
    position, channel = PositionAttention(7).double(), ChannelSelfAttention(7, variant=variant).double()
    state = module.state_dict()
    channel.load_state_dict({"gain": state.pop("channel_gain")})
    position.load_state_dict({"gain": state.pop("position_gain"), **state})
    x = draw((2, 7, 5, 3))
    torch.testing.assert_close(module(x), position(x) + channel(x))


@pytest.mark.parametrize("build", [PositionAttention, CrissCrossAttention, GeneralizedAttention, DisentangledNonLocal])
@pytest.mark.parametrize("training", [True, False])
def test_these_start_as_the_identity(build, training):
    x = draw((2, 11, 5, 3))
    assert torch.equal(build(11).double().train(training)(x), x)


def test_dual_attention_starts_as_its_residuals():
    x = draw((2, 7, 5, 3))
    assert torch.equal(DualAttention(7).double()(x), 2 * x)
    assert torch.equal(DualAttention(7, shared_residual=True).double()(x), x)


# External attention


@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 1, 3), (2, 13, 11)])
@pytest.mark.parametrize("units", [1, 3, 64])
@pytest.mark.parametrize("masked", [True, False])
def test_external_attention_is_the_equation(shape, units, masked):
    module = randomize(ExternalAttention(shape[2], units))
    x = draw(shape)
    mask = draw_mask(shape[:2]) if masked else None
    y, maps = watched(module, x, mask)
    with torch.no_grad():
        for b in range(len(x)):
            expected, expected_maps = slow_external(module, x[b], None if mask is None else mask[b])
            torch.testing.assert_close(y[b], expected)
            torch.testing.assert_close(maps["attention"][b], expected_maps["attention"])


def test_external_attention_divides_by_no_zero():
    """A token whose exponentials vanish beside another's: 0 / 0 where the sums are formed one after the other."""
    module = randomize(ExternalAttention(5, 3)).float()
    x = torch.stack([torch.full((5,), 1.0), torch.full((5,), 500.0)])[None].requires_grad_()
    with torch.no_grad():
        module.key.weight.abs_()
    assert not module.key(x).softmax(1)[0, 0].any()
    y, maps = watched(module, x)
    torch.testing.assert_close(maps["attention"].sum(2), torch.ones(1, 2))
    module(x).sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


# Object context


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("scaled", [True, False])
def test_object_context_is_the_equation(shape, scaled):
    module = randomize(ObjectContext(shape[1], regions=5, scaled=scaled)).eval()
    agree(module, slow_object_context, draw(shape))


def test_the_regions_can_be_supervised_through_the_offered_logits():
    module = randomize(ObjectContext(7, regions=5))
    _, maps = watched(module, draw((2, 7, 5, 3)))
    truth = torch.randint(5, (2, 5, 3))
    torch.nn.functional.cross_entropy(maps["logit"], truth).backward()
    assert module.logit.weight.grad.any()
    assert module.logit.bias.grad.any()


# Generalized attention


TERMS = [terms for terms in itertools.product([True, False], repeat=4) if any(terms)]


@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: "".join(str(int(term)) for term in terms))
def test_generalized_attention_is_the_equation(terms):
    module = randomize(GeneralizedAttention(11, 3, *terms))
    assert agree(module, slow_generalized, draw((1, 11, 3, 2))) == {"attention": (3, 2)}


@pytest.mark.parametrize(("shape", "heads"), [((1, 7, 1, 1), 8), ((2, 7, 5), 2), ((1, 13, 2, 3, 2), 1)])
def test_generalized_attention_has_any_number_of_axes(shape, heads):
    agree(randomize(GeneralizedAttention(shape[1], heads, dims=len(shape) - 2)), slow_generalized, draw(shape))


@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: "".join(str(int(term)) for term in terms))
def test_every_parameter_of_a_chosen_term_is_used(terms):
    module = randomize(GeneralizedAttention(11, 3, *terms))
    module(draw((1, 11, 3, 2))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_generalized_attention_needs_a_term():
    with pytest.raises(ValueError, match="none of its four terms"):
        GeneralizedAttention(8, 2, False, False, False, False)


# Attention with relative positions


@pytest.mark.parametrize(
    ("shape", "heads"), [((2, 6, 5, 3), 2), ((1, 7, 1, 1), 1), ((1, 6, 1, 7), 3), ((1, 4, 3, 2), 4)]
)
@pytest.mark.parametrize("reach", [1, 3, 7])
def test_bottleneck_self_attention_is_the_equation(shape, heads, reach):
    module = randomize(BottleneckSelfAttention(shape[1], heads, reach))
    assert agree(module, slow_bottleneck_self, draw(shape)) == {"attention": shape[2:]}


@pytest.mark.parametrize("shape", [(2, 6, 7), (1, 6, 2, 3, 2)])
def test_bottleneck_self_attention_has_any_number_of_axes(shape):
    agree(randomize(BottleneckSelfAttention(6, 2, 3, dims=len(shape) - 2)), slow_bottleneck_self, draw(shape))


def test_bottleneck_self_attention_is_that_of_timm():
    theirs = randomize(BottleneckAttn(16, feat_size=(5, 3), scale_pos_embed=True))
    ours = BottleneckSelfAttention(16, reach=5).double()
    with torch.no_grad():
        ours.project.weight.copy_(theirs.qkv.weight[..., 0, 0])
        ours.offsets[0].copy_(theirs.pos_embed.height_rel)  # distances -4..4
        ours.offsets[1][2:-2].copy_(theirs.pos_embed.width_rel)  # distances -2..2
    x = draw((2, 16, 5, 3))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("channels", "heads"), [(67, 1), (64, 4), (9, 3), (6, 3), (2, 2)])
def test_the_default_heads_divide_the_channels(channels, heads):
    assert BottleneckSelfAttention(channels).heads == heads


@pytest.mark.parametrize("build", [BottleneckSelfAttention, LambdaLayer])
def test_heads_that_do_not_divide_the_channels_are_refused(build):
    with pytest.raises(ValueError, match="choose heads among 1, 2, 3, 6"):
        build(6, heads=4)


AUGMENTED = [
    ({}, (2, 3, 5, 3)),
    ({"stride": 2}, (1, 3, 5, 4)),
    ({"kernel_size": 1, "stride": 3}, (1, 3, 4, 5)),
    ({"groups": 3, "bias": False}, (1, 3, 1, 4)),
    ({"reach": 2}, (1, 3, 5, 3)),
    ({"heads": 3, "key_share": 0.8, "value_share": 0.6}, (1, 3, 3, 2)),
]


@pytest.mark.parametrize(("options", "shape"), AUGMENTED)
def test_attention_augmented_convolution_is_the_equation(options, shape):
    module = randomize(
        AttentionAugmentedConvolution(3, 11, **{"heads": 2, "minimum_key_width": 1, "reach": 5, **options})
    )
    spatial = tuple(-(-size // module.stride) for size in shape[2:])
    assert agree(module, slow_augmented, draw(shape)) == {"attention": spatial}


@pytest.mark.parametrize(
    ("channels", "options", "expected"),
    [
        (64, {}, (160, 8)),  # twenty a head
        (1024, {}, (208, 104)),  # the nearest multiples of 8 to 204.8 and 102.4
        (1000, {"heads": 4, "key_share": 0.5, "value_share": 0.25}, (500, 248)),
    ],
)
def test_the_shares_of_attention_are_those_asked_for(channels, options, expected):
    module = AttentionAugmentedConvolution(8, channels, **options)
    assert (module.key_channels, module.value_channels) == expected


def test_attention_needs_fewer_channels_than_there_are():
    with pytest.raises(ValueError, match="out_channels=8, of which attention takes 8"):
        AttentionAugmentedConvolution(8, 8)
    with pytest.raises(ValueError, match="multiple of groups=5"):
        AttentionAugmentedConvolution(10, 32, groups=5)


def test_relative_vectors_are_learned_and_not_drawn_each_time():
    for module in (BottleneckSelfAttention(8), AttentionAugmentedConvolution(8, 16)):
        x = torch.randn(1, 8, 5, 3)
        assert torch.equal(module(x), module(x))
        assert sum("offsets" in name for name in module.state_dict()) == 2


def test_the_map_may_be_turned_but_not_shuffled():
    """Rows are no columns: moving a position against the others changes what it reads."""
    module = randomize(BottleneckSelfAttention(6, 2, 3))
    turned = randomize(BottleneckSelfAttention(6, 2, 3))
    turned.offsets[0], turned.offsets[1] = module.offsets[1], module.offsets[0]
    x = draw((1, 6, 5, 3))
    torch.testing.assert_close(turned(x.transpose(2, 3)).transpose(2, 3), module(x))
    assert not torch.allclose(module(x.flip(2)).flip(2), module(x))


# Lambda layer


@pytest.mark.parametrize(("shape", "heads"), [((2, 6, 5, 3), 2), ((1, 7, 1, 1), 1), ((1, 6, 1, 7), 3)])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_lambda_layer_is_the_equation(shape, heads, size):
    agree(randomize(LambdaLayer(shape[1], heads, 5, size)).eval(), slow_lambda, draw(shape))


@pytest.mark.parametrize("shape", [(2, 6, 7), (1, 6, 2, 3, 2)])
def test_lambda_layer_has_any_number_of_axes(shape):
    agree(randomize(LambdaLayer(6, 2, 5, 3, dims=len(shape) - 2)).eval(), slow_lambda, draw(shape))


@pytest.mark.parametrize("training", [True, False])
def test_lambda_layer_is_that_of_timm(training):
    theirs = randomize(TheirLambdaLayer(12, num_heads=4, dim_head=5, r=3)).train(training)
    torch.nn.init.zeros_(theirs.conv_lambda.bias)  # the paper has none
    ours = LambdaLayer(12, 4, 5, 3).double().train(training)
    state = {"position.weight": theirs.conv_lambda.weight[..., 0]}
    for name, weight in zip(("query", "key", "value"), theirs.qkv.weight[..., 0, 0].split((20, 5, 3)), strict=True):
        state[f"{name}.weight"] = weight
    for name, norm in (("query_norm", theirs.norm_q), ("value_norm", theirs.norm_v)):
        state |= {f"{name}.{key}": value for key, value in norm.state_dict().items()}
    ours.load_state_dict(state)
    x = draw((2, 12, 5, 4))
    torch.testing.assert_close(ours(x), theirs(x))


# Hamburger


def burger(*arguments, **options):
    """With random parameters, and bases that are not negative."""
    module = randomize(Hamburger(*arguments, **options))
    module.bases.abs_()
    return module


@pytest.mark.parametrize("shape", [(2, 5, 3, 2), (1, 7, 1, 1), (2, 5, 7), (1, 5, 2, 3, 2)])
@pytest.mark.parametrize(("atoms", "steps"), [(3, 6), (1, 2), (11, 1)])
def test_hamburger_is_the_equation(shape, atoms, steps):
    agree(burger(shape[1], atoms, steps).eval(), slow_hamburger, draw(shape))


def test_more_updates_come_nearer():
    x, bases = draw((2, 7, 13)).abs(), draw((2, 7, 3)).abs()
    left = []
    for steps in (1, 2, 4, 8, 16):
        found, codes = functional.nonnegative_factors(x, bases, steps)
        assert (found >= 0).all()
        assert (codes >= 0).all()
        left.append(float((x - found @ codes).norm()))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.8 * left[0]


def test_the_one_step_gradient_is_that_of_the_last_step():
    x, bases = draw((2, 5, 7)).abs().requires_grad_(), draw((2, 5, 3)).abs()

    def gradient(factors):
        return torch.autograd.grad((factors[0] @ factors[1]).square().sum(), x)[0]

    before, codes = functional.nonnegative_factors(x.detach(), bases, 3)
    across = before.transpose(1, 2)
    codes = codes * (across @ x) / (across @ before @ codes + 1e-6)
    last = before * (x @ codes.transpose(1, 2)) / (before @ codes @ codes.transpose(1, 2) + 1e-6)
    found = gradient(functional.nonnegative_factors(x, bases, 4, one_step=True))
    torch.testing.assert_close(found, gradient((last, codes)))
    assert not torch.allclose(found, gradient(functional.nonnegative_factors(x, bases, 4)))


def test_gradients_differ_in_training_alone():
    x = draw((2, 7, 5, 3)).requires_grad_()
    gradients = {}
    for training, one_step in itertools.product([True, False], repeat=2):
        module = burger(7, 3, one_step=one_step).train(training)
        (gradients[training, one_step],) = torch.autograd.grad(module(x).square().sum(), x)
    assert not torch.allclose(gradients[True, True], gradients[True, False])
    assert torch.equal(gradients[False, True], gradients[False, False])


@pytest.mark.parametrize("redraw", [True, False])
def test_the_start_is_drawn_anew_in_training_if_asked_for(redraw):
    module = burger(7, 3, redraw=redraw)
    x = draw((2, 7, 5, 3))
    assert torch.equal(module(x), module(x)) != redraw
    module.eval()
    assert torch.equal(module(x), module(x))


# Disentangled non-local


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("reduction", [1, 2, 16])
def test_disentangled_non_local_is_the_equation(shape, reduction):
    module = randomize(DisentangledNonLocal(shape[1], reduction)).eval()
    assert agree(module, slow_disentangled, draw(shape)) == {"pairwise": shape[2:], "unary": None}


# All of them


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (PositionAttention, (5_201, 82_241, 328_321, 1_312_001, 5_245_441)),
        (CrissCrossAttention, (5_201, 82_241, 328_321, 1_312_001, 5_245_441)),
        (DualAttention, (5_202, 82_242, 328_322, 1_312_002, 5_245_442)),
        (DoubleAttention, (4_208, 65_984, 263_040, 1_050_368, 4_197_888)),
        (ExternalAttention, (8_192, 32_768, 65_536, 131_072, 262_144)),
    ],
)
def test_parameter_counts_are_the_published_ones(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


@pytest.mark.parametrize("build", [DoubleAttention, PositionAttention, DualAttention, ObjectContext])
def test_permuting_the_positions_permutes_the_output(build):
    module = randomize(build(7)).eval()
    x = draw((2, 7, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


@pytest.mark.parametrize("build", [PositionAttention, CrissCrossAttention, DualAttention])
def test_only_the_queries_asked_for_are_offered(build):
    module = randomize(build(7))
    _, offers = heard(module, draw((2, 7, 5, 3)))
    weights = offers[0].weights
    torch.testing.assert_close(
        weights(Request(queries=(14, 3))), weights(Request()).index_select(-2, torch.tensor([14, 3]))
    )


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 1), (3, 7)])
def test_lines_cover_each_position_once(shape):
    query, key = draw((2, *shape, 5)), draw((2, *shape, 5)) / 2
    weights = functional.line_weights(query, key)
    dense = functional.line_map(weights)
    torch.testing.assert_close(dense.sum(2), torch.ones_like(dense[..., 0]))
    value = draw((2, *shape, 3))
    torch.testing.assert_close(
        functional.line_read(weights, value).flatten(1, -2), torch.bmm(dense, value.flatten(1, -2))
    )


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DualAttention(8, variant="both"), "'similar' or 'dissimilar'"),
        (lambda: LambdaLayer(8, kernel_size=4), "odd"),
        (lambda: LambdaLayer(8, dims=4), "1, 2 or 3"),
        (lambda: BottleneckSelfAttention(8, reach=0), "reach=0"),
        (lambda: Hamburger(8, atoms=0), "atoms=0"),
        (lambda: GeneralizedAttention(8, heads=0), "heads=0"),
        (lambda: AttentionAugmentedConvolution(8, 32, kernel_size=2), "odd"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("mask", [torch.ones(2, 7), torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 7, 7).bool()])
def test_wrong_masks_are_refused(mask):
    with pytest.raises(ShapeError, match="mask"):
        ExternalAttention(8)(torch.zeros(2, 7, 8), mask)
