"""More efficient attention against the papers' equations, written again without the library, and against timm.

The references take the projections apart by hand and compute in double precision, pair by pair.
"""

import cmath
import math
from functools import partial

import pytest
import torch
from oracle import affine, cells, compare, count, dot, draw, draw_mask, heard, offered, randomize, softmax
from reading import masked
from slow_layers import interpolated, running_norm
from timm.models.cait import TalkingHeadAttn
from timm.models.efficientvit_msra import CascadedGroupAttention as TimmCascadedGroupAttention

from regard.attention import (
    AgentAttention,
    CascadedGroupAttention,
    LinearAttention,
    MultiHeadLatentAttention,
    MultiHeadSelfAttention,
    NystromAttention,
    PatternedAttention,
    PerformerAttention,
    TalkingHeadsAttention,
)
from regard.attention.offering import Request

# Patterns

SETS = {
    "causal": lambda t, n, extent: n <= t,
    "strided": lambda t, n, extent: n in range(max(0, t - extent), t + 1) or (n <= t and (t - n) % extent == 0),
    "sliding_window": lambda t, n, extent: t - extent <= n <= t + extent,
    "prefix": lambda t, n, extent: n < extent or n <= t,
    "block_diagonal": lambda t, n, extent: math.floor(t / extent) == math.floor(n / extent),
}


CAUSAL = {
    "patterned": PatternedAttention,
    "latent": MultiHeadLatentAttention,
    "linear": partial(LinearAttention, causal=True),
    "performer": partial(PerformerAttention, causal=True),
}


@pytest.mark.parametrize("build", CAUSAL.values(), ids=CAUSAL)
def test_what_comes_later_may_hold_anything(build):
    """Without a mask too: what a causal pattern leaves out reaches no earlier token, by no NaN either."""
    module = build(8, heads=2)
    outcomes = []
    x = torch.randn(2, 5, 8)
    for held in (1.0, math.nan):
        x[0, 3, 1] = held
        y = module(x)
        slopes = torch.autograd.grad(y[:, :3].square().sum(), list(module.parameters()))
        outcomes.append((y[:, :3], slopes))
        assert y[0, 3:].isnan().all() == math.isnan(held)
    torch.testing.assert_close(outcomes[1], outcomes[0])


@pytest.mark.parametrize("name", ["linear", "performer"])
def test_a_causal_token_that_is_left_out_may_hold_anything(name):
    """Also of the tokens after it, which would read it."""
    module = CAUSAL[name](8, heads=2)
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 2] = False
    expected = module(x, mask)
    x[0, 2, 1] = math.nan
    found = module(x, mask)
    assert found.isfinite().all()
    mask[0, 2] = True
    others = torch.arange(5) != 2
    torch.testing.assert_close(found[:, others], expected[:, others])
    assert module(x, mask)[0, 2:].isnan().all()


def slow_patterned(module, x, pairs):
    """Self-attention among the pairs `(example, query, key)` for which `pairs` is true."""
    B, N, C = x.shape
    d = C // module.heads
    y, attention = torch.empty_like(x), torch.zeros(B, module.heads, N, N, dtype=x.dtype)
    for b in range(B):
        parts = [affine(module.project, token.tolist()) for token in x[b]]
        for t in range(N):
            gathered = []
            for h in range(module.heads):
                query = parts[t][h * d : (h + 1) * d]
                keys = [part[C + h * d : C + (h + 1) * d] for part in parts]
                values = [part[2 * C + h * d : 2 * C + (h + 1) * d] for part in parts]
                scores = [dot(query, keys[n]) / math.sqrt(d) if pairs(b, t, n) else None for n in range(N)]
                weights = softmax(scores)
                attention[b, h, t] = torch.tensor(weights, dtype=x.dtype)
                gathered += [sum(weights[n] * values[n][e] for n in range(N)) for e in range(d)]
            y[b, t] = torch.tensor(affine(module.output, gathered), dtype=x.dtype)
    return y, attention


