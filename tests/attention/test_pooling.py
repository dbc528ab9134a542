"""Attention pooling against the paper's equation, written again as loops."""

import math

import pytest
import torch
from oracle import count, doubles, offered
from reading import allowed, every_mask

from regard.attention import ShapeError, SpatialSoftmaxPooling
from regard.attention.offering import Request

B, T, N, Q, M, A = 3, 5, 7, 11, 13, 17


def slow(module, memory, mask, b, t):
    """Weights and context of one row."""
    some = allowed(mask, b, t, N)
    exponentials = []
    for n in range(N):
        hidden = (module.hidden.weight @ memory[b, n]).tolist()
        score = sum(w * math.tanh(x) for w, x in zip(module.vector.weight[0].tolist(), hidden, strict=True))
        exponentials.append(math.exp(score) if some[n] else 0.0)
    total = sum(exponentials)
    weights = [number / total if total else 0.0 for number in exponentials]
    return weights, sum(weight * memory[b, n] for n, weight in enumerate(weights))


@every_mask
@pytest.mark.parametrize("hidden_width", [None, A])
def test_softmax_pool(which, hidden_width):
    module = SpatialSoftmaxPooling(Q, M, hidden_width).double()
    assert count(module) == (M + 1) * (hidden_width or M)
    query, memory = doubles(B, T, Q), doubles(B, N, M)
    mask = {"none": None, "shared": torch.rand(B, N) < 0.6, "single": torch.rand(B, T, N) < 0.6}[which]
    if mask is not None:
        mask[0] = False
    context, offer = offered(module, query, memory, mask)
    assert context.shape == (B, T, M)
    shown = offer.weights(Request())
    assert shown.shape == (B, T, N)
    for b in range(B):
        for t in range(T):
            weights, expected = slow(module, memory, mask, b, t)
            torch.testing.assert_close(shown[b, t], torch.tensor(weights, dtype=torch.float64))
            torch.testing.assert_close(context[b, t], expected)
    assert torch.equal(module(doubles(B, T, Q), memory, mask), context)


def test_without_a_query_there_is_one_row():
    module, memory = SpatialSoftmaxPooling(None, M).double(), doubles(B, N, M)
    context = module(None, memory)
    assert context.shape == (B, 1, M)
    other = SpatialSoftmaxPooling(Q, M).double()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(doubles(B, 1, Q), memory), context)
    torch.testing.assert_close(other(None, memory), context)


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_does_not_fit_is_refused():
    module = SpatialSoftmaxPooling(Q, M)
    with pytest.raises(ShapeError, match="query"):
        module(torch.randn(B, T, M), torch.randn(B, N, M))
    with pytest.raises(ShapeError, match="memory"):
        module(torch.randn(B, T, Q), torch.randn(B, N, Q))
