"""Parameters, multiply-accumulates and time of one forward."""

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from regard.errors import UserError
from regard.running import Inputs, inputs_of, undisturbed

_WARM_UP = 3


@dataclass(frozen=True)
class Cost:
    """What one forward of a model costs.

    Attributes:
        parameters: all parameters, shared ones once.
        trainable_parameters: those that require a gradient.
        macs: multiply-accumulates of one forward of the example as it was given, its whole batch. One of them is two
            FLOPs. Convolutions, linear layers and all matrix products count, those inside attention too; elementwise
            operations, biases, activations, normalisation and pooling do not.
        milliseconds: median time of one forward in evaluation mode without gradients.
        spread: the interquartile range of that time, in milliseconds.
        repeats: how many forwards were timed.
    """

    parameters: int
    trainable_parameters: int
    macs: int
    milliseconds: float
    spread: float
    repeats: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters ({self.trainable_parameters:,} trainable), {_scaled(self.macs)} MACs, "
            f"{self.milliseconds:.3g} ms ± {self.spread:.2g} (median and interquartile range of {self.repeats})"
        )


# `Any`: a model takes what it takes.
def cost(model: nn.Module, *example: Any, repeats: int = 20) -> Cost:
    """Count and time one forward of a model or mechanism.

    The model is run in evaluation mode without gradients; its modes and the random state are afterwards as before.

        cost(model, (1, 3, 224, 224))
        cost(AdditiveRead(64, 128), query, memory)

    Args:
        model: any module.
        example: its inputs; or one shape, tuple or dict of inputs; or nothing for the input size that a timm model
            knows.
        repeats: forwards to time, after three that are not timed.

    Raises:
        UserError: there is no example and the model knows no input size, or `repeats` is not at least 1.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}: at least one forward must be timed")
    inputs = Inputs(example) if len(example) > 1 else inputs_of(model, example[0] if example else None)
    parameters = list(model.parameters())
    with undisturbed(model):
        macs = _macs(model, inputs)
        times = _times(model, inputs, repeats)
    quartiles = statistics.quantiles(times, n=4, method="inclusive") if repeats > 1 else [times[0]] * 3
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        macs=macs,
        milliseconds=quartiles[1],
        spread=quartiles[2] - quartiles[0],
        repeats=repeats,
    )


def _macs(model: nn.Module, inputs: Inputs) -> int:
    """Count with every fused kernel taken apart, since the counter sees only the products that torch is asked for."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            mkldnn, *_ = torch.backends.mkldnn.set_flags(_enabled=False)
            stack.callback(torch.backends.mkldnn.set_flags, _enabled=mkldnn)
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        counter = stack.enter_context(FlopCounterMode(display=False))
        inputs.run(model)
    return counter.get_total_flops() // 2


def _times(model: nn.Module, inputs: Inputs, repeats: int) -> list[float]:
    on_gpu = any(tensor.device.type == "cuda" for tensor in (*model.parameters(), *inputs.tensors()))
    times: list[float] = []
    for run in range(_WARM_UP + repeats):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        inputs.run(model)
        if on_gpu:
            torch.cuda.synchronize()
        if run >= _WARM_UP:
            times.append((time.perf_counter() - start) * 1000)
    return times


def _scaled(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.4g} {letter}"
    return str(count)
