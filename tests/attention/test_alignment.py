"""Reads against the papers' equations, written again as loops; hard reads also against statistics."""

import math

import pytest
import torch
from oracle import count, doubles, watched
from reading import allowed, every_mask
from torch import nn

from regard import functional
from regard.attention import (
    AdditiveRead,
    DotRead,
    HardRead,
    MultiHeadCrossAttention,
    ShapeError,
    StackedRead,
    offering,
)
from regard.attention.alignment.baseline import MovingBaseline
from regard.attention.alignment.score import DotScore, make_score
from regard.attention.offering import Request

B, T, N, Q, M, A = 3, 5, 7, 11, 13, 17
SCORES = ("additive", "dot", "general", "scaled_dot")


def stirred(module):
    """Random parameters, small enough that no softmax has but one weight."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module


def masks():
    """No mask, one for all queries, one for each; with tokens, rows and a whole memory left out."""
    shared, single = torch.rand(B, N) < 0.6, torch.rand(B, T, N) < 0.6
    shared[0], shared[1, 2] = False, True
    single[0, 1], single[2] = False, False
    single[1, 0, 0] = True
    return {"none": None, "shared": shared, "single": single}


def slow_softmax(row, some):
    exponentials = [math.exp(number) if take else 0.0 for number, take in zip(row, some, strict=True)]
    total = sum(exponentials)
    return torch.tensor([number / total if total else 0.0 for number in exponentials], dtype=torch.float64)


def slow_score(score, query, token):
    """One pair's score, from the parameters."""
    if isinstance(score, DotScore):
        projected = score.query.weight @ query if isinstance(score.query, nn.Linear) else query
        return sum(p * m for p, m in zip(projected.tolist(), token.tolist(), strict=True)) * score.scale
    inner = score.query.weight @ query + score.memory.weight @ token
    if score.query.bias is not None:
        inner = inner + score.query.bias
    return sum(v * math.tanh(x) for v, x in zip(score.vector.weight[0].tolist(), inner.tolist(), strict=True))


@torch.no_grad()
def slow_read(score, query, memory, mask):
    weights, context = torch.zeros(B, T, N, dtype=torch.float64), torch.zeros(B, T, M, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            row = [slow_score(score, query[b, t], memory[b, n]) for n in range(N)]
            weights[b, t] = slow_softmax(row, allowed(mask, b, t, N))
            for n in range(N):
                context[b, t] += weights[b, t, n] * memory[b, n]
    return weights, context


# Soft reads


@every_mask
@pytest.mark.parametrize("bias", [False, True])
def test_additive(which, bias):
    module, query, memory, mask = (
        stirred(AdditiveRead(Q, M, A, bias=bias)),
        doubles(B, T, Q),
        doubles(B, N, M),
        masks()[which],
    )
    weights, context = slow_read(module.score, query, memory, mask)
    found, maps = watched(module, query, memory, mask)
    torch.testing.assert_close(found, context)
    torch.testing.assert_close(maps["attention"], weights)


@every_mask
@pytest.mark.parametrize("score", ["dot", "general", "scaled_dot"])
def test_dot(which, score):
    width = Q if score == "general" else M
    module, query, memory, mask = (
        stirred(DotRead(width, M, score)),
        doubles(B, T, width),
        doubles(B, N, M),
        masks()[which],
    )
    weights, context = slow_read(module.score, query, memory, mask)
    found, maps = watched(module, query, memory, mask)
    torch.testing.assert_close(found, context)
    torch.testing.assert_close(maps["attention"], weights)
    assert module.score.scale == (M**-0.5 if score == "scaled_dot" else 1)
    assert count(module) == (Q * M if score == "general" else 0)


@pytest.mark.usefixtures("unchecked_shapes")
def test_scores_that_do_not_fit_are_refused_with_a_remedy():
    for score in ("dot", "scaled_dot"):
        with pytest.raises(ValueError, match="score='general'"):
            DotRead(Q, M, score)
    with pytest.raises(ValueError, match="'dot', 'general' or 'scaled_dot'"):
        DotRead(Q, M, "additive")
    with pytest.raises(ValueError, match="additive, dot, general, scaled_dot"):
        make_score("cosine", Q, M)
    with pytest.raises(ValueError, match="hidden_width"):
        make_score("general", Q, M, A)


def test_additive_scores_have_the_width_that_was_asked_for():
    assert make_score("additive", Q, M).vector.in_features == M
    assert make_score("additive", Q, M, A).vector.in_features == A


# Multi-head


@torch.no_grad()
def slow_multi_head(module, query, memory, mask):
    heads, d = module.heads, module.width // module.heads
    zero = torch.zeros(module.width, dtype=torch.float64)
    biases = [
        zero if layer.bias is None else layer.bias for layer in (module.query, module.key, module.value, module.output)
    ]
    weights = torch.zeros(B, heads, T, N, dtype=torch.float64)
    context = torch.zeros(B, T, module.width, dtype=torch.float64)
    for b in range(B):
        keys = [module.key.weight @ memory[b, n] + biases[1] for n in range(N)]
        values = [module.value.weight @ memory[b, n] + biases[2] for n in range(N)]
        for t in range(T):
            q = module.query.weight @ query[b, t] + biases[0]
            read = torch.zeros(module.width, dtype=torch.float64)
            for h in range(heads):
                part = slice(h * d, (h + 1) * d)
                row = [float(q[part] @ keys[n][part]) / math.sqrt(d) for n in range(N)]
                weights[b, h, t] = slow_softmax(row, allowed(mask, b, t, N))
                for n in range(N):
                    read[part] += weights[b, h, t, n] * values[n][part]
            if any(allowed(mask, b, t, N)):
                context[b, t] = module.output.weight @ read + biases[3]
    return weights, context


@every_mask
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "heads"), [(None, 11), (6, 3), (5, 1)])
def test_multi_head_cross(which, bias, width, heads):
    module = stirred(MultiHeadCrossAttention(Q, M, width, heads, bias))
    query, memory, mask = doubles(B, T, Q), doubles(B, N, M), masks()[which]
    weights, context = slow_multi_head(module, query, memory, mask)
    found, maps = watched(module, query, memory, mask)
    torch.testing.assert_close(found, context)
    torch.testing.assert_close(maps["attention"], weights)
    assert module.context_width == (width or Q)
    part = watched(module, query, memory, mask, request=Request(heads=(0,), queries=(3, 1)))[1]["attention"]
    torch.testing.assert_close(part, weights[:, :1, [3, 1]])


