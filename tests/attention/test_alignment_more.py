"""More reads against the papers' equations, written again as loops over single tokens."""

import math

import pytest
import torch
from oracle import (
    affine,
    close,
    count,
    dot,
    draw,
    draw_mask,
    gelu,
    plus,
    randomize,
    sigmoid,
    softmax,
    tanh,
    watched,
    weighted,
)
from reading import allowed, every_mask
from slow_layers import layer_norm
from torch import nn

from regard import functional
from regard.attention import (
    AdaptiveRead,
    AttentionOnAttention,
    GatedCrossAttention,
    LocalRead,
    LocationAwareRead,
    PerceiverResampler,
    QueryFormer,
    ShowAttendTell,
    SlotAttention,
    TopDownRead,
)
from regard.attention.offering import Request

B, T, N, Q, M, A = 2, 5, 7, 11, 13, 3


def inputs(which="none", query=Q, memory=M):
    """Query, memory and mask: none, one for all queries, or one for each; of one query nothing takes part."""
    mask = None if which == "none" else draw_mask((B, N) if which == "shared" else (B, T, N))
    if mask is not None:
        mask[1 if which == "shared" else (1, 2)] = False
    return draw((B, T, query)), draw((B, N, memory)).flip(0), mask


def taking_part(mask, b, t):
    """The numbers of the tokens that this query may see."""
    return [n for n, take in enumerate(allowed(mask, b, t, N)) if take]


def over(scores, part):
    """Softmax of the scores over the tokens that take part."""
    return softmax([score if n in part else None for n, score in enumerate(scores)])


def times(one, other):
    return [a * b for a, b in zip(one, other, strict=True)]


def compare(module, slow, which, query=Q, memory=M):
    """Context and maps against `slow(module, query, tokens, part)` of every query, which gives context, *maps."""
    query, memory, mask = inputs(which, query, memory)
    context, maps = watched(module, query, memory, mask)
    rows = [
        [slow(module, query[b, t].tolist(), memory[b].tolist(), taking_part(mask, b, t), t) for t in range(T)]
        for b in range(B)
    ]
    close(context, [[row[0] for row in sample] for sample in rows])
    for place, fact in enumerate(module.maps, start=1):
        close(maps[fact.label], [[row[place] for row in sample] for sample in rows])


def additive(score, query, tokens, extra=()):
    """`vᵀ tanh(W q + U m_n)` of every token."""
    asked = affine(score.query, query)
    inner = [*(affine(score.memory, token) for token in tokens), *extra]
    return [dot(score.vector.weight[0].tolist(), tanh(plus(asked, one))) for one in inner]


# Local


def slow_local(module, query, tokens, part, t):
    length = max((n + 1 for n in part), default=0)
    centre = t + 1.0
    if module.position == "predictive":
        centre = length * sigmoid(affine(module.vector, tanh(affine(module.hidden, query)))[0])
    asked = affine(module.score.query, query) if isinstance(module.score.query, nn.Linear) else query
    window = [n for n in part if centre - module.radius <= n + 1 <= centre + module.radius]
    weights = over([dot(asked, token) * module.score.scale for token in tokens], window)
    if module.position == "predictive":
        deviation = module.radius / 2
        weights = [a * math.exp(-((n + 1 - centre) ** 2) / (2 * deviation**2)) for n, a in enumerate(weights)]
    return weighted(weights, tokens), weights


@every_mask
@pytest.mark.parametrize("position", ["predictive", "monotonic"])
@pytest.mark.parametrize("radius", [1, 2, 10])
def test_local(which, position, radius):
    compare(randomize(LocalRead(Q, M, radius, position, hidden_width=A)), slow_local, which)


@pytest.mark.parametrize("score", ["dot", "scaled_dot"])
def test_local_scores(score):
    compare(randomize(LocalRead(M, M, 3, score=score)), slow_local, "single", query=M)


def test_local_reads_a_window_whose_place_depends_on_the_query():
    module = randomize(LocalRead(Q, M, radius=1))
    weights = watched(module, *inputs())[1]["attention"]
    assert ((weights > 0).sum(-1) <= 3).all()
    assert len({tuple(row) for row in (weights[0] > 0).tolist()}) > 1
    assert (weights.sum(-1) < 1).all()


