"""Parts of fusions that several mechanisms have."""

from pathlib import Path

import pytest
import torch
from torch import nn

from regard import functional


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_signed_root_is_that_and_its_slope_is_finite_where_the_roots_is_not(dtype: torch.dtype) -> None:
    x = torch.tensor([-9.0, -0.25, 0.0, 0.25, 9.0], dtype=dtype, requires_grad=True)
    root = functional.signed_root(x)
    root.sum().backward()
    assert root.dtype == dtype
    torch.testing.assert_close(root.detach(), torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=dtype))
    slopes = torch.tensor([1 / 6, 1.0, 1.0, 1 / 6], dtype=dtype)
    torch.testing.assert_close(x.grad[[0, 1, 3, 4]], slopes)
    assert 100 < x.grad[2] < torch.inf


@pytest.mark.slow
def test_the_signed_root_of_nothing_is_nothing_in_onnx_too(tmp_path: Path) -> None:
    """The converter leaves out adding a number that is as good as zero to it, and a division by zero stays."""
    onnxruntime = pytest.importorskip("onnxruntime")

    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.signed_root(x)

    torch.onnx.export(Root().eval(), (torch.ones(3),), tmp_path / "root.onnx", dynamo=True, input_names=["x"])
    session = onnxruntime.InferenceSession(tmp_path / "root.onnx")
    (found,) = session.run(None, {"x": torch.tensor([0.0, -4.0, 1e-12]).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), torch.tensor([0.0, -2.0, 1e-7]))
