"""Feature-wise linear modulation."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Merge, Paper
from regard.attention.offering import SPATIAL, MapFact


class FeatureWiseModulation(Merge):
    """Feature-wise linear modulation: a condition scales and shifts every channel of a map.

        [Δγ; β] = W q + b
        y_c     = (1 + Δγ_c) x_c + β_c

    Paper: Perez, Strub, de Vries, Dumoulin, Courville, "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI
    2018, equations 1 and 2; that Δγ is predicted in place of γ is from its section on the model.

    Args:
        channels: channels `C` of the map.
        condition_width: width `Q` of the condition; default `channels`.
        residual: whether the layer gives γ - 1, so that one near zero keeps the map; default True.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. condition: a vector `(B, Q)` for all positions, or
        `(B, Q, *spatial)`, one for each. Gives the shape of `x`.

    Maps:
        scale: the factor γ, `(batch, channel, *spatial)`, of any sign.

    Raises:
        ShapeError: the map has another channel count, or the condition another width, batch size or grid.
    """

    name: ClassVar[str] = "film"
    aliases: ClassVar[tuple[str, ...]] = ("feature_wise_linear_modulation", "film_layer")
    paper: ClassVar[Paper] = Paper(
        "FiLM: Visual Reasoning with a General Conditioning Layer", "Perez et al.", "AAAI", 2018
    )
    formula: ClassVar[str] = "y = (1 + Δγ) · x + β with [Δγ; β] = W q + b"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("scale", ("batch", "channel", SPATIAL)),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C*(Q + 1)"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "Q": "condition_width"}
    deviations: ClassVar[tuple[str, ...]] = ("residual=False: the layer gives γ itself, as equation 1 is written",)
    placement: ClassVar[str] = "after the last normalisation of a residual block, before its ReLU"
    place = "branch"

    def __init__(self, channels: int, condition_width: int | None = None, residual: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.condition_width = channels if condition_width is None else condition_width
        self.residual = residual
        self.generate = nn.Linear(self.condition_width, 2 * channels)

    def forward(
        self, x: Float[Tensor, "B C *spatial"], condition: Float[Tensor, "B Q ..."]
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(x, condition)
        change, shift = self.generate(condition.movedim(1, -1)).movedim(-1, 1).chunk(2, dim=1)  # (B, C, ...) each
        if condition.ndim == 2:
            ones = [1] * (x.ndim - 2)
            change, shift = change.reshape(*change.shape, *ones), shift.reshape(*shift.shape, *ones)  # (B, C, *ones)
        scale = 1 + change if self.residual else change
        return self.offer("scale", scale.expand_as(x)) * x + shift

    def check(self, *inputs: Tensor) -> None:
        """Refuse a map of another channel count, and a condition that fits neither it nor its positions."""
        x, condition = inputs
        grid = condition.shape[2:]
        fits = x.ndim >= 3 and x.shape[1] == self.channels and condition.ndim >= 2
        fits = fits and tuple(condition.shape[:2]) == (x.shape[0], self.condition_width)
        if not fits or (condition.ndim > 2 and grid != x.shape[2:]):
            raise self.refuse(
                f"a map of shape {tuple(x.shape)} and a condition of shape {tuple(condition.shape)}",
                f"(batch, {self.channels}, *spatial) and (batch, {self.condition_width}), or the latter with *spatial",
                "build it with the channel count of the map and the width of the condition",
            )
        self.require_positions(x)