@pytest.mark.parametrize("pattern", SETS)
@pytest.mark.parametrize("extent", [2, 3, 11])
@masked
def test_a_pattern_is_its_set(pattern, extent, masked):
    module, x = randomize(PatternedAttention(6, heads=2, pattern=pattern, extent=extent)), draw((2, 7, 6))
    mask = draw_mask((2, 7)) if masked else None

    def pairs(b, t, n):
        return SETS[pattern](t, n, extent) and (mask is None or bool(mask[b, n]))

    compare(module, x, slow_patterned(module, x, pairs), mask)


def test_a_pattern_narrows_a_mask_of_pairs():
    module, x, mask = randomize(PatternedAttention(6, heads=2)), draw((2, 5, 6)), draw_mask((2, 5, 5))
    expected = slow_patterned(module, x, lambda b, t, n: n <= t and bool(mask[b, t, n]))
    offer = compare(module, x, expected, mask)
    part = offer.weights(Request(heads=(1,), queries=(3, 0)))
    torch.testing.assert_close(part, expected[1][:, 1:, [3, 0]])


@pytest.mark.parametrize("pattern", ["sliding_window", "prefix", "block_diagonal"])
def test_a_pattern_longer_than_the_sequence_is_plain_self_attention(pattern):
    module = randomize(PatternedAttention(6, heads=2, pattern=pattern, extent=7))
    plain = MultiHeadSelfAttention(6, heads=2).double()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(draw((2, 7, 6))), plain(draw((2, 7, 6))))


@pytest.mark.usefixtures("unchecked_shapes")
def test_patterns_refuse():
    with pytest.raises(ValueError, match="pattern='random', expected 'causal', 'strided'"):
        PatternedAttention(6, heads=2, pattern="random")
    with pytest.raises(ValueError, match="extent=0, expected a whole number from 1"):
        PatternedAttention(6, heads=2, extent=0)


# Cascaded groups


def slow_cascaded_group(module, x):
    where = cells(x.shape[2:])
    K, d = module.key_width, module.value_width
    y, attention = torch.empty_like(x), torch.zeros(len(x), module.heads, len(where), len(where), dtype=x.dtype)
    for b in range(len(x)):
        image = {cell: x[(b, slice(None), *cell)].tolist() for cell in where}
        found = {cell: [] for cell in where}
        for h in range(module.heads):
            query, key, value = {}, {}, {}
            for cell in where:
                part = image[cell][h * d : (h + 1) * d]
                if h:
                    part = [a + c for a, c in zip(part, found[cell][-d:], strict=True)]
                projected = running_norm(module.project[h][1], affine(module.project[h][0], part))
                query[cell], key[cell], value[cell] = projected[:K], projected[K : 2 * K], projected[2 * K :]
            kernel = module.near[h][0].weight  # (K, 1, *sizes)
            near = {}
            for cell in where:
                total = [0.0] * K
                for place in cells(kernel.shape[2:]):
                    other = tuple(c + p - s // 2 for c, p, s in zip(cell, place, kernel.shape[2:], strict=True))
                    if other in query:
                        total = [t + float(kernel[(e, 0, *place)]) * query[other][e] for e, t in enumerate(total)]
                near[cell] = running_norm(module.near[h][1], total)
            for i, cell in enumerate(where):
                weights = softmax([dot(near[cell], key[other]) / math.sqrt(K) for other in where])
                attention[b, h, i] = torch.tensor(weights, dtype=x.dtype)
                read = [sum(w * value[other][e] for w, other in zip(weights, where, strict=True)) for e in range(d)]
                found[cell] += read
        for cell in where:
            together = [max(0.0, z) if module.variant == "authors" else z for z in found[cell]]
            output = running_norm(module.output[1], affine(module.output[0], together))
            y[(b, slice(None), *cell)] = torch.tensor(output, dtype=x.dtype)
    return y, attention


@pytest.mark.parametrize(
    ("spatial", "arguments"),
    [
        ((3, 5), {"kernel_size": (5, 3, 1)}),
        ((2, 3), {"variant": "authors"}),
        ((7,), {"dims": 1, "heads": 2}),
        ((2, 1, 3), {"dims": 3}),
    ],
)
def test_cascaded_group_is_the_equation(spatial, arguments):
    module = randomize(CascadedGroupAttention(6, **{"heads": 3, "key_width": 5, "kernel_size": 3, **arguments})).eval()
    x = draw((2, 6, *spatial))
    with torch.no_grad():
        expected = slow_cascaded_group(module, x)
    offer = compare(module, x, expected)
    assert offer.grid == spatial
    torch.testing.assert_close(offer.weights(Request(heads=(1, 0))), expected[1][:, [1, 0]])


def test_cascaded_group_is_that_of_timm():
    """timm's has a value of `attn_ratio · key_dim` channels and biases of windows, which start at zero."""
    module = randomize(CascadedGroupAttention(12, heads=3, key_width=2, kernel_size=(5, 3, 7), variant="authors"))
    peer = TimmCascadedGroupAttention(12, 2, num_heads=3, attn_ratio=2, resolution=5, kernels=(5, 3, 7)).double()
    layers = {"project": "qkvs", "near": "dws", "output": "proj"}
    state = {}
    for key, tensor in module.state_dict().items():
        layer, *place, kind, name = key.split(".")
        place = place or ["1"]  # behind the ReLU
        state[".".join((layers[layer], *place, {"0": "conv", "1": "bn"}[kind], name))] = tensor
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["attention_biases"], [])
    x = draw((2, 12, 5, 5))
    torch.testing.assert_close(module(x), peer(x))  # in training, by the statistics of the batch
    module.eval()
    peer.eval()
    torch.testing.assert_close(module(x), peer(x))


