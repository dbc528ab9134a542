"""Global attention against the papers' equations, written again as loops, PyTorch's own form, and published counts."""

import itertools
import math

import pytest
import torch
from oracle import (
    WIDTHS,
    affine,
    cells,
    count,
    dot,
    draw,
    draw_mask,
    having,
    offered,
    randomize,
    relu,
    sigmoid,
    softmax,
)
from slow_layers import layer_norm

from regard.attention import GlobalContext, MultiHeadSelfAttention, NonLocal, ShapeError
from regard.attention.offering import Request

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
MAPS = ((2, 7, 5, 3), (1, 11, 1, 1), (2, 7, 13), (2, 7, 2, 3, 2))


def slow_global_context(module, x):
    B, C, *spatial = x.shape
    where = cells(spatial)
    attention = torch.zeros(B, *spatial, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        vectors = [[float(x[(b, c, *cell)]) for c in range(C)] for cell in where]
        weights = softmax([affine(module.score, vector)[0] for vector in vectors])
        context = [sum(weights[n] * vectors[n][c] for n in range(len(where))) for c in range(C)]
        hidden = affine(module.squeeze, context)
        transformed = affine(module.excite, relu(layer_norm(module.norm, hidden)))
        for n, cell in enumerate(where):
            attention[(b, *cell)] = weights[n]
            for c in range(C):
                value = vectors[n][c]
                added = module.fusion == "add"
                y[(b, c, *cell)] = value + transformed[c] if added else value * sigmoid(transformed[c])
    return y, attention


def slow_non_local(module, x):
    B, C, *spatial = x.shape
    where = cells(spatial)
    N = len(where)
    attention = torch.zeros(B, N, N, dtype=x.dtype)
    added = torch.zeros(B, C, N, dtype=x.dtype)
    for b in range(B):
        vectors = [[float(x[(b, c, *cell)]) for c in range(C)] for cell in where]
        values = [affine(module.value, vector) for vector in vectors]
        if module.mode == "gaussian":
            theta = phi = vectors
        else:
            theta = [affine(module.query, vector) for vector in vectors]
            phi = [affine(module.key, vector) for vector in vectors]
        for i in range(N):
            if module.mode == "concatenation":
                vector = [*module.query_score.weight[0].tolist(), *module.key_score.weight[0].tolist()]
                weights = [max(0.0, dot(vector, theta[i] + phi[j])) / N for j in range(N)]
            elif module.mode == "dot_product":
                weights = [dot(theta[i], phi[j]) / N for j in range(N)]
            else:
                weights = softmax([dot(theta[i], phi[j]) for j in range(N)])
            attention[b, i] = torch.tensor(weights, dtype=x.dtype)
            context = [sum(weights[j] * values[j][e] for j in range(N)) for e in range(len(values[0]))]
            added[b, :, i] = torch.tensor(affine(module.output, context), dtype=x.dtype)
    y = torch.empty_like(x)
    for c in range(C):
        numbers = added[:, c].reshape(-1).tolist()
        mean, variance = float(module.norm.running_mean[c]), float(module.norm.running_var[c])
        if module.training and len(numbers) > 1:
            mean = sum(numbers) / len(numbers)
            variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
        for b, (n, cell) in itertools.product(range(B), enumerate(where)):
            normal = (float(added[b, c, n]) - mean) / math.sqrt(variance + module.norm.eps)
            y[(b, c, *cell)] = x[(b, c, *cell)] + module.norm.weight[c] * normal + module.norm.bias[c]
    return y, attention


def slow_multi_head_self(module, x, mask=None):
    B, N, C = x.shape
    d = C // module.heads
    attention = torch.zeros(B, module.heads, N, N, dtype=x.dtype)
    y = torch.empty_like(x)
    for b in range(B):
        projected = [affine(module.project, vector) for vector in x[b].tolist()]
        gathered = [[] for _ in range(N)]
        for h in range(module.heads):
            query, key, value = (
                [vector[part * C + h * d : part * C + (h + 1) * d] for vector in projected] for part in range(3)
            )
            for t in range(N):
                scores = []
                for n in range(N):
                    takes_part = mask is None or bool(mask[b, n] if mask.ndim == 2 else mask[b, t, n])
                    scores.append(dot(query[t], key[n]) / math.sqrt(d) if takes_part else None)
                weights = softmax(scores)
                attention[b, h, t] = torch.tensor(weights, dtype=x.dtype)
                gathered[t] += [sum(weights[n] * value[n][e] for n in range(N)) for e in range(d)]
        y[b] = torch.tensor([affine(module.output, vector) for vector in gathered], dtype=x.dtype)
    return y, attention


# Global context


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("reduction", [2, 16])
@pytest.mark.parametrize("fusion", ["add", "scale"])
def test_global_context_is_the_equation(shape, reduction, fusion):
    module = randomize(GlobalContext(shape[1], reduction=reduction, fusion=fusion))
    x = draw(shape)
    with torch.no_grad():
        y, offer = offered(module, x)
        expected, attention = slow_global_context(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights, attention)


@pytest.mark.parametrize("shape", MAPS)
def test_global_context_starts_as_the_identity(shape):
    x = draw(shape)
    assert torch.equal(GlobalContext(shape[1]).double()(x), x)
    assert torch.equal(GlobalContext(shape[1], fusion="scale").double()(x), x / 2)


# Non-local


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_non_local_is_the_equation(shape, mode, training):
    module = randomize(NonLocal(shape[1], mode=mode)).train(training)
    x = draw(shape)
    with torch.no_grad():
        expected, attention = slow_non_local(module, x)  # first: training moves the running statistics
        y, offer = offered(module, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights(Request()), attention)
    assert offer.grid == shape[2:]


@pytest.mark.parametrize("reduction", [1, 3, 16])
def test_non_local_has_other_reductions(reduction):
    module = randomize(NonLocal(7, reduction=reduction)).eval()
    x = draw((2, 7, 5, 3))
    with torch.no_grad():
        torch.testing.assert_close(module(x), slow_non_local(module, x)[0])


@pytest.mark.parametrize("mode", MODES)
def test_non_local_offers_only_the_queries_asked_for(mode):
    module = randomize(NonLocal(7, mode=mode))
    _, offer = offered(module, draw((2, 7, 5, 3)))
    whole = offer.weights(Request())
    torch.testing.assert_close(offer.weights(Request(queries=(14, 3))), whole[:, [14, 3]])


@pytest.mark.parametrize("mode", MODES)
def test_non_local_declares_whether_its_rows_sum_to_one(mode):
    module = randomize(NonLocal(7, mode=mode))
    _, offer = offered(module, draw((2, 7, 5, 3)))
    sums = offer.weights(Request()).sum(2)
    normalized = mode in ("embedded_gaussian", "gaussian")
    assert (offer.fact.sums_to_one == ("key",)) == normalized
    assert torch.allclose(sums, torch.ones_like(sums)) == normalized


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_non_local_starts_as_the_identity(shape, mode, training):
    x = draw(shape)
    assert torch.equal(NonLocal(shape[1], mode=mode).double().train(training)(x), x)


# Multi-head self-attention


@pytest.mark.parametrize(("shape", "heads"), [((2, 7, 8), 8), ((2, 5, 6), 3), ((1, 1, 6), 2), ((2, 11, 7), 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", ["not", "keys", "pairs"])
def test_multi_head_self_is_the_equation(shape, heads, bias, masked):
    module = randomize(MultiHeadSelfAttention(shape[2], heads=heads, bias=bias))
    x = draw(shape)
    B, N, _ = shape
    mask = {"not": None, "keys": draw_mask((B, N)), "pairs": draw_mask((B, N, N))}[masked]
    with torch.no_grad():
        y, offer = offered(module, x, mask)
        expected, attention = slow_multi_head_self(module, x, mask)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights(Request()), attention)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", ["not", "keys", "pairs"])
def test_multi_head_self_is_that_of_torch(bias, masked):
    theirs = randomize(torch.nn.MultiheadAttention(24, 8, bias=bias, batch_first=True))
    ours = MultiHeadSelfAttention(24, bias=bias).double()
    ours.project.load_state_dict({"weight": theirs.in_proj_weight, **({"bias": theirs.in_proj_bias} if bias else {})})
    ours.output.load_state_dict(theirs.out_proj.state_dict())
    x = draw((3, 13, 24))
    mask, other = None, {}
    if masked == "keys":
        mask = draw_mask((3, 13))
        other = {"key_padding_mask": ~mask}  # there True = takes no part
    elif masked == "pairs":
        mask = draw_mask((3, 13, 13)) | torch.eye(13, dtype=torch.bool)  # theirs gives NaN for an empty row
        other = {"attn_mask": (~mask).repeat_interleave(8, dim=0)}
    expected, attention = theirs(x, x, x, need_weights=True, average_attn_weights=False, **other)
    y, offer = offered(ours, x, mask)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(offer.weights(Request()), attention)


@pytest.mark.parametrize("masked", ["not", "keys", "pairs"])
def test_multi_head_self_offers_only_what_is_asked_for(masked):
    module = randomize(MultiHeadSelfAttention(24, heads=4))
    mask = {"not": None, "keys": draw_mask((2, 7)), "pairs": draw_mask((2, 7, 7))}[masked]
    _, offer = offered(module, draw((2, 7, 24)), mask)
    whole = offer.weights(Request())
    assert whole.shape == (2, 4, 7, 7)
    torch.testing.assert_close(offer.weights(Request(heads=(3, 1))), whole[:, [3, 1]])
    torch.testing.assert_close(offer.weights(Request(queries=(6, 0, 2))), whole[:, :, [6, 0, 2]])
    torch.testing.assert_close(offer.weights(Request(heads=(2,), queries=(5,))), whole[:, [2]][:, :, [5]])


@pytest.mark.parametrize("training", [True, False])
def test_a_token_with_nothing_to_attend_to_reads_zeros(training):
    module = randomize(MultiHeadSelfAttention(24)).train(training)
    x = draw((3, 7, 24)).requires_grad_()
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1] = False
    pairs = mask[:, None].repeat(1, 7, 1)
    pairs[0, 4] = False
    for given, empty in ((mask, [(1, slice(None))]), (pairs, [(1, slice(None)), (0, 4)])):
        y, offer = offered(module, x, given)
        weights = offer.weights(Request())
        for b, t in empty:
            torch.testing.assert_close(y[b, t], module.output.bias.expand_as(y[b, t]), rtol=0, atol=0)
            assert not weights[b, :, t].any()
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert gradient.isfinite().all()
        assert not gradient[1].any()


def test_dropout_acts_in_training_alone_and_not_on_the_map():
    module = randomize(MultiHeadSelfAttention(24, dropout=0.5))
    plain = MultiHeadSelfAttention(24).double()
    plain.load_state_dict(module.state_dict())
    x = draw((2, 7, 24))
    dropped, offer = offered(module, x)
    expected, plain_offer = offered(plain, x)
    assert not torch.allclose(dropped, expected)
    torch.testing.assert_close(offer.weights(Request()), plain_offer.weights(Request()))
    torch.testing.assert_close(module.eval()(x), expected)


def test_heads_change_the_result():
    two = randomize(MultiHeadSelfAttention(24, heads=2))
    three = randomize(MultiHeadSelfAttention(24, heads=3))
    three.load_state_dict(two.state_dict())
    x = draw((2, 7, 24))
    assert not torch.allclose(two(x), three(x))


@pytest.mark.parametrize(("channels", "heads"), [(4, 8), (12, 8), (8, 3)])
def test_heads_that_do_not_divide_the_channels_are_refused(channels, heads):
    with pytest.raises(ValueError, match="choose heads among 1, 2"):
        MultiHeadSelfAttention(channels, heads=heads)


# All of them


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (GlobalContext, (653, 8_753, 33_889, 133_313, 528_769)),
        (NonLocal, (8_416, 131_968, 526_080, 2_100_736, 8_395_776)),
        (MultiHeadSelfAttention, (16_640, 263_168, 1_050_624, 4_198_400, 16_785_408)),
    ],
)
def test_parameter_counts_are_the_published_ones(build, counts):
    assert tuple(count(build(channels)) for channels in WIDTHS) == counts