def test_padding_does_not_move_the_local_window():
    module = randomize(LocalRead(Q, M, radius=2))
    query, memory, _ = inputs()
    padded = torch.cat([memory, draw((B, 5, M))], dim=1)
    mask = torch.arange(N + 5).expand(B, -1) < N
    torch.testing.assert_close(module(query, padded, mask), module(query, memory))


def test_the_local_position_is_learned_through_the_gaussian():
    module = randomize(LocalRead(Q, M, radius=20))
    query, memory, _ = inputs()
    module(query, memory).square().sum().backward()
    assert module.vector.weight.grad.any()
    assert not hasattr(LocalRead(Q, M, position="monotonic"), "vector")


@pytest.mark.usefixtures("unchecked_shapes")
def test_local_refuses_what_it_has_not():
    with pytest.raises(ValueError, match="'predictive' or 'monotonic'"):
        LocalRead(Q, M, position="uniform")
    with pytest.raises(ValueError, match="radius=0"):
        LocalRead(Q, M, radius=0)
    assert count(LocalRead(Q, M)) == Q * M + Q * Q + Q


# Show, attend and tell


def slow_show_attend_tell(module, query, tokens, part, t):
    score = module.score
    weights = over(additive(score, query, tokens), part)
    gates = [sigmoid(number) if part else 0.0 for number in affine(module.gate, query)]
    context = weighted(weights, tokens)
    if len(gates) == 1:
        return [gates[0] * number for number in context], weights, gates[0]
    return times(gates, context), weights, gates


@every_mask
@pytest.mark.parametrize("gate", ["scalar", "channel"])
@pytest.mark.parametrize("bias", [False, True])
def test_show_attend_tell(which, gate, bias):
    module = randomize(ShowAttendTell(Q, M, A, bias=bias, gate=gate))
    compare(module, slow_show_attend_tell, which)
    assert count(module) == (Q + M + 1) * A + A * bias + (Q + 1) * (1 if gate == "scalar" else M)


@pytest.mark.usefixtures("unchecked_shapes")
def test_show_attend_tell_refuses_another_gate():
    with pytest.raises(ValueError, match="'scalar' or 'channel'"):
        ShowAttendTell(Q, M, gate="vector")


def test_doubly_stochastic_penalty():
    weights, mask, queries = draw((B, T, N)).softmax(-1), draw_mask((B, N)), draw_mask((B, T))
    for some, steps in ((None, None), (mask, None), (None, queries), (mask, queries)):
        total = 0.0
        for b in range(B):
            for n in range(N):
                if some is None or some[b, n]:
                    read = sum(weights[b, t, n].item() for t in range(T) if steps is None or steps[b, t])
                    total += (1 - read) ** 2 / B
        assert functional.doubly_stochastic_penalty(weights, some, steps).item() == pytest.approx(total)
    once = torch.eye(N).expand(B, N, N)
    assert functional.doubly_stochastic_penalty(once).item() == 0


# Sentinel


def slow_sentinel(module, query, tokens, part, t):
    sentinel = times(
        [sigmoid(number) for number in affine(module.sentinel_gate, query)],
        tanh(affine(module.sentinel_content, query)),
    )
    scores = additive(module.score, query, tokens, [affine(module.sentinel_score, sentinel)])
    weights = over(scores[:-1], part)
    share = over(scores, [*part, N])[N] if part else 0.0
    context = [share * s + (1 - share) * c for s, c in zip(sentinel, weighted(weights, tokens), strict=True)]
    return context if part else [0.0] * M, weights, share


@every_mask
def test_sentinel(which):
    module = randomize(AdaptiveRead(Q, M, A))
    compare(module, slow_sentinel, which)
    rows = watched(module, *inputs(which), request=Request(queries=(3, 1)))[1]["attention"]
    torch.testing.assert_close(rows, watched(module, *inputs(which))[1]["attention"][:, [3, 1]])


def test_the_sentinel_takes_over_where_its_score_is_highest():
    module = randomize(AdaptiveRead(Q, M, A))
    query, memory, _ = inputs()
    with torch.no_grad():
        module.score.vector.weight.fill_(1.0)
        module.score.memory.weight.mul_(0)
        module.score.query.weight.mul_(0)
        module.sentinel_content.weight.mul_(0).add_(query[0, 0])
        module.sentinel_score.weight.fill_(1e3)
    context, maps = watched(module, query[:1, :1], memory[:1])
    assert maps["sentinel"].item() == pytest.approx(1 / (1 + N * math.exp(-A)))
    assert not torch.allclose(context, memory[:1].mean(1, keepdim=True))