def test_cascaded_group_feeds_every_head_with_the_one_before_it():
    module = randomize(CascadedGroupAttention(6, heads=3, key_width=2)).eval()
    x = draw((1, 6, 2, 3))
    other = x.clone()
    other[:, :2] += 1  # the first head's channels
    before, after = (offered(module, some)[1].weights(Request()) for some in (x, other))
    assert all(not torch.allclose(before[:, head], after[:, head]) for head in range(3))
    other = x.clone()
    other[:, 4:] += draw((1, 2, 2, 3))  # the last head's
    after = offered(module, other)[1].weights(Request())
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_cascaded_group_counts_the_parameters_of_the_papers_model():
    """EfficientViT-M4's last stage without its window biases: 384 channels, 4 heads, kernels 7, 5, 3 and 3."""
    module = CascadedGroupAttention(384, kernel_size=(7, 5, 3, 3))
    peer = TimmCascadedGroupAttention(384, 16, num_heads=4, attn_ratio=6, resolution=7, kernels=(7, 5, 3, 3))
    assert count(module) == count(peer) - peer.attention_biases.numel()


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 5}, "5 heads do not divide the width 6"),
        ({"kernel_size": 4}, "kernel_size=4, expected an odd whole number"),
        ({"heads": 2, "kernel_size": (3, 3, 3)}, "neither one size nor one for each of 2 heads"),
        ({"key_width": 0}, "key_width=0"),
        ({"variant": "timm"}, "variant='timm', expected 'paper' or 'authors'"),
        ({"dims": 4}, "dims=4"),
    ],
)
def test_cascaded_group_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        CascadedGroupAttention(6, **arguments)


# Agents


def slow_agent_bias(bias, spatial):
    """Of every head, agent and cell."""
    h, n = bias.block.shape[:2]
    total = torch.zeros(h, n, *spatial, dtype=torch.float64)
    for head, a in cells((h, n)):
        block = interpolated(bias.block[head, a], spatial)
        row = interpolated(bias.row[head, a, :, 0], spatial[:1])
        column = interpolated(bias.column[head, a, 0], spatial[1:])
        for i, j in cells(spatial):
            total[head, a, i, j] = block[i, j] + row[i] + column[j]
    return total


