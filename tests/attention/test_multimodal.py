"""Fusion of two modalities against the papers' equations, written again as loops."""

import itertools
import math

import pytest
import torch
from oracle import (
    affine,
    cells,
    close,
    count,
    dot,
    draw,
    draw_mask,
    offered,
    plus,
    randomize,
    relu,
    softmax,
    watched,
    weighted,
)
from reading import B, M, N, Q, T, every_mask_and_nothing, make, pairs
from slow_layers import layer_norm, multi_head
from torch import nn

from regard.attention import (
    BilinearAttention,
    CrossmodalAttention,
    FeatureWiseModulation,
    GuidedAttention,
    ParallelCoAttention,
    ShapeError,
)


def slow_feed_forward(module, vector):
    return affine(module[2], relu(affine(module[0], vector)))


# Bilinear attention


def slow_bilinear_attention(module, queries, memory, some):
    where = list(itertools.product(range(T), range(N)))
    asking = [relu(affine(module.score_query, x)) for x in queries]
    asked = [relu(affine(module.score_memory, m)) for m in memory]
    refined, maps = queries, []
    for g in range(module.glimpses):
        p = module.score[g].tolist()
        scores = [
            sum(c * a * b for c, a, b in zip(p, asking[t], asked[n], strict=True)) if some[t][n] else None
            for t, n in where
        ]
        weights = softmax(scores)
        maps.append([weights[t * N : (t + 1) * N] for t in range(T)])
        K = module.hidden_width
        values = [relu(affine(module.values, m)[g * K : (g + 1) * K]) for m in memory]
        projected = [relu(affine(module.queries[g], x)) for x in refined]
        joint = [
            sum(weight * projected[t][k] * values[n][k] for weight, (t, n) in zip(weights, where, strict=True))
            for k in range(K)
        ]
        refined = [plus(x, affine(module.outputs[g], joint)) for x in refined]
    return [x if any(row) else [0.0] * Q for x, row in zip(refined, some, strict=True)], maps


@every_mask_and_nothing
@pytest.mark.parametrize("bias", [True, False])
def test_bilinear_attention(which, bias):
    module = randomize(BilinearAttention(Q, M, 11, glimpses=2, bias=bias))
    query, memory, mask = make(which)
    context, maps = watched(module, query, memory, mask)
    for b in range(B):
        expected, weights = slow_bilinear_attention(module, query[b].tolist(), memory[b].tolist(), pairs(mask, b))
        close(context[b], expected)
        close(maps["attention"][b], weights)
    without = (Q + M + 2) * 11 + 2 * (2 * Q + M) * 11
    assert count(module) == without + bias * (2 * 11 + 2 * 11 + 2 * 11 + 2 * Q)


def test_bilinear_attention_is_over_pairs():
    """One distribution over the words and the regions together, not one a word."""
    weights = offered(randomize(BilinearAttention(Q, M)), *make("none")[:2])[1].weights
    close(weights.sum((2, 3)), [[1.0] * 8] * B)
    assert not torch.allclose(weights.sum(3), torch.full((B, 8, T), 1 / T, dtype=torch.float64), atol=0.05)
    with pytest.raises(ValueError, match="glimpses=0"):
        BilinearAttention(Q, M, glimpses=0)


# Guided attention


def slow_guided(module, queries, memory, some, peers):
    read, among = multi_head(module.among, queries, queries, [peers if any(row) else [False] * T for row in some])
    context = [layer_norm(module.norms[0], plus(*both)) for both in zip(queries, read, strict=True)]
    read, guided = multi_head(module.guide, context, memory, some)
    context = [layer_norm(module.norms[1], plus(*both)) for both in zip(context, read, strict=True)]
    context = [layer_norm(module.norms[2], plus(x, slow_feed_forward(module.feed_forward, x))) for x in context]
    return [x if any(row) else [0.0] * Q for x, row in zip(context, some, strict=True)], among, guided


