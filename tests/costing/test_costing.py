"""Costs equal their closed forms, whatever kernel computes them."""

import pytest
import timm
import torch
from torch import Tensor, nn

from regard.attention import MultiHeadSelfAttention
from regard.attention.channel import SqueezeExcitation
from regard.costing import Cost, Counts, cost, costs
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


def test_several_inputs_and_their_ways_to_be_given() -> None:
    model = Two()
    x, y = torch.rand(3, 4), torch.rand(4, 5)
    found = cost(model, x, y, repeats=5)
    assert (found.parameters, found.trainable_parameters, found.macs) == (20, 16, 3 * 4 * 4 + 3 * 4 * 5)
    assert found.repeats == len(found.times) == 5
    assert min(found.times) > 0
    assert cost(model, (x, y), repeats=1).macs == cost(model, {"x": x, "y": y}, repeats=1).macs == found.macs
    assert str(found).startswith("20 parameters (16 trainable), 108 MACs, ")


def test_a_cost_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.Conv2d(5, 2, 1))
    model.eval()
    model[1].train()
    model[3].weight.grad = gradient = torch.ones(2, 5, 1, 1)
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.rand(2, 3, 7, 5)
    state = torch.get_rng_state()

    cost(model, image, repeats=2)

    assert [module.training for module in model.modules()] == [False, False, True, False, False]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[3].weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert model[0].weight.grad is None
    assert not image.requires_grad
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_fails_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Dropout())
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="channels"):
        cost(model, (1, 7, 5, 5))
    assert model.training
    assert model[1].training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled()


class Logged(nn.Module):
    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(self.name)
        return x + 1


def test_what_is_compared_is_timed_in_turn() -> None:
    log: list[str] = []
    costs([Logged("a", log), Logged("b", log)], torch.rand(3), repeats=6)
    rounds = ["".join(log[-12:][place : place + 2]) for place in range(0, 12, 2)]
    assert rounds in (["ab", "ba"] * 3, ["ba", "ab"] * 3)


def by_hand(parameters: int, macs: int, times: tuple[float, ...]) -> Cost:
    return Cost(
        macs=macs, bytes_moved=10, activation_bytes=0, parameters=parameters, trainable_parameters=2, times=times
    )


def test_difference_and_ratio() -> None:
    before, after = by_hand(20, 100, (10.0, 30.0, 20.0)), by_hand(25, 300, (11.0, 34.0, 29.0))
    added = after - before
    assert (added.parameters, added.trainable_parameters, added.macs, added.bytes_moved) == (5, 0, 200, 0)
    assert added.times == (1.0, 4.0, 9.0)
    assert added.milliseconds == 4.0  # of forwards in pairs; the medians differ by 9
    assert added.spread == 4.0  # from 2.5 to 6.5
    ratio = after / before
    assert (ratio["parameters"], ratio["macs"], ratio["milliseconds"]) == (1.25, 3.0, 29 / 20)
    assert ratio["activation_bytes"] is None
    assert by_hand(1, 1, (7.0,)).spread == 0
    assert added.as_dict()["milliseconds"] == 4.0
    assert "times" not in added.as_dict()


def test_bad_input() -> None:
    with pytest.raises(UserError, match="give one as example="):
        cost(nn.Linear(3, 3))
    with pytest.raises(UserError, match="at least one forward"):
        cost(nn.Linear(3, 3), (1, 3), repeats=0)
    with pytest.raises(UserError, match="no model"):
        costs([], (1, 3))
    with pytest.raises(UserError, match="run the model once"):
        cost(nn.LazyLinear(3), (1, 3))
    with pytest.raises(UserError, match="measure both in one call"):
        _ = by_hand(1, 1, (1.0, 2.0)) - by_hand(1, 1, (1.0,))
    with pytest.raises(TypeError):
        _ = by_hand(1, 1, (1.0,)) - Counts(1, 1, 1)


def test_a_parameter_that_is_handed_to_a_module_is_counted_like_any_input() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.zeros(5, 7))
            self.frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
            self.project = nn.Linear(7, 11, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.project(self.query) @ x

    model = Asking()
    assert cost(model, torch.zeros(11, 2)).macs == 5 * 7 * 11 + 5 * 11 * 2
    assert [value.requires_grad for value in model.parameters()] == [True, False, True]