def slow_agent(module, x):
    spatial = tuple(x.shape[2:])
    where, grid = cells(spatial), cells((module.grid, module.grid))
    C, heads, k = module.channels, module.heads, module.kernel_size
    d = C // heads
    gather_bias, spread_bias = (slow_agent_bias(b, spatial) for b in (module.gather_bias, module.spread_bias))
    kernel, shift = module.local.weight.tolist(), module.local.bias.tolist()
    y = torch.empty_like(x)
    gathers = torch.zeros(len(x), heads, len(grid), len(where), dtype=x.dtype)
    spreads = torch.zeros(len(x), heads, len(where), len(grid), dtype=x.dtype)
    for b in range(len(x)):
        parts = {cell: affine(module.project, x[(b, slice(None), *cell)].tolist()) for cell in where}
        agents = []
        for place in grid:
            spans = [
                range(p * size // module.grid, -(-(p + 1) * size // module.grid))
                for p, size in zip(place, spatial, strict=True)
            ]
            held = [parts[i, j] for i in spans[0] for j in spans[1]]
            agents.append([sum(part[e] for part in held) / len(held) for e in range(C)])
        found = {cell: [] for cell in where}
        for h in range(heads):
            own = slice(h * d, (h + 1) * d)
            keys = [parts[cell][C + h * d : C + (h + 1) * d] for cell in where]
            values = [parts[cell][2 * C + h * d : 2 * C + (h + 1) * d] for cell in where]
            held = []
            for a, agent in enumerate(agents):
                scores = [
                    dot(agent[own], key) / math.sqrt(d) + float(gather_bias[(h, a, *cell)])
                    for cell, key in zip(where, keys, strict=True)
                ]
                weights = softmax(scores)
                gathers[b, h, a] = torch.tensor(weights, dtype=x.dtype)
                held.append([sum(w * value[e] for w, value in zip(weights, values, strict=True)) for e in range(d)])
            for t, cell in enumerate(where):
                scores = [
                    dot(parts[cell][own], agent[own]) / math.sqrt(d) + float(spread_bias[(h, a, *cell)])
                    for a, agent in enumerate(agents)
                ]
                weights = softmax(scores)
                spreads[b, h, t] = torch.tensor(weights, dtype=x.dtype)
                found[cell] += [sum(w * some[e] for w, some in zip(weights, held, strict=True)) for e in range(d)]
        for cell in where:
            total = [found[cell][e] + shift[e] for e in range(C)]
            for place in cells((k, k)):
                other = tuple(c + p - k // 2 for c, p in zip(cell, place, strict=True))
                if other in parts:
                    value = parts[other][2 * C :]
                    total = [z + kernel[e][0][place[0]][place[1]] * value[e] for e, z in enumerate(total)]
            y[(b, slice(None), *cell)] = torch.tensor(affine(module.output, total), dtype=x.dtype)
    return y, gathers, spreads


@pytest.mark.parametrize(
    ("spatial", "arguments"),
    [((3, 5), {}), ((5, 2), {"bias": True, "grid": 3}), ((1, 7), {"kernel_size": 5}), ((1, 1), {})],
)
def test_agent_is_the_equation(spatial, arguments):
    module = randomize(AgentAttention(6, **{"heads": 2, "grid": 2, "bias_size": 3, **arguments}))
    x = draw((2, 6, *spatial))
    with torch.no_grad():
        y, offers = heard(module, x)
        expected, gathers, spreads = slow_agent(module, x)
    torch.testing.assert_close(y, expected)
    maps = {offer.fact.label: offer.weights for offer in offers}
    torch.testing.assert_close(maps["gather"], gathers)
    torch.testing.assert_close(maps["spread"](Request()), spreads)
    torch.testing.assert_close(maps["spread"](Request(heads=(1,), queries=(0,))), spreads[:, 1:, :1])
    assert all(offer.grid == spatial for offer in offers)


def test_agents_number_49_and_carry_biases_of_blocks_rows_and_columns():
    module = AgentAttention(64)
    assert (module.heads, module.agents) == (2, 49)
    biases = 2 * 2 * 49 * (7 * 7 + 14 + 14)
    assert count(module) == 3 * 64 * 64 + 64 * 65 + 64 * 10 + biases


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"heads": 4}, "4 heads do not divide"), ({"kernel_size": 2}, "kernel_size=2"), ({"grid": 0}, "grid=0")],
)
def test_agent_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        AgentAttention(6, **arguments)


# Latent


def root_mean_square(norm, vector):
    if not isinstance(norm, torch.nn.RMSNorm):
        return vector
    eps = torch.finfo(torch.float64).eps if norm.eps is None else norm.eps
    size = math.sqrt(sum(z * z for z in vector) / len(vector) + eps)
    return [z / size * scale for z, scale in zip(vector, norm.weight.tolist(), strict=True)]