def test_other_counts_follow_their_arguments():
    assert count(GlobalContext(64, fusion="scale")) == 653
    assert count(GlobalContext(64, reduction=8)) == 2 * 64 * 8 + 3 * 8 + 2 * 64 + 1
    assert count(NonLocal(64, mode="dot_product")) == 8_416
    assert count(NonLocal(64, mode="concatenation")) == 8_416 + 2 * 32
    assert count(NonLocal(64, mode="gaussian")) == 8_416 - 2 * (64 * 32 + 32)
    assert count(NonLocal(64, reduction=4)) == 4 * 64 * 16 + 3 * 16 + 2 * 64
    assert count(MultiHeadSelfAttention(64, bias=False)) == 4 * 64 * 64
    assert count(MultiHeadSelfAttention(64, heads=2)) == 16_640


@pytest.mark.parametrize("build", [GlobalContext, *(having(NonLocal, mode=mode) for mode in MODES)])
def test_permuting_the_positions_of_a_map_permutes_the_output(build):
    module = randomize(build(7)).eval()
    x = draw((2, 7, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, :, order]), module(x)[:, :, order])


def test_permuting_the_tokens_permutes_the_output():
    module = randomize(MultiHeadSelfAttention(24))
    x, mask = draw((2, 13, 24)), draw_mask((2, 13))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(module(x[:, order], mask[:, order]), module(x, mask)[:, order])


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (having(GlobalContext, fusion="mul"), "'add' or 'scale'"),
        (having(NonLocal, mode="softmax"), "'embedded_gaussian', 'gaussian', 'dot_product' or 'concatenation'"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(8)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (GlobalContext(8), (2, 9, 4, 4)),
        (NonLocal(8), (2, 9, 4, 4)),
        (NonLocal(8), (2, 8)),
        (MultiHeadSelfAttention(8), (2, 8, 9)),
        (MultiHeadSelfAttention(8), (2, 8, 4, 4)),
    ],
)
def test_wrong_shapes_are_refused(module, shape):
    with pytest.raises(ShapeError, match=type(module).__name__):
        module(torch.zeros(shape))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(2, 7),
        torch.ones(2, 6, dtype=torch.bool),
        torch.ones(2, 6, 7, dtype=torch.bool),
        torch.ones(2, 7).long(),
    ],
)
def test_wrong_masks_are_refused(mask):
    with pytest.raises(ShapeError, match="mask"):
        MultiHeadSelfAttention(8)(torch.zeros(2, 7, 8), mask)


@pytest.mark.parametrize("mechanism", [NonLocal, GlobalContext])
def test_the_bottleneck_has_at_least_one_channel_and_no_more_than_it_must(mechanism):
    assert mechanism(1).hidden_channels == 1
