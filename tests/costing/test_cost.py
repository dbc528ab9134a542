"""Costs equal their closed forms, whatever kernel computes them."""

import pytest
import timm
import torch
from torch import Tensor, nn

from regard.attention import MultiHeadSelfAttention
from regard.attention.channel import SqueezeExcitation
from regard.costing import cost
from regard.errors import UserError
from regard.placing import insert


def macs(model: nn.Module, *example: object) -> int:
    return cost(model, *example, repeats=1).macs


def test_convolution() -> None:
    assert macs(nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), (2, 6, 9, 11)) == 2 * 8 * 5 * 6 * 3 * 9


def test_linear() -> None:
    assert macs(nn.Linear(7, 11), (3, 5, 7)) == 3 * 5 * 7 * 11


def test_self_attention_counts_its_matrix_products() -> None:
    batch, tokens, channels = 2, 10, 16
    expected = batch * (4 * tokens * channels**2 + 2 * tokens**2 * channels)
    assert macs(MultiHeadSelfAttention(channels, heads=4), (batch, tokens, channels)) == expected


def test_torch_attention_with_its_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, batch_first=True)
    expected = 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 10 * 10 * 16
    assert macs(layer, (1, 10, 16)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_recurrent_cells() -> None:
    assert macs(nn.GRU(5, 7, batch_first=True), (2, 3, 5)) == 2 * 3 * 3 * 7 * (5 + 7)


def test_squeeze_excitation() -> None:
    assert macs(SqueezeExcitation(64), (2, 64, 5, 7)) == 2 * 2 * 64 * 4


def test_known_whole_model() -> None:
    assert macs(timm.create_model("resnet50"), (1, 3, 224, 224)) == pytest.approx(4.09e9, rel=0.005)


def test_inserted_attention_is_counted() -> None:
    model = timm.create_model("resnet18")
    plain = cost(model, (1, 3, 64, 64), repeats=1)
    insert(model, "se", "branch", start="paper", example=(1, 3, 64, 64))
    attended = cost(model, (1, 3, 64, 64), repeats=1)
    assert attended.parameters - plain.parameters == 11_778_592 - 11_689_512
    assert attended.macs - plain.macs == sum(2 * 2 * c * c // 16 for c in (64, 128, 256, 512))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.linear.bias.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert not self.training
        return self.linear(x) @ y


def test_several_inputs_time_and_traces() -> None:
    model = Two().train()
    x, y = torch.rand(3, 4), torch.rand(4, 5)
    found = cost(model, x, y, repeats=5)
    assert found == type(found)(20, 16, 3 * 4 * 4 + 3 * 4 * 5, found.milliseconds, found.spread, 5)
    assert found.milliseconds > 0
    assert found.spread >= 0
    assert model.training
    assert cost(model, (x, y), repeats=1).macs == cost(model, {"x": x, "y": y}, repeats=1).macs == found.macs
    assert str(found).startswith("20 parameters (16 trainable), 108 MACs, ")


def test_bad_input() -> None:
    with pytest.raises(UserError, match="give one as example="):
        cost(nn.Linear(3, 3))
    with pytest.raises(UserError, match="at least one"):
        cost(nn.Linear(3, 3), (1, 3), repeats=0)