def turned(vector, place):
    """Pairs of numbers as complex numbers, times `exp(i · place / 10000^(2 pair / r))`."""
    result = []
    for pair in range(len(vector) // 2):
        angle = place / 10000 ** (2 * pair / len(vector))
        number = complex(vector[2 * pair], vector[2 * pair + 1]) * cmath.exp(1j * angle)
        result += [number.real, number.imag]
    return result


def slow_latent(module, x, pairs):
    B, N, _ = x.shape
    h, d, r = module.heads, module.head_width, module.rotary_width
    p = module.key_rank
    y, attention = torch.empty_like(x), torch.zeros(B, h, N, N, dtype=x.dtype)
    for b in range(B):
        down = [affine(module.project, token.tolist()) for token in x[b]]
        up = [affine(module.expand_key_value, root_mean_square(module.key_norm, one[:p])) for one in down]
        asked = [affine(module.expand_query, root_mean_square(module.query_norm, one[p + r :])) for one in down]
        for t in range(N):
            gathered = []
            for i in range(h):
                query = asked[t][i * (d + r) : (i + 1) * (d + r)]
                scores = []
                for n in range(N):
                    content = dot(query[:d], up[n][i * d : (i + 1) * d])
                    position = dot(turned(query[d:], t), turned(down[n][p : p + r], n))
                    scores.append((content + position) / math.sqrt(d + r) if pairs(b, t, n) else None)
                weights = softmax(scores)
                attention[b, i, t] = torch.tensor(weights, dtype=x.dtype)
                values = [one[h * d + i * d : h * d + (i + 1) * d] for one in up]
                gathered += [sum(weights[n] * values[n][e] for n in range(N)) for e in range(d)]
            y[b, t] = torch.tensor(affine(module.output, gathered), dtype=x.dtype)
    return y, attention


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"causal": False},
        {"normalize": True, "rotary_width": 6},
        {"key_rank": 7, "query_rank": 3, "rotary_width": 0, "head_width": 5},
    ],
    ids=str,
)
@masked
def test_latent_is_the_equation(arguments, masked):
    module, x = randomize(MultiHeadLatentAttention(6, heads=2, **arguments)), draw((2, 5, 6))
    mask = draw_mask((2, 5)) if masked else None

    def pairs(b, t, n):
        return (n <= t or not module.causal) and (mask is None or bool(mask[b, n]))

    with torch.no_grad():
        expected = slow_latent(module, x, pairs)
    compare(module, x, expected, mask)


def test_latent_counts_the_parameters_of_the_papers_model():
    """DeepSeek-V2, section 3.1.2: 5120 channels, 128 heads of 128, ranks 512 and 1536, 64 rotated channels."""
    with torch.device("meta"):
        module = MultiHeadLatentAttention(5120, heads=128, head_width=128)
    assert (module.key_rank, module.query_rank, module.rotary_width) == (512, 1536, 64)
    queries = 5120 * 1536 + 1536 * 128 * (128 + 64)
    keys_and_values = 5120 * (512 + 64) + 512 * 128 * (128 + 128)
    assert count(module) == queries + keys_and_values + 128 * 128 * 5120


def test_latent_scores_depend_on_how_far_apart_tokens_are():
    """Equal tokens: the same weights one place later, among the same distances."""
    module = randomize(MultiHeadLatentAttention(8, heads=2, causal=False))
    x = draw((1, 1, 8)).expand(1, 7, 8)
    weights = offered(module, x)[1].weights(Request()).detach()
    ratio = weights[..., 1:] / weights[..., :-1]  # of two neighbouring keys
    torch.testing.assert_close(ratio[:, :, 1:, 1:], ratio[:, :, :-1, :-1])
    assert not torch.allclose(weights, torch.full_like(weights, 1 / 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 4}, "4 heads do not divide"),
        ({"rotary_width": 3}, "rotary_width=3, expected an even whole number"),
        ({"key_rank": 0}, "key_rank=0"),
        ({"head_width": 0}, "head_width=0"),
    ],
)
def test_latent_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadLatentAttention(6, **{"heads": 2, **arguments})


# Nyström


