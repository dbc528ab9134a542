"""Pooling by learned queries, means and classes: the papers' equations written again as loops, and timm's layers."""

import math

import pytest
import torch
from oracle import (
    affine,
    close,
    count,
    dot,
    draw,
    gelu,
    offered,
    plus,
    randomize,
    sigmoid,
    softmax,
    weighted,
    weights_of,
)
from reading import allowed, every_mask, make_mask
from slow_layers import layer_norm
from timm.layers import AttentionPool2d, AttentionPoolLatent
from timm.models.cait import ClassAttn
from torch import nn

from regard.attention import (
    ClassAttention,
    ClassResidualPooling,
    CLIPAttentionPooling,
    GatedInstancePooling,
    MultiHeadAttentionPooling,
    ReadMap,
    ShapeError,
)
from regard.attention.offering import Request

B, T, N, Q, M, H = 2, 3, 7, 5, 6, 2


def compare(module, slow, which, *, query_width=Q, **options):
    """Context and map against `slow(module, query, memory, some)`, which gives those of one row."""
    memory, query, mask = draw((B, N, M)), draw((B, T, query_width)), make_mask(which, B, T, N)
    context, offer = offered(module, query, memory, mask, **options)
    found = weights_of(offer)
    at = offer.fact.axes.index("query")
    for b in range(B):
        for t in range(T):
            expected, weights = slow(module, query[b, t].tolist(), memory[b].tolist(), allowed(mask, b, t, N))
            close(context[b, t], expected)
            close(found[b].select(at - 1, t), weights)
    return context


def slow_heads(module, asking, tokens, some, own=None):
    """One query's heads over the tokens, and over `own` behind them if it is given: what is read, and the weights."""
    every = tokens if own is None else [*tokens, own]
    part = some if own is None else [*some, any(some)]
    q, keys = affine(module.query, asking), [affine(module.key, x) for x in every]
    vectors = [affine(module.value, x) for x in every]
    d = len(q) // module.heads
    read, maps = [], []
    for h in range(module.heads):
        cut = slice(h * d, (h + 1) * d)
        scores = [dot(q[cut], key[cut]) / math.sqrt(d) if may else None for key, may in zip(keys, part, strict=True)]
        weights = softmax(scores)
        read += weighted(weights, [vector[cut] for vector in vectors])
        maps.append(weights[: len(tokens)])
    context = affine(module.output, read) if any(some) else [0.0] * module.output.out_features
    return context, maps


# Multi-head attention pooling


def slow_multi_head_pool(module, query, memory, some, seed=0):
    context, maps = slow_heads(module, module.seed[seed].tolist(), memory, some)
    if module.mlp is None or not any(some):
        return context, maps
    norm, wide, _, narrow = module.mlp
    added = affine(narrow, [gelu(number) for number in affine(wide, layer_norm(norm, context))])
    return plus(context, added), maps


@every_mask
@pytest.mark.parametrize("mlp", [True, False])
def test_multi_head_pool(which, mlp):
    compare(randomize(MultiHeadAttentionPooling(Q, M, heads=H, mlp=mlp, mlp_ratio=1.5)), slow_multi_head_pool, which)


def test_every_seed_reads_for_its_own_query():
    module, memory = randomize(MultiHeadAttentionPooling(None, M, heads=H, seeds=T)), draw((B, N, M))
    context, offer = offered(module, None, memory)
    assert context.shape == (B, T, M)
    part = offer.weights(Request(heads=(1,), queries=(2,)))
    for b in range(B):
        for t in range(T):
            expected, maps = slow_multi_head_pool(module, None, memory[b].tolist(), [True] * N, seed=t)
            close(context[b, t], expected)
            if t == 2:
                close(part[b, 0, 0], maps[1])
    asked = MultiHeadAttentionPooling(Q, M, heads=H, seeds=T).double()
    asked.load_state_dict(module.state_dict())
    torch.testing.assert_close(asked(draw((B, T, Q)), memory), context)
    with pytest.raises(ShapeError, match="give one a seed"):
        asked(draw((B, T + 1, Q)), memory)


@pytest.mark.parametrize("mlp", [True, False])
def test_multi_head_pool_is_timm_s(mlp):
    """Also the count: timm's layer without the network is the same with an output projection and an empty network."""
    theirs = randomize(AttentionPoolLatent(M, num_heads=H, norm_layer=nn.LayerNorm))
    ours = MultiHeadAttentionPooling(None, M, heads=H, mlp=mlp).double()
    key, value = theirs.kv.weight.chunk(2)
    key_bias, value_bias = theirs.kv.bias.chunk(2)
    state = {
        "seed": theirs.latent[0],
        "query.weight": theirs.q.weight,
        "query.bias": theirs.q.bias,
        "key.weight": key,
        "key.bias": key_bias,
        "value.weight": value,
        "value.bias": value_bias,
        "output.weight": theirs.proj.weight,
        "output.bias": theirs.proj.bias,
    }
    if mlp:
        for at, layer in ((0, theirs.norm), (1, theirs.mlp.fc1), (3, theirs.mlp.fc2)):
            state |= {f"mlp.{at}.weight": layer.weight, f"mlp.{at}.bias": layer.bias}
        assert count(ours) == count(theirs)
    else:
        theirs.mlp = None
    ours.load_state_dict(state)
    memory = draw((B, N, M))
    torch.testing.assert_close(ours(None, memory)[:, 0], theirs(memory))


