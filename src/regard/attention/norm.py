"""Batch normalisation that trains at batch 1, and in half precision."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from regard.functional.precision import at_least_single


class BatchNorm(_BatchNorm):
    """`nn.BatchNorm1d/2d/3d` in one: any number of axes, and a batch of one value a channel is no error.

    A single value has no variance: where a channel has one value only (a pooled vector at batch 1), training normalises
    with the running statistics and leaves them as they are; so it does with a batch of none. Where its parameters are
    halves, statistics are computed in single precision, and kept as near to that as the type comes. In all else, and in
    its state dict, it is PyTorch's.

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
        several = input.numel() > input.shape[1]
        if self.running_mean is not None and self.running_mean.dtype.itemsize < 4:
            return self.forward_half(input, self.training and several)
        if self.training and not several:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)

    def forward_half(self, input: Float[Tensor, "B C *spatial"], training: bool) -> Float[Tensor, "B C *spatial"]:
        """Normalise in single precision: neither the variance of values of 300 nor their sum of products is a half."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance = self.running_mean.float(), self.running_var.float()  # (C,) each, of the size of parameters
        weight, bias = (None if x is None else at_least_single(x) for x in (self.weight, self.bias))
        single = at_least_single(input)  # (B, C, *spatial)
        factor = self.momentum
        if training:
            self.num_batches_tracked.add_(1)
            if factor is None:  # the plain mean of all batches, as PyTorch has it
                factor = 1 / int(self.num_batches_tracked)
        output = F.batch_norm(single, mean, variance, weight, bias, training, factor or 0.0, self.eps)
        if training:
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance.clamp_max(torch.finfo(self.running_var.dtype).max))
        return output.to(input.dtype)
