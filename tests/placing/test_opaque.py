"""Models that are compiled are read as plain Python; what cannot be read, or would be changed, is refused."""

from collections.abc import Callable

import pytest
import torch
from residual import residual_network
from torch import nn

from regard.errors import UserError
from regard.placing import insert, inserted, places

SHAPE = (2, 3, 17, 13)


def network() -> nn.Sequential:
    return residual_network(5, 7)


def whole(model: nn.Sequential) -> nn.Module:
    return torch.compile(model, backend="eager")  # pyright: ignore[reportReturnType]


def in_place(model: nn.Sequential) -> nn.Module:
    model.compile(backend="eager")
    return model


def child(model: nn.Sequential) -> nn.Module:
    model[1] = torch.compile(model[1], backend="eager")  # pyright: ignore[reportArgumentType]
    return model


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("compiled", [whole, in_place, child])
def test_a_compiled_model_is_read_as_plain_python(compiled: Callable[[nn.Sequential], nn.Module]) -> None:
    torch.compiler.reset()
    expected = places(network(), SHAPE)
    model = compiled(network())
    before = torch._dynamo.eval_frame._stance
    table = places(model, SHAPE)
    assert table.roles() == expected.roles()
    shapes = {role: [place.shape for place in expected.of(role)] for role in expected.roles()}
    assert {role: [place.shape for place in table.of(role)] for role in table.roles()} == shapes
    assert torch._dynamo.eval_frame._stance == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(UserError, match="insert first"):
        insert(model, "se", "block", example=SHAPE)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("at", [None, "1"], ids=["whole", "child"])
@pytest.mark.parametrize(
    "use", [places, lambda model, x: insert(model, "se", "0", example=x)], ids=["places", "insert"]
)
def test_torchscript_is_refused(use: Callable[..., object], at: str | None) -> None:
    model: nn.Module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3))
    if at is None:
        model, message = torch.jit.script(model), "the model is TorchScript, which takes no hooks"
    else:
        model, message = nn.Sequential(model[0], torch.jit.script(model[1])), "'1' in the model is TorchScript"
    with pytest.raises(UserError, match=message):
        use(model, SHAPE)
    assert inserted(model) == {}


@pytest.mark.parametrize(
    "use", [places, lambda model, x: insert(model, "se", "1", example=x)], ids=["places", "insert"]
)
@pytest.mark.parametrize("lazy", [nn.LazyConv2d, nn.LazyBatchNorm2d])
def test_lazy_layers_are_refused_until_they_have_parameters(
    lazy: Callable[..., nn.Module], use: Callable[..., object]
) -> None:
    layer = lazy(5, 3) if lazy is nn.LazyConv2d else lazy()
    model = nn.Sequential(layer, nn.Conv2d(5 if lazy is nn.LazyConv2d else 3, 11, 3))
    with pytest.raises(UserError, match=r"'0' in the model is a Lazy.* without parameters yet: run the model"):
        use(model, SHAPE)
    assert layer.has_uninitialized_params()
    model(torch.randn(SHAPE))
    use(model, SHAPE)
