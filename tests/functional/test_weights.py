"""Weights, reads, draws and footprints against loops."""

import math

import pytest
import torch
from torch.nn import functional as F

from regard import functional

B, H, T, N, D, E = 2, 3, 5, 7, 11, 13


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def partly(*shape):
    """A mask with rows of all kinds: some, all and none of the keys."""
    mask = torch.rand(*shape) < 0.5
    mask.view(-1, shape[-1])[0] = False
    mask.view(-1, shape[-1])[1] = True
    return mask


def slow_softmax(row, allowed):
    exponentials = [math.exp(number) if some else 0.0 for number, some in zip(row, allowed, strict=True)]
    total = sum(exponentials)
    return [number / total if total else 0.0 for number in exponentials]


def slow_weights(scores, mask):
    rows, kept = scores.reshape(-1, scores.shape[-1]).tolist(), mask.expand(scores.shape).reshape(-1, scores.shape[-1])
    return torch.tensor(list(map(slow_softmax, rows, kept.tolist())), dtype=torch.float64).reshape(scores.shape)


def test_masked_softmax_is_a_softmax_over_what_takes_part():
    scores = doubles(B, T, N) * 3
    for mask in (partly(B, T, N), partly(B, 1, N)):
        found = functional.masked_softmax(scores, mask)
        torch.testing.assert_close(found, slow_weights(scores, mask))
        assert not found[~mask.expand_as(found)].any()
    torch.testing.assert_close(functional.masked_softmax(scores), slow_weights(scores, torch.ones(B, 1, N).bool()))