@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_cross_is_torch_s_with_the_mask_turned_over(bias):
    module = stirred(MultiHeadCrossAttention(12, M, heads=3, bias=bias))
    other = nn.MultiheadAttention(12, 3, bias=bias, kdim=M, vdim=M, batch_first=True).double()
    with torch.no_grad():
        other.q_proj_weight.copy_(module.query.weight)
        other.k_proj_weight.copy_(module.key.weight)
        other.v_proj_weight.copy_(module.value.weight)
        other.out_proj.weight.copy_(module.output.weight)
        if bias:
            other.in_proj_bias.copy_(torch.cat([module.query.bias, module.key.bias, module.value.bias]))
            other.out_proj.bias.copy_(module.output.bias)
    query, memory, mask = doubles(B, T, 12), doubles(B, N, M), torch.rand(B, N) < 0.6
    mask[:, 2] = True
    expected, weights = other(query, memory, memory, key_padding_mask=~mask, average_attn_weights=False)
    found, maps = watched(module, query, memory, mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(maps["attention"], weights)


def test_multi_head_dropout_acts_in_training_alone():
    module, query, memory = (
        stirred(MultiHeadCrossAttention(12, M, heads=3, dropout=0.5)),
        doubles(B, T, 12),
        doubles(B, N, M),
    )
    plain = stirred(MultiHeadCrossAttention(12, M, heads=3))
    plain.load_state_dict(module.state_dict())
    assert not torch.allclose(module(query, memory), plain(query, memory))
    torch.testing.assert_close(module.eval()(query, memory), plain(query, memory))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="8 heads do not divide the width 20"):
        MultiHeadCrossAttention(20, M)


# Stacked


