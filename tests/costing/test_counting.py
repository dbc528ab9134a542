"""Bytes moved and kept equal what one counts by hand on nets of one or two operators."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from regard.attention import MultiHeadSelfAttention, OnMap, OnTokens
from regard.attention.channel import SqueezeExcitation
from regard.costing.counting import Counts, count
from regard.running import Inputs, undisturbed

FLOAT = 4


class Function(nn.Module):
    """A model that is one function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def counted(model: nn.Module | Callable[..., Tensor], *inputs: Tensor) -> Counts:
    model = model if isinstance(model, nn.Module) else Function(model)
    with undisturbed(model):
        return count(model, Inputs(inputs))


def moved(model: nn.Module | Callable[..., Tensor], *inputs: Tensor) -> int:
    return counted(model, *inputs).bytes_moved


def kept(model: nn.Module | Callable[..., Tensor], *inputs: Tensor) -> int:
    return counted(model, *inputs).activation_bytes


def test_a_convolution_reads_map_weight_and_bias_and_writes_its_map() -> None:
    layer = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
    assert moved(layer, torch.rand(2, 6, 9, 11)) == FLOAT * (2 * 6 * 9 * 11 + 8 * 3 * 9 + 8 + 2 * 8 * 5 * 6)


def test_a_linear_layer_on_tokens() -> None:
    assert moved(nn.Linear(7, 11), torch.rand(3, 5, 7)) == FLOAT * (3 * 5 * 7 + 7 * 11 + 11 + 3 * 5 * 11)


def test_products_of_attention_read_both_sides() -> None:
    q, k = torch.rand(2, 13, 5), torch.rand(2, 11, 5)
    assert moved(lambda q, k: q @ k.mT, q, k) == FLOAT * (2 * 13 * 5 + 2 * 11 * 5 + 2 * 13 * 11)


@pytest.mark.parametrize("in_place", [False, True])
def test_an_elementwise_operator_reads_and_writes_once(in_place: bool) -> None:
    assert moved(nn.ReLU(in_place), torch.rand(2, 3, 5)) == 2 * 2 * 3 * 5 * FLOAT


def test_each_type_has_its_width() -> None:
    assert moved(torch.exp, torch.rand(7, 3, dtype=torch.float64)) == 2 * 21 * 8
    assert moved(torch.exp, torch.rand(7, 3).bfloat16()) == 2 * 21 * 2
    assert moved(lambda x: x > 0.5, torch.rand(7, 3)) == 21 * (FLOAT + 1)


def test_views_are_free_and_copies_are_not() -> None:
    x = torch.rand(3, 5, 7)
    assert moved(lambda x: x.transpose(1, 2).unflatten(1, (7, 1))[:, 2:].squeeze(2).detach(), x) == 0
    assert moved(lambda x: x.transpose(1, 2).contiguous(), x) == 2 * 105 * FLOAT


def test_what_is_read_twice_by_one_operator_or_expanded_is_read_once() -> None:
    x, gate = torch.rand(3, 5, 7), torch.rand(3, 5, 1)
    assert moved(lambda x: x * x, x) == 2 * 105 * FLOAT
    assert moved(lambda x, gate: x * gate.expand(3, 5, 7), x, gate) == (2 * 105 + 15) * FLOAT
    assert moved(lambda x, gate: x * gate, x, gate) == (2 * 105 + 15) * FLOAT


def test_what_is_overwritten_is_not_read_and_what_is_allocated_is_not_written() -> None:
    x = torch.rand(3, 5)
    assert moved(lambda x: torch.empty(3, 5).copy_(x), x) == 2 * 15 * FLOAT
    assert moved(lambda x: torch.empty(7, 2).fill_(1.0), x) == 14 * FLOAT
    assert moved(lambda x: torch.empty_like(x), x) == 0
    assert moved(lambda x: torch.add(x, 1, out=torch.empty(3, 5)), x) == 2 * 15 * FLOAT
    assert moved(lambda x: torch.zeros(3, 5).add_(x), x) == (1 + 3) * 15 * FLOAT


def test_a_lookup_reads_what_it_finds() -> None:
    found, table = torch.tensor([3, 977, 3]), torch.rand(1009, 5)
    assert moved(embedding, found, table) == 3 * 8 + 2 * 3 * 5 * FLOAT
    assert moved(lambda table, found: table.index_select(0, found), table, found) == 3 * 8 + 2 * 3 * 5 * FLOAT


