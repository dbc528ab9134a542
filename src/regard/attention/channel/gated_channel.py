"""Gated channel transformation."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.contract import Paper, Refine
from regard.attention.offering import MapFact
from regard.functional.precision import at_least_single

Norm = Literal["l2", "l1"]


class GatedChannelTransformation(Refine):
    """Gated channel transformation: channels compete or cooperate through one gate each, of three parameters.

        s_c = α_c √(Σ_p x_cp² + ε)                global context embedding     (B, C)
        n_c = √C s_c / √(Σ_j s_j² + ε)            channel normalisation        (B, C)
        g_c = 1 + tanh(γ_c n_c + β_c)             gating adaptation            (B, C)
        y   = g · x

    It starts as the identity: `α = 1`, `γ = β = 0`.

    Paper: Yang, Zhu, Wu, Yang, "Gated Channel Transformation for Visual Recognition", CVPR 2020, section 3, with
    ε = 1e-5. The authors' code divides by `√(Σ_j s_j² / C + ε)`, which differs in the weight of ε alone.

    Args:
        channels: channels `C` of the map.
        norm: of embedding and normalisation. `"l2"`, the default and the paper's choice, as above; `"l1"`, from the
            paper's ablations and the authors' code, `s_c = α_c Σ_p |x_cp|` and `n_c = s_c / (Σ_j |s_j| / C + ε)`.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.

    Maps:
        channel: the gate `(batch, channel)`, each in 0..2.

    Raises:
        ValueError: there is no such `norm`.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "gated_channel"
    paper: ClassVar[Paper] = Paper("Gated Channel Transformation for Visual Recognition", "Yang et al.", "CVPR", 2020)
    formula: ClassVar[str] = "y_c = x_c · (1 + tanh(γ_c √C s_c / ‖s‖₂ + β_c)) with s_c = α_c ‖x_c‖₂"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "3*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "norm='l1': sums of magnitudes in embedding and normalisation, as an option of the authors' code",
    )
    placement: ClassVar[str] = "before every convolution"
    place = "branch"
    zero_start = ("gain",)

    def __init__(self, channels: int, norm: Norm = "l2") -> None:
        super().__init__()
        self.channels = channels
        self.norm = norm
        self.epsilon = 1e-5
        self.embedding = nn.Parameter(torch.ones(channels))  # α
        self.gain = nn.Parameter(torch.zeros(channels))  # γ
        self.bias = nn.Parameter(torch.zeros(channels))  # β

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        positions = tuple(range(2, x.ndim))
        values = at_least_single(x)  # (B, C, *spatial)
        if self.norm == "l2":
            score = self.embedding * (values.square().sum(dim=positions) + self.epsilon).sqrt()  # (B, C)
            size = (score.square().sum(1, keepdim=True) + self.epsilon).sqrt()  # (B, 1)
            normal = score * (self.channels**0.5 / size)  # (B, C)
        else:
            score = self.embedding * values.abs().sum(dim=positions)  # (B, C)
            normal = score / (score.abs().mean(1, keepdim=True) + self.epsilon)  # (B, C)
        gate = (1 + (self.gain * normal + self.bias).tanh()).to(x.dtype)  # (B, C)
        gate = self.offer("channel", gate)
        return x * functional.spread(gate, x)  # (B, C, *spatial)
