"""The spatial transformer: identity, known transforms, and sampling written again as loops."""

import math

import pytest
import torch
from oracle import doubles, offered, weights_of
from torch.nn import functional as F

from regard import functional
from regard.attention import ShapeError, SpatialTransformer


def moved(module, transform):
    """The module with this transform for every input."""
    with torch.no_grad():
        module.regress.bias.copy_(torch.tensor(transform).flatten())
    return module.double()


def sampled(module, x):
    selection, offer = offered(module, x)
    return selection, weights_of(offer)


def slow_sample(x, transform, height, width):
    """The paper's equations 1 and 5, and the share of each input position."""
    B, C, H, W = x.shape
    y, share = torch.zeros(B, C, height, width, dtype=x.dtype), torch.zeros(B, H, W, dtype=x.dtype)
    for b in range(B):
        (t11, t12, t13), (t21, t22, t23) = transform[b].tolist()
        for r in range(height):
            for c in range(width):
                target_x, target_y = (2 * c + 1) / width - 1, (2 * r + 1) / height - 1
                source_x = t11 * target_x + t12 * target_y + t13
                source_y = t21 * target_x + t22 * target_y + t23
                column, row = ((source_x + 1) * W - 1) / 2, ((source_y + 1) * H - 1) / 2
                for n in range(H):
                    for m in range(W):
                        weight = max(0.0, 1 - abs(column - m)) * max(0.0, 1 - abs(row - n))
                        y[b, :, r, c] += weight * x[b, :, n, m]
                        share[b, n, m] += weight / (height * width)
    return y, share


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 3, 1, 1), (3, 3, 1, 11), (1, 3, 8, 8)])
def test_at_the_start_the_output_is_the_input(shape):
    module, x = SpatialTransformer(3).double(), doubles(*shape)
    selection, share = sampled(module, x)
    torch.testing.assert_close(selection.regions[:, 0], x)
    assert selection.transform.tolist() == [[[[1, 0, 0], [0, 1, 0]]]] * shape[0]
    assert selection.log_probability is None
    torch.testing.assert_close(share, torch.full_like(share, 1 / (shape[2] * shape[3])))


def test_a_quarter_turn():
    x = torch.arange(9.0, dtype=torch.float64).reshape(1, 1, 3, 3)
    selection, _ = sampled(moved(SpatialTransformer(1), [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]), x)
    # output (x', y') reads (-y', x'): the first output row, y' = -1, reads the last column from top to bottom
    torch.testing.assert_close(selection.regions[0, 0, 0], torch.rot90(x[0, 0]))
    assert selection.regions[0, 0, 0, 0].round().tolist() == [2, 5, 8]


def test_a_shift_by_one_cell_reads_zero_outside():
    x = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(1, 1, 3, 4)
    selection, share = sampled(moved(SpatialTransformer(1), [[1.0, 0.0, 2 / 4], [0.0, 1.0, 0.0]]), x)
    expected = [[2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]
    torch.testing.assert_close(selection.regions[0, 0, 0], torch.tensor(expected, dtype=torch.float64))
    assert abs(share.sum().item() - 9 / 12) < 1e-12


def test_a_window_wholly_outside_has_no_footprint():
    selection, share = sampled(moved(SpatialTransformer(1), [[1.0, 0.0, 9.0], [0.0, 1.0, 0.0]]), doubles(2, 1, 3, 4))
    assert not selection.regions.any()
    assert not share.any()


@pytest.mark.parametrize(("size", "expected"), [(None, (7, 5)), (3, (3, 3)), ((2, 11), (2, 11))])
def test_sampling(size, expected):
    module, x = SpatialTransformer(3, size, hidden_channels=4).double(), doubles(2, 3, 7, 5)
    with torch.no_grad():
        module.regress.weight.copy_(torch.randn_like(module.regress.weight))
        module.regress.bias.mul_(0.7)
    selection, share = sampled(module, x)
    assert selection.regions.shape == (2, 1, 3, *expected)
    assert not torch.allclose(selection.transform[0], selection.transform[1])
    y, footprint = slow_sample(x, selection.transform[:, 0], *expected)
    torch.testing.assert_close(selection.regions[:, 0], y)
    torch.testing.assert_close(share, footprint)


def test_the_localisation_network_is_as_documented():
    module, x = SpatialTransformer(3, hidden_channels=4).double(), doubles(2, 3, 7, 5)
    with torch.no_grad():
        module.regress.weight.copy_(torch.randn_like(module.regress.weight))
    first, second, linear = module.localise[0], module.localise[2], module.localise[6]
    hidden = F.conv2d(x, first.weight, first.bias, padding=1).relu()
    hidden = F.conv2d(hidden, second.weight, second.bias, stride=2, padding=1).relu()
    h, w = hidden.shape[2:]
    cells = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    for r in range(4):
        for c in range(4):
            rows = slice(r * h // 4, math.ceil((r + 1) * h / 4))
            columns = slice(c * w // 4, math.ceil((c + 1) * w / 4))
            cells[:, :, r, c] = hidden[:, :, rows, columns].mean((2, 3))
    theta = (cells.flatten(1) @ linear.weight.T + linear.bias).tanh() @ module.regress.weight.T + module.regress.bias
    torch.testing.assert_close(module(x).transform[:, 0], theta.reshape(2, 2, 3))


def test_it_learns_where_to_look():
    module, x = SpatialTransformer(3), torch.randn(2, 3, 7, 5)
    module(x).regions.square().sum().backward()
    assert module.regress.weight.grad.abs().sum() > 0
    assert module.regress.bias.grad.abs().min() > 0


def test_affine_grid_is_torch_s():
    transform = doubles(2, 2, 3).requires_grad_()
    ours, theirs = functional.affine_grid(transform, 7, 5), F.affine_grid(transform, [2, 1, 7, 5], align_corners=False)
    torch.testing.assert_close(ours, theirs)
    upstream = doubles(2, 7, 5, 2)
    gradients = [torch.autograd.grad((grid * upstream).sum(), transform)[0] for grid in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_half_precision_keeps_its_type_and_does_not_blur():
    x = torch.randn(1, 3, 257, 3).bfloat16()
    selection = SpatialTransformer(3).bfloat16()(x)
    assert selection.regions.dtype == selection.transform.dtype == torch.bfloat16
    torch.testing.assert_close(selection.regions[:, 0], x, atol=0.01, rtol=0.01)


@pytest.mark.usefixtures("unchecked_shapes")
def test_another_channel_count_is_refused():
    with pytest.raises(ShapeError, match="3, height, width"):
        SpatialTransformer(3)(torch.randn(2, 4, 7, 5))
