"""Convolutions whose kernel each example has for itself."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def mix(weights: Float[Tensor, "B K"], parts: Float[Tensor, "K *shape"]) -> Float[Tensor, "B *shape"]:
    """`Σ_k weights_k parts_k`, of each example by its own weights."""
    return torch.mm(weights, parts.flatten(1)).unflatten(1, parts.shape[1:])


def convolve_each(
    x: Float[Tensor, "B Cin H W"],
    kernel: Float[Tensor, "B C Cg k k"],
    bias: Float[Tensor, "B C"] | None = None,
    stride: int = 1,
    groups: int = 1,
) -> Float[Tensor, "B C h w"]:
    """Convolve each example with its own kernel, of odd size, padded so that only the stride makes the map smaller.

    Args:
        bias: one number an example and output channel.
        groups: of each kernel: `Cg` is `Cin / groups`.
    """
    B, C, _, size, _ = kernel.shape
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        # A graph for other runtimes has a fixed number of groups, and the batch is none: products instead.
        cells = F.unfold(x, int(size), padding=int(size) // 2, stride=stride)  # (B, Cin·k·k, h·w)
        product = kernel.reshape(B, groups, C // groups, -1) @ cells.unflatten(1, (groups, -1))
        y = product.reshape(B, C, (x.shape[2] - 1) // stride + 1, (x.shape[3] - 1) // stride + 1)
        return y if bias is None else y + bias[..., None, None]
    if B == 0:  # there are no groups of examples: any kernel convolves none of them
        return F.conv2d(x, kernel.sum(0), None if bias is None else bias.sum(0), stride, size // 2, groups=groups)
    y = F.conv2d(
        x.reshape(1, -1, *x.shape[2:]),  # the examples are groups of one convolution
        kernel.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=stride,
        padding=size // 2,
        groups=B * groups,
    )
    return y.reshape(B, C, *y.shape[2:])