def test_a_concatenation_reads_every_part() -> None:
    parts = torch.rand(2, 3), torch.rand(2, 5)
    assert moved(lambda x, y: torch.cat([x, y], 1), *parts) == 2 * (6 + 10) * FLOAT


def test_fused_attention_moves_no_scores() -> None:
    q = torch.rand(1, 1, 211, 8)
    fused = moved(lambda q: scaled_dot_product_attention(q, q, q), q)
    assert 2 * q.numel() * FLOAT <= fused < 211 * 211 * FLOAT
    assert moved(lambda q: torch.softmax(q @ q.mT / 8**0.5, -1) @ q, q) > 3 * 211 * 211 * FLOAT


def test_layers_in_one_kernel_are_taken_apart() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True, dropout=0.0)
    weights = sum(parameter.numel() for parameter in layer.parameters())
    tokens = 3 * 13
    # in: q, k, v; projection; two norms; two residuals; hidden layer, its ReLU and back: all are read and written
    least = 3 * 8 + 8 + 2 * 8 + 2 * 8 + 16 + 16 + 8
    assert moved(layer, torch.rand(3, 13, 8)) > FLOAT * (weights + 2 * tokens * least)


def test_a_linear_layer_keeps_its_input() -> None:
    assert kept(nn.Linear(7, 11), torch.rand(3, 7)) == 3 * 7 * FLOAT


def test_a_frozen_model_keeps_nothing() -> None:
    assert kept(nn.Linear(7, 11).requires_grad_(False), torch.rand(3, 7)) == 0


def test_half_frozen_model_keeps_what_its_end_needs() -> None:
    model = nn.Sequential(nn.Linear(7, 11), nn.Sigmoid(), nn.Linear(11, 5))
    assert kept(model, torch.rand(3, 7)) == 3 * (7 + 11) * FLOAT
    model[0].requires_grad_(False)
    assert kept(model, torch.rand(3, 7)) == 3 * 11 * FLOAT


def test_one_storage_is_kept_once_and_whole() -> None:
    def function(x: Tensor) -> Tensor:
        return (x[:, :2] * x[:, :2]).exp().sum() + x.sin().sum()

    x = torch.rand(3, 7, requires_grad=True)
    assert kept(function, x) == (3 * 7 + 3 * 2) * FLOAT  # x whole though a part is used, and the exponential


def test_normalisation_in_evaluation_keeps_its_input_and_no_statistics() -> None:
    assert kept(nn.BatchNorm2d(5), torch.rand(3, 5, 7, 2)) == 3 * 5 * 7 * 2 * FLOAT


def test_a_mechanism_keeps_what_it_would_within_a_network() -> None:
    B, C, H, W = 3, 32, 5, 7
    hidden = C // 16
    expected = B * (C * H * W + C + hidden + C) * FLOAT  # the map, its mean, the bottleneck, the gate
    assert kept(SqueezeExcitation(C), torch.rand(B, C, H, W)) == expected
    assert kept(SqueezeExcitation(C).requires_grad_(False), torch.rand(B, C, H, W)) > B * C * H * W * FLOAT


def test_an_adapter_is_a_mechanism_too() -> None:
    attention = OnMap(MultiHeadSelfAttention(8, heads=2)).requires_grad_(False)
    assert kept(attention, torch.rand(2, 8, 3, 5)) >= 3 * 2 * 15 * 8 * FLOAT  # queries, keys and values
    gate = OnTokens(SqueezeExcitation(32), grid=(3, 5)).requires_grad_(False)
    assert kept(gate, torch.rand(2, 15, 32)) >= 2 * 15 * 32 * FLOAT  # the map that the gate multiplies


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_checkpointing_keeps_less() -> None:
    inner = nn.Sequential(nn.Linear(7, 101), nn.Sigmoid(), nn.Linear(101, 7))
    x = torch.rand(3, 7)
    assert kept(inner, x) == 3 * (7 + 101) * FLOAT
    assert kept(Checkpointed(inner), x) <= 3 * 7 * FLOAT


def test_inference_mode_outside_changes_nothing() -> None:
    model, x = nn.Linear(7, 11), torch.rand(3, 7)
    outside = counted(model, x)
    with torch.inference_mode():
        assert counted(model, x) == outside


@pytest.mark.slow
def test_a_compiled_model_is_counted_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(7, 11), nn.ReLU()), torch.rand(3, 7)
    assert counted(torch.compile(model, backend="eager"), x) == counted(model, x)
