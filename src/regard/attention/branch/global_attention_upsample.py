"""Global attention upsample."""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import LINEAR, convolution_over
from regard.attention.contract import Merge, Paper
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact


class GlobalAttentionUpsample(Merge):
    """Global attention upsample: the high level says which channels of the low level count, and joins it.

        g = relu(bn(W mean over positions of high))       (B, C)
        y = upsample(high) + g · (V * low + b)            V a convolution of size k

    Paper: Li, Xiong, An, Wang, "Pyramid Attention Network for Semantic Segmentation", BMVC 2018, section 3.2. A batch
    of one trains: where the mean over positions has no variance, its running one is used.

    Args:
        channels: channels `C` of both maps.
        kernel_size: size `k` of the convolution of the low level, odd; default 3, the paper's choice.
        gate: `"relu"`, the default, as above; `"sigmoid"`, the gate in 0..1.
        dims: how many spatial axes the maps have, 1, 2 or 3; default 2.

    Shapes:
        high: `(B, C, *coarse)`, no larger than `low` along any axis; where smaller, it is interpolated linearly.
        low: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the shape of `low`.

    Maps:
        channel: the gate `(batch, channel)`, not negative.

    Raises:
        ValueError: `kernel_size` is even, there is no such `gate`, or `dims` is not 1, 2 or 3.
        ShapeError: the inputs differ in batch size, have another channel count or number of axes, or the high level is
            the larger.
    """

    name: ClassVar[str] = "global_attention_upsample"
    aliases: ClassVar[tuple[str, ...]] = ("gau", "gau_block")
    paper: ClassVar[Paper] = Paper("Pyramid Attention Network for Semantic Segmentation", "Li et al.", "BMVC", 2018)
    formula: ClassVar[str] = "y = upsample(high) + relu(bn(W mean(high))) · (V * low + b)"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("channel", ("batch", "channel")),)
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "C*C + 2*C + k*k*C*C + C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "k": "kernel_size"}
    deviations: ClassVar[tuple[str, ...]] = (
        'gate="sigmoid": the gate is bounded by a sigmoid in place of the ReLU, as in segmentation_models_pytorch',
    )
    placement: ClassVar[str] = "at every step of a segmentation decoder, where a low level meets the one above it"
    place = "skip"

    def __init__(
        self, channels: int, kernel_size: int = 3, gate: Literal["relu", "sigmoid"] = "relu", dims: int = 2
    ) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.kernel_size = kernel_size
        self.gate = gate
        self.dims = dims
        self.excite = nn.Linear(channels, channels, bias=False)
        self.norm = BatchNorm(channels)
        self.project = convolution(channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(
        self, high: Float[Tensor, "B C *coarse"], low: Float[Tensor, "B C *spatial"]
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(high, low)
        scores = self.norm(self.excite(high.mean(dim=tuple(range(2, high.ndim)))))  # (B, C)
        gate = scores.relu() if self.gate == "relu" else scores.sigmoid()  # (B, C)
        gate = self.offer("channel", gate)
        if high.shape != low.shape:
            high = F.interpolate(high, low.shape[2:], mode=LINEAR[self.dims], align_corners=False)
        return high + functional.spread(gate, low) * self.project(low)  # (B, C, *spatial)

    def check(self, *inputs: Tensor) -> None:
        """Refuse a high level that is larger, and whatever else does not fit."""
        high, low = inputs
        fits = high.ndim == low.ndim == self.dims + 2 and high.shape[0] == low.shape[0]
        fits = fits and high.shape[1] == low.shape[1] == self.channels
        if not fits or any(coarse > fine for coarse, fine in zip(high.shape[2:], low.shape[2:], strict=True)):
            raise self.refuse(
                f"inputs of shapes {tuple(high.shape)}, {tuple(low.shape)}",
                f"two maps of shape (batch, {self.channels}, *spatial) with {self.dims} spatial axes, the first no "
                "larger than the second",
                "give the high level first, and project both to one channel count",
            )
        self.require_positions(high)