@every_mask
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("hops", "width"), [(1, Q), (2, M), (3, Q)])
def test_stacked(which, score, hops, width):
    module = stirred(StackedRead(width, M, hops, A if score == "additive" else None, score))
    query, memory, mask = doubles(B, T, width), doubles(B, N, M) / 2, masks()[which]
    refined = query if width == M else query @ module.query.weight.T + module.query.bias
    expected = []
    for score_of_hop in module.scores:
        weights, context = slow_read(score_of_hop, refined, memory, mask)
        refined = refined + context
        expected.append(weights)
    if mask is not None:
        for b in range(B):
            for t in range(T):
                if not any(allowed(mask, b, t, N)):
                    refined[b, t] = 0
    found, maps = watched(module, query, memory, mask)
    torch.testing.assert_close(found, refined)
    torch.testing.assert_close(maps["attention"], torch.stack(expected, 1))
    part = watched(module, query, memory, mask, request=Request(queries=(4,)))[1]["attention"]
    torch.testing.assert_close(part, torch.stack(expected, 1)[:, :, [4]])


def test_stacked_hops_have_weights_of_their_own_and_the_paper_s_bias():
    module = StackedRead(M, M, hops=3, hidden_width=A)
    assert count(module) == 3 * (2 * M * A + A + A)
    assert count(StackedRead(Q, M, hops=3, hidden_width=A)) == count(module) + Q * M + M
    with pytest.raises(ValueError, match="hops"):
        StackedRead(Q, M, hops=0)


# Hard


def certain(mask, weights):
    """The rows that have something to attend to."""
    return (
        torch.ones(B, T).bool()
        if mask is None
        else torch.tensor([[any(allowed(mask, b, t, N)) for t in range(T)] for b in range(B)])
    )


@every_mask
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("estimator", ["score_function", "straight_through", "gumbel"])
@pytest.mark.parametrize("training", [True, False])
def test_hard_reads_one_token(which, score, estimator, training):
    width = M if "dot" in score else Q
    module = stirred(HardRead(width, M, score, estimator=estimator)).train(training)
    query, memory, mask = doubles(B, T, width), doubles(B, N, M), masks()[which]
    weights, _ = slow_read(module.score, query, memory, mask)
    with offering.recording_choices() as choices:
        context, maps = watched(module, query, memory, mask)
    torch.testing.assert_close(maps["attention"], weights)
    recorded = training and estimator == "score_function"
    assert len(choices.log_probabilities) == len(choices.entropies) == recorded
    for b in range(B):
        for t in range(T):
            choice = maps["choice"][b, t].tolist()
            if not any(allowed(mask, b, t, N)):
                assert not any(choice)
                assert not context[b, t].any()
                if recorded:
                    assert choices.log_probabilities[0][b, t] == choices.entropies[0][b, t] == 0
                continue
            assert sorted(choice) == [0] * (N - 1) + [1]
            index = choice.index(1)
            assert allowed(mask, b, t, N)[index]
            assert torch.equal(context[b, t], memory[b, index])
            if not training:
                assert weights[b, t, index] == weights[b, t].max()
            if recorded:
                torch.testing.assert_close(choices.log_probabilities[0][b, t], weights[b, t, index].log())
                entropy = -sum(p * math.log(p) for p in weights[b, t].tolist() if p > 0)
                assert abs(choices.entropies[0][b, t].item() - entropy) < 1e-10


@pytest.mark.parametrize("estimator", ["score_function", "straight_through", "gumbel"])
def test_hard_draws_follow_the_distribution(estimator):
    draws = 20_000
    module = stirred(HardRead(Q, M, estimator=estimator))
    query, memory, mask = doubles(1, 1, Q), doubles(1, N, M), torch.ones(1, N).bool()
    mask[0, 3] = False
    _, maps = watched(module, query.expand(1, draws, Q), memory, mask)
    p = maps["attention"][0, 0]
    found = maps["choice"][0].mean(0)
    assert found[3] == 0
    assert ((found - p).abs() <= 5 * (p * (1 - p) / draws).sqrt()).all()


def test_the_score_function_s_gradient_is_that_of_the_expected_reward():
    draws = 100_000
    module = stirred(HardRead(2, 3, "general"))
    query, memory = doubles(1, 1, 2), doubles(1, 4, 3)
    rewards = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    p = (module.score(query, memory)[0, 0]).softmax(0)
    (exact,) = torch.autograd.grad(-(p * rewards).sum(), module.score.query.weight, retain_graph=True)
    with offering.recording_choices() as choices:
        context, maps = watched(module, query.expand(1, draws, 2), memory)
    reward = maps["choice"][0] @ rewards  # of each draw
    for baseline in (0.0, float(reward.mean())):
        loss = functional.score_function_loss(choices.log_probabilities[0], reward[None], baseline)
        (found,) = torch.autograd.grad(loss, module.score.query.weight, retain_graph=True)
        single = torch.stack(  # the gradient that each of the four draws has
            [
                torch.autograd.grad(
                    -(rewards[n] - baseline) * p[n].log(), module.score.query.weight, retain_graph=True
                )[0]
                for n in range(4)
            ]
        )
        variance = (p[:, None, None] * single.square()).sum(0) - (p[:, None, None] * single).sum(0).square()
        assert ((found - exact).abs() <= 5 * (variance / draws).sqrt() + 1e-12).all()
    assert context.shape == (1, draws, 3)


