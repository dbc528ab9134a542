"""What mechanisms are built of where torch's own is not right everywhere."""

import pytest
import torch
from torch import Tensor, nn

from regard.attention.arguments import convolution_over


def _with_gradients(convolution: nn.Module, x: Tensor, autocast: bool) -> list[Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = convolution(x)
    y.float().square().sum().backward()
    found = [y, x.grad, *(parameter.grad for parameter in convolution.parameters())]
    return [one.detach().float() for one in found if one is not None]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "arguments", [{"padding": 1}, {"padding": (1, 0, 2)}, {"padding": 1, "stride": 2, "groups": 3}]
)
def test_a_convolution_of_one_slice_is_that_of_torch_in_bfloat16_and_so_are_its_gradients(
    autocast: bool, arguments: dict[str, object]
) -> None:
    """Where a processor has AMX, torch's own gives back what lies in its memory there."""
    torch_s = nn.Conv3d(3, 3, 3, **arguments)
    ours = convolution_over(3)(3, 3, 3, **arguments)
    ours.load_state_dict(torch_s.state_dict())
    x = torch.randn(2, 3, 1, 5, 7)
    expected = _with_gradients(torch_s, x, autocast=False)
    if not autocast:
        ours, x = ours.bfloat16(), x.bfloat16()
    for found, wanted in zip(_with_gradients(ours, x, autocast), expected, strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).norm() <= 0.03 * wanted.norm()


@pytest.mark.parametrize("arguments", [{"padding": "same"}, {"padding": 1, "padding_mode": "replicate"}])
def test_what_is_not_filled_up_with_zeros_is_left_to_torch(arguments: dict[str, object]) -> None:
    torch_s = nn.Conv3d(3, 3, 3, **arguments).bfloat16()
    ours = convolution_over(3)(3, 3, 3, **arguments).bfloat16()
    ours.load_state_dict(torch_s.state_dict())
    x = torch.randn(2, 3, 2, 5, 7).bfloat16()
    assert torch.equal(ours(x), torch_s(x))


def test_a_convolution_in_single_precision_is_that_of_torch_to_the_bit() -> None:
    torch_s = nn.Conv3d(3, 5, 3, padding=1)
    ours = convolution_over(3)(3, 5, 3, padding=1)
    ours.load_state_dict(torch_s.state_dict())
    x = torch.randn(2, 3, 1, 5, 7)
    assert torch.equal(ours(x), torch_s(x))