def test_multi_head_pool_has_heads_and_seeds():
    with pytest.raises(ValueError, match="4 heads do not divide"):
        MultiHeadAttentionPooling(Q, M, heads=4)
    with pytest.raises(ValueError, match="seeds=0"):
        MultiHeadAttentionPooling(Q, M, heads=H, seeds=0)


# CLIP's attention pooling


def slow_clip_pool(module, query, memory, some, table=None):
    table = module.embedding.tolist() if table is None else table
    present = [vector for vector, may in zip(memory, some, strict=True) if may]
    mean = [sum(vector[c] for vector in present) / max(1, len(present)) for c in range(M)]
    own = [one + other for one, other in zip(mean, module.mean_embedding.tolist(), strict=True)]
    tokens = [[one + other for one, other in zip(*pair, strict=True)] for pair in zip(memory, table, strict=True)]
    return slow_heads(module, own, tokens, some, own)


@every_mask
def test_clip_pool(which):
    compare(randomize(CLIPAttentionPooling(Q, M, width=11, heads=H, size=(1, N))), slow_clip_pool, which)


@pytest.mark.parametrize("grid", [(5, 3), (7, 2), (1, 1), (1, 13)])
def test_clip_pool_is_timm_s_on_every_grid(grid):
    theirs = randomize(AttentionPool2d(M, feat_size=(5, 3), out_features=11, head_dim=None, num_heads=H))
    ours = CLIPAttentionPooling(None, M, width=11, heads=H, size=(5, 3)).double()
    assert count(ours) == count(theirs) == (5 * 3 + 1) * M + 3 * (M * M + M) + M * 11 + 11
    state = {"mean_embedding": theirs.pos_embed[0], "embedding": theirs.pos_embed[1:]}
    for at, name in enumerate(("query", "key", "value")):
        state[f"{name}.weight"] = theirs.qkv.weight.chunk(3)[at]
        state[f"{name}.bias"] = theirs.qkv.bias.chunk(3)[at]
    ours.load_state_dict(state | {"output.weight": theirs.proj.weight, "output.bias": theirs.proj.bias})
    x = draw((B, M, *grid))
    # timm resizes in single precision.
    found = ours(None, x.flatten(2).transpose(1, 2), grid=grid)[:, 0]
    torch.testing.assert_close(found, theirs(x), rtol=1e-5, atol=1e-5)
    if grid == (5, 3):
        torch.testing.assert_close(ReadMap(ours)(draw((B, 1, 0)), x)[:, 0], found)


def test_clip_pool_guesses_the_grid_that_it_is_not_told():
    module = randomize(CLIPAttentionPooling(None, M, heads=H, size=(3, 2)))
    for cells, grid in ((6, (3, 2)), (16, (4, 4)), (7, (1, 7))):
        memory = draw((B, cells, M))
        assert torch.equal(module(None, memory), module(None, memory, grid=grid))
    other = module(None, draw((B, 6, M)), grid=(2, 3))
    assert not torch.allclose(module(None, draw((B, 6, M))), other)
    with pytest.raises(ShapeError, match="the cells of the grid"):
        module(None, draw((B, 6, M)), grid=(2, 2))


def test_clip_pool_has_a_head_for_every_64_channels():
    assert CLIPAttentionPooling(None, 192).heads == 3
    assert CLIPAttentionPooling(None, 24).heads == 1
    # CLIP's ResNet-50: 2048 channels, 32 heads, 1024 dimensions of text and image.
    with torch.device("meta"):
        module = CLIPAttentionPooling(None, 2048, width=1024)
    assert (module.heads, count(module)) == (32, 50 * 2048 + 3 * (2048**2 + 2048) + 2048 * 1024 + 1024)
    with pytest.raises(ValueError, match="4 heads do not divide"):
        CLIPAttentionPooling(None, M, heads=4)


# Gated pooling of instances


def slow_gated_instance(module, query, memory, some):
    scores = []
    for vector, may in zip(memory, some, strict=True):
        hidden = [math.tanh(number) for number in affine(module.hidden, vector)]
        if module.gate is not None:
            gates = [sigmoid(number) for number in affine(module.gate, vector)]
            hidden = [one * other for one, other in zip(hidden, gates, strict=True)]
        scores.append(affine(module.vector, hidden)[0] if may else None)
    weights = softmax(scores)
    return weighted(weights, memory), weights


@every_mask
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_gated_instance(which, gated, bias):
    module = randomize(GatedInstancePooling(Q, M, 11, gated=gated, bias=bias))
    assert count(module) == (2 if gated else 1) * (M + bias) * 11 + 11 + bias
    compare(module, slow_gated_instance, which)


# Class attention