# Several heads


def multi_head(heads, query, keys, values, part):
    """What the heads read, side by side, and their weights, of parts already projected."""
    d = len(query) // heads
    weights = []
    for h in range(heads):
        cut = slice(h * d, (h + 1) * d)
        weights.append(over([dot(query[cut], key[cut]) / math.sqrt(d) for key in keys], part))
    read = [weighted(weights[i // d], [[value[i]] for value in values])[0] for i in range(len(query))]
    return read, weights


def slow_heads(attention, query, tokens, part):
    """The same with the four projections around it."""
    keys, values = ([affine(layer, token) for token in tokens] for layer in (attention.key, attention.value))
    read, weights = multi_head(attention.heads, affine(attention.query, query), keys, values, part)
    return affine(attention.output, read), weights


def compare_heads(module, slow, which):
    """As `compare`, of modules whose first map has an axis of heads before the queries."""
    query, memory, mask = inputs(which)
    context, maps = watched(module, query, memory, mask)
    for b in range(B):
        for t in range(T):
            row = slow(module, query[b, t].tolist(), memory[b].tolist(), taking_part(mask, b, t))
            close(context[b, t], row[0])
            close(maps["attention"][b, :, t], row[1])
            if len(row) > 2:
                close(maps["gate"][b, t], row[2])
    part = watched(module, query, memory, mask, request=Request(heads=(1,), queries=(3, 1)))[1]["attention"]
    torch.testing.assert_close(part, maps["attention"][:, [1]][:, :, [3, 1]])


def slow_attention_on_attention(module, query, tokens, part):
    asked = affine(module.query, query)
    keys, values = ([affine(layer, token) for token in tokens] for layer in (module.key, module.value))
    read, weights = multi_head(module.heads, asked, keys, values, part)
    both = affine(module.output, read + (asked if module.beside == "projected" else query))
    gate = [sigmoid(number) if part else 0.0 for number in both[module.width :]]
    return times(gate, both[: module.width]), weights, gate


@every_mask
@pytest.mark.parametrize("beside", ["projected", "query"])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_on_attention(which, beside, bias):
    module = randomize(AttentionOnAttention(Q, M, 6, 3, bias, beside))
    compare_heads(module, slow_attention_on_attention, which)


def test_attention_on_attention_has_the_published_size():
    C = 24
    module = AttentionOnAttention(C, C, bias=True)
    assert count(module.output) == 2 * (2 * C) * C + 2 * C
    assert count(module) == 3 * (C * C + C) + 2 * (2 * C) * C + 2 * C


def test_attention_on_attention_is_multi_head_attention_behind_a_gated_linear_unit():
    module = randomize(AttentionOnAttention(12, M, heads=3, bias=True))
    other = nn.MultiheadAttention(12, 3, kdim=M, vdim=M, batch_first=True).double()
    keys = {"q_proj_weight": module.query, "k_proj_weight": module.key, "v_proj_weight": module.value}
    with torch.no_grad():
        for name, layer in keys.items():
            getattr(other, name).copy_(layer.weight)
        other.in_proj_bias.copy_(torch.cat([layer.bias for layer in keys.values()]))
        other.out_proj.weight.copy_(torch.eye(12))
        other.out_proj.bias.zero_()
    query, memory, _ = inputs(query=12)
    read, weights = other(query, memory, memory, average_attn_weights=False)
    expected = nn.functional.glu(module.output(torch.cat([read, module.query(query)], -1)), -1)
    context, maps = watched(module, query, memory)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(maps["attention"], weights)


@pytest.mark.usefixtures("unchecked_shapes")
def test_heads_and_what_stands_beside_must_fit():
    with pytest.raises(ValueError, match="8 heads do not divide the width 12: choose heads among 1, 2, 3, 4, 6, 12"):
        AttentionOnAttention(12, M)
    with pytest.raises(ValueError, match="expected 'projected' or 'query'"):
        AttentionOnAttention(8, M, beside="nothing")
    assert [GatedCrossAttention(width, M).heads for width in (7, 12, 34, 64)] == [7, 12, 2, 16]


def slow_gated_cross(module, query, tokens, part):
    read, weights = slow_heads(module.attention, layer_norm(module.norm, query), tokens, part)
    gate = math.tanh(module.gate.item()) if part else 0.0
    return [gate * number for number in read], weights


@every_mask
@pytest.mark.parametrize("bias", [False, True])
def test_gated_cross(which, bias):
    module = randomize(GatedCrossAttention(Q, M, 6, 3, bias))
    compare_heads(module, slow_gated_cross, which)


def test_gated_cross_starts_at_zero_and_learns_its_gate_first():
    module = GatedCrossAttention(16, M).double()
    query, memory, _ = inputs(query=16)
    context = module(query, memory)
    assert not context.any()
    (query + context).square().sum().backward()
    moved = {name for name, parameter in module.named_parameters() if parameter.grad.any()}
    assert moved == {"gate"}


# Learned queries


def slow_resampler(module, tokens, part):
    x, maps = module.latents.tolist(), []
    for layer in module.layers:
        normed = [layer_norm(layer.latent_norm, latent) for latent in x]
        keys = [layer_norm(layer.memory_norm, token) for token in tokens] + normed
        every = [*part, *range(N, N + len(x))]
        rows = []
        for i, latent in enumerate(normed):
            read, weights = slow_heads(layer.attention, latent, keys, every)
            x[i] = plus(x[i], read)
            hidden = [max(number, 0.0) ** 2 for number in affine(layer.hidden, layer_norm(layer.norm, x[i]))]
            x[i] = plus(x[i], affine(layer.output, hidden))
            rows.append([head[:N] for head in weights])
        maps.append([[row[h] for row in rows] for h in range(layer.attention.heads)])
    return x, maps


@pytest.mark.parametrize("which", ["none", "shared"])
@pytest.mark.parametrize(("width", "heads"), [(None, 13), (6, 2)])
def test_perceiver_resampler(which, width, heads):
    module = randomize(PerceiverResampler(M, latents=3, layers=2, width=width, heads=heads, expansion=2))
    _, memory, mask = inputs(which)
    context, maps = watched(module, memory, mask)
    for b in range(B):
        x, weights = slow_resampler(module, memory[b].tolist(), taking_part(mask, b, 0))
        close(context[b], x)
        close(maps["attention"][b], weights)
    assert not hasattr(module, "query")
    assert context.shape == (B, 3, module.context_width)


def test_perceiver_resampler_does_not_see_the_order_of_the_memory():
    module = randomize(PerceiverResampler(M, latents=3, layers=2))
    _, memory, _ = inputs()
    order = torch.randperm(N)
    torch.testing.assert_close(module(memory[:, order]), module(memory))


def slow_query_former(module, tokens, part):
    x, maps = [layer_norm(module.norm, query) for query in module.query.tolist()], []
    for number, layer in enumerate(module.layers):
        before = x
        x = [
            layer_norm(layer.attention_norm, plus(row, slow_heads(layer.attention, row, before, range(len(x)))[0]))
            for row in before
        ]
        if number % 2 == 0:
            read = [slow_heads(layer.crossing, row, tokens, part) for row in x]
            x = [layer_norm(layer.crossing_norm, plus(row, one)) for row, (one, _) in zip(x, read, strict=True)]
            maps.append([[weights[h] for _, weights in read] for h in range(module.heads)])
        hidden = [[gelu(number) for number in affine(layer.hidden, row)] for row in x]
        added = [affine(layer.output, one) for one in hidden]
        x = [layer_norm(layer.output_norm, plus(*both)) for both in zip(x, added, strict=True)]
    return x, maps


@pytest.mark.parametrize("which", ["none", "shared"])
@pytest.mark.parametrize(("width", "heads"), [(6, 2), (5, 1)])
def test_query_former(which, width, heads):
    module = randomize(QueryFormer(M, queries=N, layers=3, width=width, heads=heads, expansion=2))
    _, memory, mask = inputs(which)
    context, maps = watched(module, memory, mask)
    for b in range(B):
        x, weights = slow_query_former(module, memory[b].tolist(), taking_part(mask, b, 0))
        close(context[b], x)
        close(maps["attention"][b], weights)
    assert maps["attention"].shape == (B, 2, heads, N, N)
    part = watched(module, memory, mask, request=Request(heads=(0,), queries=(3, 1)))[1]["attention"]
    torch.testing.assert_close(part, maps["attention"][:, :, [0]][:, :, :, [3, 1]])


def test_query_former_has_the_published_size():
    with torch.device("meta"):
        module = QueryFormer(1408, width=768)
    assert (module.heads, module.crossings, len(module.layers)) == (12, 6, 12)
    # What the pre-trained one has besides, for text: word and position embeddings, and a feed-forward network a layer.
    text = (30523 + 512) * 768 + 12 * (2 * 768 * 3072 + 3072 + 3 * 768)
    head = 768 * 768 + 3 * 768 + 30523  # predicts words; its matrix is that of the embeddings
    assert count(module) + text + head == pytest.approx(188e6, rel=0.01)
    assert count(module) - module.query.numel() == 105_137_664


def test_a_layer_of_the_query_former_is_torch_s_without_its_crossing():
    module = randomize(QueryFormer(M, queries=N, layers=2, width=6, heads=2, expansion=2))
    layer, other = module.layers[1], nn.TransformerEncoderLayer(6, 2, 12, 0.0, "gelu", 1e-12, True).double()
    keys = {
        "self_attn.out_proj": layer.attention.output,
        "linear1": layer.hidden,
        "linear2": layer.output,
        "norm1": layer.attention_norm,
        "norm2": layer.output_norm,
    }
    state = {f"{key}.{name}": value for key, part in keys.items() for name, value in part.state_dict().items()}
    parts = (layer.attention.query, layer.attention.key, layer.attention.value)
    state["self_attn.in_proj_weight"] = torch.cat([part.weight for part in parts])
    state["self_attn.in_proj_bias"] = torch.cat([part.bias for part in parts])
    other.load_state_dict(state)
    x = draw((B, N, 6))
    torch.testing.assert_close(layer(x, x, None), other(x))


# Slots


def slow_gru(cell, state, given):
    """Cho et al. 2014 as PyTorch writes it: reset, update and new, one behind the other in the weights."""
    D = len(state)
    wi, wh, bi, bh = (p.tolist() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh))
    i = [dot(row, given) + b for row, b in zip(wi, bi, strict=True)]
    h = [dot(row, state) + b for row, b in zip(wh, bh, strict=True)]
    new = []
    for c in range(D):
        reset, update = sigmoid(i[c] + h[c]), sigmoid(i[D + c] + h[D + c])
        candidate = math.tanh(i[2 * D + c] + reset * h[2 * D + c])
        new.append((1 - update) * candidate + update * state[c])
    return new


def slow_slots(module, noise, tokens, part):
    deviations = module.log_deviation.exp().tolist()
    slots = [plus(module.mean.tolist(), times(deviations, row)) for row in noise]
    normed = [layer_norm(module.memory_norm, token) for token in tokens]
    keys, values = ([affine(layer, token) for token in normed] for layer in (module.key, module.value))
    weights = []
    for _ in range(module.iterations):
        asked = [affine(module.query, layer_norm(module.slot_norm, slot)) for slot in slots]
        shares = [softmax([dot(q, k) / math.sqrt(module.width) for q in asked]) for k in keys]  # over the slots
        weights = [[shares[n][s] if n in part else 0.0 for n in range(N)] for s in range(len(slots))]
        for s, row in enumerate(weights):
            total = sum(row[n] + module.eps for n in part)
            taken = [sum((row[n] + module.eps) / total * values[n][c] for n in part) for c in range(module.width)]
            state = slow_gru(module.update, slots[s], taken)
            hidden = [max(number, 0.0) for number in affine(module.hidden, layer_norm(module.norm, state))]
            slots[s] = plus(state, affine(module.output, hidden))
    return slots if part else [[0.0] * module.width for _ in slots], weights


@pytest.mark.parametrize("which", ["none", "shared"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("eps", [1e-8, 0.3])
def test_slots(which, training, eps):
    module = randomize(SlotAttention(M, slots=3, width=5, hidden_width=A, iterations=2, eps=eps)).train(training)
    _, memory, mask = inputs(which)
    torch.manual_seed(5)
    noise = torch.randn(B, 3, 5, dtype=torch.float64) if training else module.noise.expand(B, 3, 5)
    torch.manual_seed(5)
    slots, maps = watched(module, memory, mask)
    for b in range(B):
        expected, weights = slow_slots(module, noise[b].tolist(), memory[b].tolist(), taking_part(mask, b, 0))
        close(slots[b], expected)
        close(maps["attention"][b], weights)


def test_slots_are_drawn_for_every_sample_in_training_alone():
    module = randomize(SlotAttention(M, slots=3, width=5))
    memory = draw((1, N, M)).expand(2, -1, -1)
    one, other = module(memory)
    assert not torch.allclose(one, other)
    one, other = module.eval()(memory)
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one[0], one[1])


def test_slots_follow_their_noise_and_not_the_order_of_the_memory():
    module = randomize(SlotAttention(M, slots=3, width=5)).eval()
    _, memory, _ = inputs()
    expected = module(memory)
    torch.testing.assert_close(module(memory.flip(1)), expected)
    module.noise.copy_(module.noise.flip(0))
    torch.testing.assert_close(module(memory), expected.flip(1))


def test_slots_are_counted_as_in_the_paper():
    module = SlotAttention(M)
    assert (module.slots, module.width, module.hidden_width, module.iterations) == (7, 64, 128, 3)
    assert count(module.update) == 6 * 64 * 64 + 6 * 64
    with pytest.raises(ValueError, match="slots=0"):
        SlotAttention(M, slots=0)


# Location-aware


@every_mask
@pytest.mark.parametrize("kernel_size", [1, 5, 19])
def test_location_aware(which, kernel_size):
    module = randomize(LocationAwareRead(Q, M, A, filters=2, kernel_size=kernel_size))
    query, memory, mask = inputs(which)
    context, maps = watched(module, query, memory, mask)
    kernels = module.convolution.weight[:, 0].tolist()
    for b in range(B):
        row, tokens = [0.0] * N, memory[b].tolist()
        for t in range(T):
            scores = []
            for n in range(N):
                seen = [n + k - kernel_size // 2 for k in range(kernel_size)]
                found = [sum(kernel[k] * row[m] for k, m in enumerate(seen) if 0 <= m < N) for kernel in kernels]
                inner = plus(
                    affine(module.score.query, query[b, t].tolist()),
                    affine(module.score.memory, tokens[n]),
                    affine(module.location, found),
                )
                scores.append(dot(module.score.vector.weight[0].tolist(), tanh(inner)))
            row = over(scores, taking_part(mask, b, t))
            close(maps["attention"][b, t], row)
            close(context[b, t], weighted(row, tokens))


def test_location_aware_steps_give_what_all_queries_at_once_give():
    module = randomize(LocationAwareRead(Q, M, A, filters=2, kernel_size=5))
    query, memory, mask = inputs("single")
    whole, before, rows = module.weigh(query, memory, mask), None, []
    for t in range(T):
        before = module.weigh(query[:, [t]], memory, mask[:, [t]], before)[:, 0]
        rows.append(before)
    torch.testing.assert_close(torch.stack(rows, 1), whole)
    alone = module.weigh(query[:, 1:], memory, mask[:, 1:])
    assert not torch.allclose(alone, whole[:, 1:])


def test_location_aware_sizes():
    module = LocationAwareRead(Q, M, A)
    assert module.convolution.weight.shape == (10, 1, 201)
    assert count(module) == (Q + 1) * A + M * A + A + 10 * A + 10 * 201
    with pytest.raises(ValueError, match="odd"):
        LocationAwareRead(Q, M, kernel_size=4)


# Top-down


def slow_top_down(module, query, tokens, part, t):
    """With the paper's matrices over `[m; q]`, put together from their two halves."""
    whole = nn.Linear(M + Q, 2 * module.hidden_width).double()
    with torch.no_grad():
        whole.weight.copy_(torch.cat([module.memory.weight, module.query.weight], 1))
        whole.bias.copy_(module.query.bias)
    scores = []
    for token in tokens:
        both = affine(whole, token + query)
        content, gate = both[: module.hidden_width], both[module.hidden_width :]
        scores.append(dot(module.vector.weight[0].tolist(), times(tanh(content), [sigmoid(x) for x in gate])))
    weights = over(scores, part)
    return weighted(weights, tokens), weights


@every_mask
def test_top_down(which):
    compare(randomize(TopDownRead(Q, M, A)), slow_top_down, which)
    assert TopDownRead(Q, M).hidden_width == 512
    assert count(TopDownRead(Q, M, A)) == 2 * ((M + Q) * A + A) + A