@every_mask_and_nothing
@pytest.mark.parametrize("padded", [False, True])
def test_guided(which, padded):
    module = randomize(GuidedAttention(Q, M, heads=2, expansion=2))
    query, memory, mask = make(which)
    query_mask = torch.tensor([[True, True, False], [True, False, True]]) if padded else None
    context, maps = watched(module, query, memory, mask, query_mask=query_mask)
    for b in range(B):
        peers = [True] * T if query_mask is None else query_mask[b].tolist()
        expected, among, guided = slow_guided(module, query[b].tolist(), memory[b].tolist(), pairs(mask, b), peers)
        close(context[b], expected)
        close(maps["self"][b], among)
        close(maps["guided"][b], guided)


def decoder_layer_and_guided(dropout):
    """PyTorch's layer and ours with the same parameters."""
    theirs = randomize(nn.TransformerDecoderLayer(Q, 2, 4 * Q, dropout=dropout, batch_first=True))
    ours = GuidedAttention(Q, Q, heads=2, dropout=dropout).double()
    assert count(ours) == count(theirs)
    for name, part in (("self_attn", ours.among), ("multihead_attn", ours.guide)):
        attention = getattr(theirs, name)
        with torch.no_grad():
            for at, layer in enumerate((part.query, part.key, part.value)):
                layer.weight.copy_(attention.in_proj_weight.chunk(3)[at])
                layer.bias.copy_(attention.in_proj_bias.chunk(3)[at])
        part.output.load_state_dict(attention.out_proj.state_dict())
    for at, layer in ((0, theirs.linear1), (2, theirs.linear2)):
        ours.feed_forward[at].load_state_dict(layer.state_dict())
    for at, layer in enumerate((theirs.norm1, theirs.norm2, theirs.norm3)):
        ours.norms[at].load_state_dict(layer.state_dict())
    return theirs, ours


def test_guided_attention_is_torch_s_decoder_layer():
    theirs, ours = decoder_layer_and_guided(0.0)
    query, memory, mask = draw((B, T, Q)), draw((B, N, Q)), draw_mask((B, N))
    assert mask.any(1).all()
    torch.testing.assert_close(ours(query, memory, mask), theirs(query, memory, memory_key_padding_mask=~mask))


def test_guided_attention_drops_what_torch_s_decoder_layer_does():
    """Weights, hidden entries and what residuals get: from one seed, the same ones."""
    query, memory = draw((1, T, Q)), draw((1, N, Q))  # PyTorch has larger batches in another order
    found = []
    for module in decoder_layer_and_guided(0.5):
        torch.manual_seed(1)
        found.append(module(query, memory))
    torch.testing.assert_close(*found)


def test_guided_attention_drops_in_training_alone_and_not_on_the_maps():
    module, (query, memory, _) = GuidedAttention(Q, M, heads=2, dropout=0.5).double(), make("none")
    assert not torch.equal(module(query, memory), module(query, memory))
    among = watched(module, query, memory)[1]["self"]
    module.eval()
    assert torch.equal(module(query, memory), module(query, memory))
    torch.testing.assert_close(among, watched(module, query, memory)[1]["self"])


@pytest.mark.parametrize("mechanism", [GuidedAttention, CrossmodalAttention])
def test_heads_divide_the_width(mechanism):
    with pytest.raises(ValueError, match="4 heads do not divide the width 6"):
        mechanism(Q, M, heads=4)


# Feature-wise linear modulation


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("spatial", [(5,), (3, 2), (2, 1, 3), (1, 1)])
@pytest.mark.parametrize("vector", [True, False])
def test_film(residual, spatial, vector):
    C = 7
    module = randomize(FeatureWiseModulation(C, Q, residual=residual))
    assert count(module) == 2 * C * (Q + 1)
    x, condition = draw((B, C, *spatial)), draw((B, Q) if vector else (B, Q, *spatial))
    y, maps = watched(module, x, condition)
    assert maps["scale"].shape == x.shape
    for b, cell in itertools.product(range(B), cells(spatial)):
        numbers = affine(module.generate, condition[(b, slice(None), *(() if vector else cell))].tolist())
        for c in range(C):
            gamma, beta = numbers[c] + (1 if residual else 0), numbers[C + c]
            close(y[(b, c, *cell)], gamma * float(x[(b, c, *cell)]) + beta)
            close(maps["scale"][(b, c, *cell)], gamma)