def test_without_a_record_the_scores_learn_nothing_and_the_memory_does():
    module, query, memory = (
        stirred(HardRead(Q, M)),
        doubles(B, T, Q).requires_grad_(),
        doubles(B, N, M).requires_grad_(),
    )
    context, maps = watched(module, query, memory)
    context.sum().backward()
    torch.testing.assert_close(memory.grad, maps["choice"].sum(1)[..., None].expand(B, N, M))
    assert query.grad is None
    assert all(parameter.grad is None for parameter in module.parameters())


@every_mask
def test_straight_through_has_the_soft_read_s_gradient(which):
    mask = masks()[which]
    soft, hard = stirred(AdditiveRead(Q, M, A)), HardRead(Q, M, hidden_width=A, estimator="straight_through").double()
    hard.load_state_dict(soft.state_dict())
    query, memory, upstream = doubles(B, T, Q).requires_grad_(), doubles(B, N, M), doubles(B, T, M)
    gradients = [
        torch.autograd.grad((module(query, memory, mask) * upstream).sum(), [query, *module.parameters()])
        for module in (soft, hard)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_gumbel_has_the_gradient_of_the_softmax_with_noise_at_its_temperature():
    query, memory, upstream = doubles(B, T, Q).requires_grad_(), doubles(B, N, M), doubles(B, T, M)
    for temperature in (1.0, 0.3):
        module = stirred(HardRead(Q, M, estimator="gumbel", temperature=temperature))
        torch.manual_seed(7)
        (found,) = torch.autograd.grad((module(query, memory) * upstream).sum(), query)
        torch.manual_seed(7)
        noise = -torch.empty(B, T, N, dtype=torch.float64).exponential_().log()
        soft = ((module.score(query, memory) + noise) / temperature).softmax(-1)
        (expected,) = torch.autograd.grad(((soft @ memory) * upstream).sum(), query)
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("unchecked_shapes")
def test_hard_refuses_arguments_without_a_use():
    with pytest.raises(ValueError, match="'score_function', 'straight_through' or 'gumbel'"):
        HardRead(Q, M, estimator="reinforce")
    for arguments in ({"temperature": 0.5}, {"temperature": 0.0, "estimator": "gumbel"}):
        with pytest.raises(ValueError, match="temperature"):
            HardRead(Q, M, **arguments)
    with pytest.raises(ValueError, match="hidden_width"):
        HardRead(Q, M, score="general", hidden_width=A)


def test_the_baseline_is_a_moving_mean():
    baseline, expected = MovingBaseline(), 0.0
    for reward in (torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, -1.0]])):
        assert abs(baseline(reward).item() - expected) < 1e-6
        expected = 0.9 * expected + 0.1 * reward.mean().item()
    baseline.eval()
    assert abs(baseline(torch.tensor([9.0])).item() - expected) < 1e-6
    assert abs(baseline(torch.tensor([9.0])).item() - expected) < 1e-6
    assert abs(baseline.state_dict()["value"].item() - expected) < 1e-6
    sluggish = MovingBaseline(momentum=0.5)
    sluggish(torch.tensor([4.0]))
    assert sluggish.value == 2


# All


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("mechanism", [AdditiveRead, DotRead, HardRead, StackedRead])
def test_what_does_not_fit_is_refused(mechanism):
    module = mechanism(Q, M)
    with pytest.raises(ShapeError, match="query"):
        module(torch.randn(B, T, M), torch.randn(B, N, M))
    with pytest.raises(ShapeError, match="memory"):
        module(torch.randn(B, T, Q), torch.randn(B, N, Q))
    with pytest.raises(ShapeError, match="mask"):
        module(torch.randn(B, T, Q), torch.randn(B, N, M), torch.ones(B, T).bool())
