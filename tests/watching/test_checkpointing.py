"""Gradient checkpointing runs a module twice; each of its maps is kept once, and each sampled choice."""

from functools import partial

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regard.attention import offering
from regard.attention.alignment import HardRead
from regard.attention.channel import SqueezeExcitation
from regard.attention.context import MultiHeadSelfAttention
from regard.attention.layout import OnMap
from regard.placing import insert
from regard.watching import AttentionMap, watch


class Blocks(nn.Module):
    """Two mechanisms one after the other, the first of which runs twice in each forward."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.gate = SqueezeExcitation(6, reduction=2)
        self.heads = OnMap(MultiHeadSelfAttention(6, heads=2))
        self.run = partial(checkpoint, use_reentrant=reentrant) if reentrant is not None else self.call

    def call(self, module: nn.Module, x: Tensor) -> Tensor:
        return module(x)

    def forward(self, x: Tensor) -> Tensor:
        for module in (self.gate, self.heads, self.gate):
            x = self.run(module, x)
        return x


def watched(model: nn.Module, x: Tensor) -> list[AttentionMap]:
    """The maps of two steps of training, forward and backward."""
    with watch(model) as seen:
        for _ in range(2):
            model(x).square().sum().backward()
    return seen.maps


def alike(found: list[AttentionMap], expected: list[AttentionMap]) -> None:
    assert [(one.module, one.label, one.call) for one in found] == [
        (one.module, one.label, one.call) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.values, other.values)


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])
def test_each_map_is_kept_once(reentrant: bool) -> None:
    torch.manual_seed(0)
    plain = Blocks(None)
    model = Blocks(reentrant)
    model.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 5, 3, requires_grad=True)
    expected = watched(plain, x)
    assert [one.call for one in expected] == [0, 0, 1, 2, 1, 3]
    alike(watched(model, x), expected)
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.filterwarnings("ignore:.*use_reentrant")
@pytest.mark.parametrize(
    ("name", "attention", "shape"),
    [("test_resnet", "se", (2, 3, 32, 32)), ("test_vit", "multi_head_self", (2, 3, 160, 160))],
)
def test_each_map_is_kept_once_by_the_checkpointing_of_timm(name: str, attention: str, shape: tuple[int, ...]) -> None:
    model = insert(timm.create_model(name, num_classes=5).eval(), attention, "block", example=shape)
    x = torch.randn(shape)
    expected = watched(model, x)
    model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    alike(watched(model, x), expected)


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])
def test_replaced_weights_are_those_of_the_backward_pass_inside_the_block(reentrant: bool) -> None:
    """Outside of it, the mechanism runs again with its own weights."""
    torch.manual_seed(0)
    gate = SqueezeExcitation(6, reduction=2)
    x = torch.randn(2, 6, 5, 3, requires_grad=True)

    def gradient(inside: bool) -> Tensor:
        x.grad = None
        with offering.replacing(lambda offer: torch.full_like(offer.weights, 0.25)):  # pyright: ignore[reportArgumentType]
            total = checkpoint(gate, x, use_reentrant=reentrant).sum()
            if inside:
                total.backward()
        if not inside:
            total.backward()
        assert x.grad is not None
        return x.grad

    torch.testing.assert_close(gradient(True), torch.full_like(x, 0.25))  # of the sum of 0.25 times x
    assert (gradient(False) - 0.25).abs().min() > 0.05


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved", "reentrant"])
def test_each_choice_is_recorded_once(reentrant: bool) -> None:
    read = HardRead(7, 5).train()
    query, memory = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 11, 5, requires_grad=True)
    with offering.recording_choices() as choices:
        checkpoint(read, query, memory, use_reentrant=reentrant).sum().backward()
    assert [one.shape for one in choices.log_probabilities] == [(2, 3)]
    assert [one.shape for one in choices.entropies] == [(2, 3)]