def test_film_keeps_the_map_where_it_predicts_nothing():
    module, x = FeatureWiseModulation(7, Q).double(), draw((B, 7, 3, 2))
    nn.init.zeros_(module.generate.weight)
    nn.init.zeros_(module.generate.bias)
    assert torch.equal(module(x, draw((B, Q))), x)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("shape", [(B,), (B, Q + 1), (B + 1, Q), (B, Q, 3), (B, Q, 1, 1), (B, Q, 2, 3)])
def test_film_refuses_a_condition_that_does_not_fit(shape):
    with pytest.raises(ShapeError, match="width of the condition"):
        FeatureWiseModulation(7, Q)(torch.randn(B, 7, 3, 2), torch.randn(shape))


# Parallel co-attention


def slow_co_attention(module, queries, memory, some):
    affinity = [
        [math.tanh(dot(q, affine(module.affinity, m))) if some[t][n] else 0.0 for n, m in enumerate(memory)]
        for t, q in enumerate(queries)
    ]
    asking, asked = [affine(module.query, q) for q in queries], [affine(module.memory, m) for m in memory]
    of_memory, of_query = [], []
    for n in range(N):
        hidden = plus(asked[n], weighted([affinity[t][n] for t in range(T)], asking))
        score = affine(module.memory_score, [math.tanh(number) for number in hidden])[0]
        of_memory.append(score if any(some[t][n] for t in range(T)) else None)
    for t in range(T):
        hidden = plus(asking[t], weighted(affinity[t], asked))
        score = affine(module.query_score, [math.tanh(number) for number in hidden])[0]
        of_query.append(score if any(some[t]) else None)
    memory_weights, query_weights = softmax(of_memory), softmax(of_query)
    context = weighted(query_weights, queries) + weighted(memory_weights, memory)
    return [context if any(row) else [0.0] * (Q + M) for row in some], memory_weights, query_weights


@every_mask_and_nothing
@pytest.mark.parametrize("bias", [True, False])
def test_co_attention(which, bias):
    module = randomize(ParallelCoAttention(Q, M, 11, bias=bias))
    assert count(module) == Q * M + (Q + M) * 11 + 2 * 11 + bias * (Q + 2 * 11 + 2)
    query, memory, mask = make(which)
    context, maps = watched(module, query, memory, mask)
    for b in range(B):
        expected, of_memory, of_query = slow_co_attention(module, query[b].tolist(), memory[b].tolist(), pairs(mask, b))
        close(context[b], expected)
        close(maps["memory"][b], of_memory)
        close(maps["query"][b], of_query)


# Directional crossmodal attention


def slow_crossmodal(module, queries, memory, some):
    asking = [layer_norm(module.query_norm, q) for q in queries]
    read, maps = multi_head(module.attend, asking, [layer_norm(module.memory_norm, m) for m in memory], some)
    code = module.variant == "code"
    context = []
    for t in range(T):
        z = plus(read[t], queries[t] if code else asking[t])
        y = layer_norm(module.norm, z)
        c = plus(slow_feed_forward(module.feed_forward, y), z if code else y)
        context.append(c if any(some[t]) else [0.0] * Q)
    return context, maps


@every_mask_and_nothing
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_crossmodal(which, variant):
    module = randomize(CrossmodalAttention(Q, M, heads=2, expansion=3, variant=variant))
    query, memory, mask = make(which)
    context, maps = watched(module, query, memory, mask)
    for b in range(B):
        expected, weights = slow_crossmodal(module, query[b].tolist(), memory[b].tolist(), pairs(mask, b))
        close(context[b], expected)
        close(maps["attention"][b], weights)


@pytest.mark.usefixtures("unchecked_shapes")
def test_crossmodal_has_two_variants():
    with pytest.raises(ValueError, match="variant='author', expected 'paper' or 'code'"):
        CrossmodalAttention(Q, M, heads=2, variant="author")