def slow_class_attention(module, query, memory, some):
    token = query if isinstance(module.embed, nn.Identity) else affine(module.embed, query)
    return slow_heads(module, token, memory, some, token)


@every_mask
@pytest.mark.parametrize("query_width", [M, Q])
@pytest.mark.parametrize("bias", [True, False])
def test_class_attention(which, query_width, bias):
    module = randomize(ClassAttention(query_width, M, heads=H, bias=bias))
    compare(module, slow_class_attention, which, query_width=query_width)


@pytest.mark.parametrize("bias", [True, False])
def test_class_attention_is_timm_s(bias):
    theirs, ours = (
        randomize(ClassAttn(M, num_heads=H, qkv_bias=bias)),
        ClassAttention(M, M, heads=H, bias=bias).double(),
    )
    names = {"q": "query", "k": "key", "v": "value", "proj": "output"}
    ours.load_state_dict(
        {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": x for key, x in theirs.state_dict().items()}
    )
    assert count(ours) == count(theirs) == 4 * M * M + M + 3 * M * bias
    token, patches = draw((B, 1, M)), draw((B, N, M))
    torch.testing.assert_close(ours(token, patches), theirs(torch.cat([token, patches], 1)))


def test_the_class_token_may_be_learned():
    learned, given = randomize(ClassAttention(None, M, heads=H)), ClassAttention(M, M, heads=H).double()
    given.load_state_dict({name: x for name, x in learned.state_dict().items() if name != "token"})
    memory = draw((B, N, M))
    torch.testing.assert_close(learned(None, memory), given(learned.token.expand(B, -1, -1), memory))
    with pytest.raises(ShapeError, match="got a query, expected none"):
        learned(draw((B, 1, M)), memory)
    with pytest.raises(ShapeError, match="got no query, expected one"):
        given(None, memory)


# Class-specific residual attention


def slow_class_residual(module, query, memory, some):
    """By the paper's class-specific features, where the module needs the scores alone."""
    present = [vector for vector, may in zip(memory, some, strict=True) if may]
    mean = [sum(vector[c] for vector in present) / max(1, len(present)) for c in range(M)]
    logits, maps = [0.0] * module.classes, []
    for h, tau in enumerate(module.temperatures):
        maps.append([])
        for k in range(module.classes):
            w = module.weight[h, k].tolist()
            length = math.sqrt(dot(w, w)) if module.normalized else 1.0
            w = [number / length for number in w]
            scores = [dot(w, vector) if may else None for vector, may in zip(memory, some, strict=True)]
            if math.isinf(tau):
                highest = max((score for score in scores if score is not None), default=None)
                weights = [float(score is not None and score == highest) for score in scores]
            else:
                weights = softmax([None if score is None else tau * score for score in scores])
            special = weighted(weights, memory)
            feature = [one + module.residual * other for one, other in zip(mean, special, strict=True)]
            logits[k] += dot(w, feature)
            maps[h].append(weights)
    return logits, maps


@every_mask
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 2.5, math.inf)])
def test_class_residual(which, normalized, temperatures):
    module = ClassResidualPooling(Q, M, 5, temperatures, residual=0.3, normalized=normalized)
    assert count(module) == len(temperatures) * 5 * M
    compare(randomize(module), slow_class_residual, which)


def test_an_infinite_temperature_is_the_limit_of_high_ones():
    """With it the module is the mean of the scores plus λ times their maximum, the paper's four lines of code."""
    module = randomize(ClassResidualPooling(None, M, 5, (math.inf,), residual=0.3))
    memory = draw((B, N, M))
    scores = memory @ module.weight[0].t()
    torch.testing.assert_close(module(None, memory)[:, 0], scores.mean(1) + 0.3 * scores.amax(1))
    high = ClassResidualPooling(None, M, 5, (1e4,), residual=0.3).double()
    high.load_state_dict(module.state_dict())
    torch.testing.assert_close(high(None, memory), module(None, memory))


def test_class_residual_refuses_what_is_no_class_or_temperature():
    with pytest.raises(ValueError, match="classes=0"):
        ClassResidualPooling(Q, M, 0)
    for temperatures in ((), (1.0, 0.0)):
        with pytest.raises(ValueError, match="one or more, each a number above 0"):
            ClassResidualPooling(Q, M, 5, temperatures)


# All of them


@pytest.mark.parametrize(
    "make",
    [
        lambda width: MultiHeadAttentionPooling(width, M, heads=H),
        lambda width: CLIPAttentionPooling(width, M, heads=H),
        lambda width: GatedInstancePooling(width, M),
        lambda width: ClassResidualPooling(width, M),
    ],
)
def test_the_query_is_not_looked_at_and_may_be_left_out(make):
    module, other, memory = make(Q).double(), make(None).double(), draw((B, N, M))
    other.load_state_dict(module.state_dict())
    context = module(draw((B, T, Q)), memory)
    assert torch.equal(context, module(-draw((B, T, Q)), memory))
    for row in context.unbind(1):
        torch.testing.assert_close(row[:, None], other(None, memory))
