"""Batch normalisation that trains at batch 1."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(_BatchNorm):
    """`nn.BatchNorm1d/2d/3d` in one: any number of axes, and a batch of one value a channel is no error.

    A single value has no variance: where a channel has one value only (a pooled vector at batch 1), training normalises
    with the running statistics and leaves them as they are. In all else, and in its state dict, it is PyTorch's.

    Args:
        channels: channels `C`.
        eps: added to the variance; default PyTorch's 1e-5.
        momentum: weight of the new batch in the running statistics; default PyTorch's 0.1.
        affine: whether there are a learned scale and shift; default True.

    Shapes:
        x: `(B, C, *spatial)`, with no spatial axis, or any number of them. Gives the same shape.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(channels, eps, momentum, affine)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNorm got an input of shape {tuple(input.shape)}, expected (batch, {self.num_features}, *spatial)"
            )

    def forward(self, input: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self._check_input_dim(input)
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)