def slow_nystrom(module, x, mask=None):
    """Every matrix by lists; the inverse by the iteration, of nested lists too."""
    B, N, C = x.shape
    h, k = module.heads, module.kernel_size
    d = C // h
    length = math.ceil(N / module.landmarks)
    segments = [range(first, min(first + length, N)) for first in range(0, N, length)]
    y = torch.empty_like(x)
    outs = torch.zeros(B, h, N, module.landmarks, dtype=x.dtype)
    intos = torch.zeros(B, h, module.landmarks, N, dtype=x.dtype)
    kernel = module.near.weight[:, 0, :, 0].tolist()
    for b in range(B):
        part = [mask is None or bool(mask[b, n]) for n in range(N)]
        rows = [affine(module.project, token.tolist()) for token in x[b]]
        found = [[] for _ in range(N)]
        for i in range(h):
            query, key, value = (
                [row[third * C + i * d : third * C + (i + 1) * d] for row in rows] for third in range(3)
            )
            held = [[n for n in segment if part[n]] for segment in segments]
            middle = [
                [[sum(some[n][e] for n in one) / len(one) for e in range(d)] if one else None for one in held]
                for some in (query, key)
            ]

            def weigh(asking, asked):
                return [
                    softmax([None if a is None or c is None else dot(a, c) / math.sqrt(d) for c in asked])
                    for a in asking
                ]

            keys = [one if part[n] else None for n, one in enumerate(key)]
            out, between, into = weigh(query, middle[1]), weigh(middle[0], middle[1]), weigh(middle[0], keys)
            outs[b, i, :, : len(segments)] = torch.tensor(out, dtype=x.dtype)
            intos[b, i, : len(segments)] = torch.tensor(into, dtype=x.dtype)
            A = torch.tensor(between, dtype=x.dtype)
            Z = A.T / ((torch.linalg.matrix_norm(A, 1) * torch.linalg.matrix_norm(A, math.inf)) or 1.0)
            identity = torch.eye(len(A), dtype=x.dtype)
            for _ in range(module.iterations):
                Z = 0.25 * Z @ (13 * identity - A @ Z @ (15 * identity - A @ Z @ (7 * identity - A @ Z)))
            weights = (torch.tensor(out, dtype=x.dtype) @ Z @ torch.tensor(into, dtype=x.dtype)).tolist()
            for t in range(N):
                for e in range(d):
                    total = sum(weights[t][n] * value[n][e] for n in range(N))
                    for place in range(k):
                        n = t + place - k // 2
                        if 0 <= n < N and part[n]:
                            total += kernel[i][place] * value[n][e]
                    found[t].append(total)
        for t in range(N):
            y[b, t] = torch.tensor(affine(module.output, found[t]), dtype=x.dtype)
    return y, outs, intos


@pytest.mark.parametrize(("tokens", "landmarks", "iterations"), [(11, 3, 6), (7, 7, 2), (5, 8, 3), (1, 2, 1)])
@masked
def test_nystrom_is_the_equation(tokens, landmarks, iterations, masked):
    module = randomize(
        NystromAttention(6, heads=2, landmarks=landmarks, iterations=iterations, kernel_size=5, bias=not masked)
    )
    x = draw((2, tokens, 6))
    mask = draw_mask((2, tokens)) if masked else None
    with torch.no_grad():
        y, offers = heard(module, x, mask)
        expected, outs, intos = slow_nystrom(module, x, mask)
    torch.testing.assert_close(y, expected)
    maps = {offer.fact.label: offer.weights for offer in offers}
    torch.testing.assert_close(maps["query"](Request()), outs)
    torch.testing.assert_close(maps["key"](Request()), intos)
    torch.testing.assert_close(maps["query"](Request(heads=(1,), queries=(0,))), outs[:, 1:, :1])


def test_nystrom_is_self_attention_where_every_token_is_a_landmark():
    """`A A⁺ A = A`, once the iteration has found the inverse."""
    module = NystromAttention(6, heads=2, landmarks=7, iterations=40).double()
    plain = MultiHeadSelfAttention(6, heads=2).double()
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if name != "near.weight"})
    torch.nn.init.zeros_(module.near.weight)
    x = draw((2, 7, 6))
    torch.testing.assert_close(module(x), plain(x))