def test_masked_softmax_over_another_axis():
    scores, mask = doubles(B, T, N), partly(B, N, T).transpose(1, 2)
    expected = slow_weights(scores.transpose(1, 2), mask.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(functional.masked_softmax(scores, mask, dim=1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_softmax_of_large_scores_is_finite(dtype):
    scores = torch.tensor([[6e4, -6e4, 0.0], [6e4, 6e4, 6e4]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    weights = functional.masked_softmax(scores, mask)
    assert weights.tolist() == [[1, 0, 0], [0, 0, 0]]
    weights.square().sum().backward()
    assert scores.grad.isfinite().all()


def test_masked_softmax_has_the_derivative_and_none_where_masked():
    scores, mask = doubles(B, T, N).requires_grad_(), partly(B, T, N)
    assert torch.autograd.gradcheck(lambda scores: functional.masked_softmax(scores, mask), scores)
    functional.masked_softmax(scores, mask).square().sum().backward()
    assert not scores.grad[~mask].any()


def test_masked_log_softmax_is_the_logarithm():
    scores, mask = doubles(B, T, N).requires_grad_(), partly(B, T, N)
    found = functional.masked_log_softmax(scores, mask)
    expected = slow_weights(scores.detach(), mask)
    for b in range(B):
        for t in range(T):
            for n in range(N):
                value = math.log(expected[b, t, n]) if mask[b, t, n] else 0.0
                assert abs(found[b, t, n].item() - value) < 1e-12
    assert torch.autograd.gradcheck(lambda scores: functional.masked_log_softmax(scores, mask), scores)
    torch.testing.assert_close(functional.masked_log_softmax(scores), functional.masked_softmax(scores).log())


def test_read_is_the_expectation():
    weights, memory = doubles(B, T, N), doubles(B, N, D)
    expected = torch.zeros(B, T, D, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            for n in range(N):
                expected[b, t] += weights[b, t, n] * memory[b, n]
    torch.testing.assert_close(functional.read(weights, memory), expected)


def slow_attention(query, key, value, mask, scale):
    weights = torch.zeros(B, H, T, N, dtype=torch.float64)
    context = torch.zeros(B, H, T, value.shape[-1], dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                row = [float(query[b, h, t] @ key[b, h, n]) * scale for n in range(N)]
                weights[b, h, t] = torch.tensor(slow_softmax(row, mask[b, h, t].tolist()))
                for n in range(N):
                    context[b, h, t] += weights[b, h, t, n] * value[b, h, n]
    return weights, context


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("heads", [1, H])
@pytest.mark.parametrize("rows", [1, T])
def test_scaled_dot_product(scale, heads, rows):
    query, key, value = doubles(B, H, T, D), doubles(B, H, N, D), doubles(B, H, N, E)
    mask = partly(B, heads, rows, N)
    weights, context = slow_attention(query, key, value, mask.expand(B, H, T, N), D**-0.5 if scale is None else scale)
    torch.testing.assert_close(functional.scaled_dot_product_weights(query, key, mask, scale), weights)
    found = functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    torch.testing.assert_close(found, context)
    everything = torch.ones(B, H, T, N).bool()
    _, context = slow_attention(query, key, value, everything, D**-0.5 if scale is None else scale)
    torch.testing.assert_close(functional.scaled_dot_product_attention(query, key, value, scale=scale), context)


def test_scaled_dot_product_gradients_are_those_of_the_explicit_weights():
    inputs = [x.requires_grad_() for x in (doubles(B, H, T, D), doubles(B, H, N, D), doubles(B, H, N, E))]
    mask, upstream = partly(B, 1, T, N), doubles(B, H, T, E)
    fused = functional.scaled_dot_product_attention(*inputs, mask)
    explicit = functional.scaled_dot_product_weights(*inputs[:2], mask) @ inputs[2]
    fused_gradients = torch.autograd.grad((fused * upstream).sum(), inputs)
    explicit_gradients = torch.autograd.grad((explicit * upstream).sum(), inputs)
    for one, other in zip(fused_gradients, explicit_gradients, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other)
    assert not fused_gradients[0][0, :, 0].any()  # the query that has nothing to attend to


def test_scaled_dot_product_dropout_drops():
    query, key, value = doubles(B, H, T, D), doubles(B, H, N, D), doubles(B, H, N, E)
    kept = functional.scaled_dot_product_attention(query, key, value)
    assert not torch.allclose(functional.scaled_dot_product_attention(query, key, value, dropout=0.5), kept)


def test_scores():
    query, memory, vector = doubles(B, T, D), doubles(B, N, D), doubles(D)
    additive, dot = functional.additive_scores(query, memory, vector), functional.dot_scores(query, memory, 0.3)
    for b in range(B):
        for t in range(T):
            for n in range(N):
                pairs = list(zip(query[b, t].tolist(), memory[b, n].tolist(), vector.tolist(), strict=True))
                assert abs(additive[b, t, n] - sum(v * math.tanh(q + m) for q, m, v in pairs)) < 1e-12
                assert abs(dot[b, t, n] - 0.3 * sum(q * m for q, m, _ in pairs)) < 1e-12


def test_draws_come_as_often_as_their_weights_say():
    draws = 40_000
    weights = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    found = functional.draw(weights.expand(draws, 5)).bincount(minlength=5) / draws
    assert found[1] == 0
    assert ((found - weights).abs() <= 5 * (weights * (1 - weights) / draws).sqrt()).all()
    assert functional.draw(torch.zeros(2, 3)).tolist() == [0, 0]


def test_score_function_loss():
    log_probability = doubles(B, T).requires_grad_()
    reward, entropy = doubles(B, T).requires_grad_(), doubles(B, T)
    baseline = torch.tensor(0.3, dtype=torch.float64)
    expected = 0.0
    for b in range(B):
        for t in range(T):
            expected -= (reward[b, t].item() - 0.3) * log_probability[b, t].item() + 0.002 * entropy[b, t].item()
    loss = functional.score_function_loss(log_probability, reward, baseline, entropy, 0.002)
    assert abs(loss.item() - expected / (B * T)) < 1e-12
    loss.backward()
    torch.testing.assert_close(log_probability.grad, -(reward.detach() - 0.3) / (B * T))
    assert reward.grad is None
    with pytest.raises(ValueError, match="entropy"):
        functional.score_function_loss(log_probability, reward, entropy_weight=0.1)


def test_footprint_is_the_adjoint_of_bilinear_sampling():
    grid = torch.rand(2, 5, 3, 2, dtype=torch.float64) * 3 - 1.5
    image = torch.zeros(2, 1, 7, 11, dtype=torch.float64, requires_grad=True)
    F.grid_sample(image, grid, align_corners=False).sum().backward()
    torch.testing.assert_close(functional.footprint(grid, 7, 11), image.grad[:, 0] / 15)
    outside = torch.full((1, 2, 2, 2), 4.0)
    assert not functional.footprint(outside, 3, 5).any()


def test_the_gumbel_softmax_is_one_of_scores_with_noise_over_what_takes_part():
    scores, mask = doubles(B, T, N), partly(B, T, N)
    for temperature in (1.0, 0.3):
        torch.manual_seed(7)
        found = functional.gumbel_softmax(scores, mask, temperature)
        torch.manual_seed(7)
        noise = -torch.empty(B, T, N, dtype=torch.float64).exponential_().log()
        torch.testing.assert_close(found, slow_weights((scores + noise) / temperature, mask))
    assert functional.gumbel_softmax(scores.bfloat16()).dtype == torch.bfloat16


def test_the_likeliest_of_a_gumbel_softmax_is_a_draw():
    weights, draws = torch.tensor([0.4, 0.0, 0.1, 0.3, 0.2]), 20000
    found = functional.gumbel_softmax(weights.log().expand(draws, 5), temperature=0.5).argmax(-1)
    shares = found.bincount(minlength=5) / draws
    torch.testing.assert_close(shares, weights, rtol=0, atol=5 * math.sqrt(0.25 / draws))


@pytest.mark.parametrize("queries", [False, True], ids=["of a memory", "of the queries"])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_nonfinite_tokens_are_kept_from_those_that_do_not_read_them(junk, queries):
    count = N if queries else T
    tokens, mask = torch.randn(B, N, D), partly(B, count, N)
    tokens[0, 2, 3] = tokens[1, 4, 0] = tokens[1, 5, 1] = junk
    mask[1, :, 5], mask[1, 1, 4], mask[1, 2, 4] = False, True, False  # the one nobody reads, the other some
    given, undefined = functional.exclude_nonfinite(tokens, mask, queries)
    context = functional.mark_undefined(torch.ones(B, count, D), undefined)
    bad = [[not all(map(math.isfinite, token)) for token in row] for row in tokens.tolist()]
    for b in range(B):
        for n in range(N):
            kept = [number if math.isfinite(number) else 0.0 for number in tokens[b, n].tolist()]
            if not queries and (bad[b][n] or not mask[b, :, n].any()):
                kept = [0.0] * D
            assert given[b, n].tolist() == kept
        for t in range(count):
            wanted = any(bad[b][n] and mask[b, t, n] for n in range(N))
            wanted = wanted or (queries and bad[b][t] and bool(mask[b, :, t].any()))
            assert context[b, t].isnan().tolist() == [wanted] * D
            assert wanted or context[b, t].tolist() == [1.0] * D


def test_one_mask_for_all_leaves_what_is_read_to_itself():
    tokens = torch.full((1, 2, D), math.nan)
    mask = torch.tensor([[[True, False]]])
    for queries in (False, True):
        given, undefined = functional.exclude_nonfinite(tokens, mask, queries)
        assert given.isnan().all(2).tolist() == [[True, False]]
        assert undefined is None
        context = torch.ones(1, T, D)
        assert functional.mark_undefined(context, undefined) is context
    assert functional.exclude_nonfinite(tokens)[0] is tokens


def test_a_loss_over_an_undefined_result_has_no_defined_gradient():
    """Or a step with it would pass for one that is fine."""
    context = torch.ones(1, 2, D, requires_grad=True)
    marked = functional.mark_undefined(context, torch.tensor([[[True], [False]]]))
    marked.square().sum().backward()
    assert context.grad.isnan().all(2).tolist() == [[True, False]]