def test_nystrom_inverts_every_matrix_by_its_own_norms():
    """The authors' first code took one norm for the whole batch, so that images changed each other."""
    module = NystromAttention(6, heads=2, iterations=1)
    weights = draw((2, 2, 5, 5)).softmax(3)
    weights[1] = torch.eye(5)
    torch.testing.assert_close(module.inverse(weights)[:1], module.inverse(weights[:1]))
    torch.testing.assert_close(module.inverse(weights)[1], weights[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"landmarks": 0}, "landmarks=0"), ({"iterations": 0}, "iterations=0"), ({"kernel_size": 2}, "kernel_size=2")],
)
def test_nystrom_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        NystromAttention(6, heads=2, **arguments)


# Talking heads


def slow_talking_heads(module, x, pairs):
    B, N, C = x.shape
    h, d = module.heads, C // module.heads
    mixtures = []
    for layer in (module.mix_scores, module.mix_weights):
        bias = [0.0] * h if layer.bias is None else layer.bias.tolist()
        mixtures.append((layer.weight[:, :, 0, 0].tolist(), bias))
    (L, score), (P, weight) = mixtures
    y, attention = torch.empty_like(x), torch.zeros(B, h, N, N, dtype=x.dtype)
    for b in range(B):
        rows = [affine(module.project, token.tolist()) for token in x[b]]
        for t in range(N):
            scores = [
                [
                    dot(rows[t][i * d : (i + 1) * d], rows[n][C + i * d : C + (i + 1) * d]) / math.sqrt(d)
                    for n in range(N)
                ]
                for i in range(h)
            ]
            weights = [
                softmax(
                    [
                        sum(L[i][j] * scores[j][n] for j in range(h)) + score[i] if pairs(b, t, n) else None
                        for n in range(N)
                    ]
                )
                for i in range(h)
            ]
            attention[b, :, t] = torch.tensor(weights, dtype=x.dtype)
            gathered = []
            for i in range(h):
                mixed = [
                    sum(P[i][j] * weights[j][n] for j in range(h)) + weight[i] if pairs(b, t, n) else 0.0
                    for n in range(N)
                ]
                gathered += [sum(mixed[n] * rows[n][2 * C + i * d + e] for n in range(N)) for e in range(d)]
            y[b, t] = torch.tensor(affine(module.output, gathered), dtype=x.dtype)
    return y, attention


@pytest.mark.parametrize("biased", [False, True], ids=["", "biased"])
@pytest.mark.parametrize("shape", [None, (2, 5), (2, 5, 5)], ids=["all", "masked", "pairs"])
def test_talking_heads_is_the_equation(shape, biased):
    module, x = randomize(TalkingHeadsAttention(6, heads=3, bias=biased, mixing_bias=biased)), draw((2, 5, 6))
    mask = None if shape is None else draw_mask(shape)

    def pairs(b, t, n):
        return mask is None or bool(mask[b, n] if mask.ndim == 2 else mask[b, t, n])

    with torch.no_grad():
        expected = slow_talking_heads(module, x, pairs)
    compare(module, x, expected, mask)


def test_talking_heads_is_that_of_timm():
    module = randomize(TalkingHeadsAttention(6, heads=3, bias=True, mixing_bias=True))
    peer = TalkingHeadAttn(6, num_heads=3, qkv_bias=True).double()
    layers = {"project": "qkv", "output": "proj", "mix_scores": "proj_l", "mix_weights": "proj_w"}
    state = {}
    for key, tensor in module.state_dict().items():
        layer, name = key.split(".")
        state[f"{layers[layer]}.{name}"] = tensor.flatten(1) if tensor.ndim == 4 else tensor
    peer.load_state_dict(state)
    torch.testing.assert_close(module(draw((2, 5, 6))), peer(draw((2, 5, 6))))


def test_talking_heads_that_do_not_talk_are_self_attention():
    module = randomize(TalkingHeadsAttention(6, heads=3))
    plain = MultiHeadSelfAttention(6, heads=3, bias=False).double()
    with torch.no_grad():
        for layer in (module.mix_scores, module.mix_weights):
            layer.weight.copy_(torch.eye(3)[:, :, None, None])
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if "mix" not in name})
    torch.testing.assert_close(module(draw((2, 5, 6))), plain(draw((2, 5, 6))))


def test_talking_costs_two_matrices_of_heads():
    plain = MultiHeadSelfAttention(24, heads=8, bias=False)
    assert count(TalkingHeadsAttention(24)) == count(plain) + 2 * 8 * 8
