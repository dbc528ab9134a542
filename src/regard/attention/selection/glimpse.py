"""Glimpse sensor."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Select, Selection
from regard.attention.offering import MapFact, Request


class GlimpseSensor(Select):
    """Glimpse sensor: patches around one sampled place, each twice as wide as the last and all of one resolution.

        μ     = W mean(x) + b                              where to look, in both directions from -1 to 1
        l     ~ N(μ, σ² I) in training,  l = μ in evaluation
        ρ_k   = the square of s·2ᵏ by s·2ᵏ cells around l, resized to s by s,  k = 0 … K-1

    Paper: Mnih, Heess, Graves, Kavukcuoglu, "Recurrent Models of Visual Attention", NeurIPS 2014, section 3.1.
    There the location comes from the state of a recurrent network, which the glimpses before have filled. Recurrence
    belongs to a model: here the mean of the map stands for that state, and there is one glimpse. What follows the
    retina (the glimpse network) belongs to the model as well.

    No gradient passes the draw. The location learns from `log_probability`, through `functional.score_function_loss`.
    The paper leaves σ and the resizing open: cells are read bilinearly between the map's, and those of a wider patch
    are means over squares of 2ᵏ by 2ᵏ, so that nothing is skipped. What lies outside of the map reads as zero.

    Args:
        channels: channels `C` of the map.
        size: `s`, rows and columns of each patch; default 12, the paper's for digits in clutter, of 60 by 60.
        patches: how many patches `K`; default 3, the paper's for the same.
        standard_deviation: `σ` of the location, where 1 is half of the map; default 0.11.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives a `Selection` of `K` regions `(B, K, C, s, s)`, the narrowest first, with
        their transforms. In training `log_probability` is the density of the location, the same for all `K`, since one
        draw places them all; in evaluation it is None.

    Maps:
        footprint: `(batch, patch, height, width)`, the share of each position of the input in each patch. All
            positions together are one, less what was read outside of the map.

    Raises:
        ValueError: `size` or `patches` is below one, or `standard_deviation` is not positive.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "glimpse"
    aliases: ClassVar[tuple[str, ...]] = ("ram", "recurrent_attention_model")
    paper: ClassVar[Paper] = Paper("Recurrent Models of Visual Attention", "Mnih et al.", "NeurIPS", 2014)
    formula: ClassVar[str] = "ρ_k = s·2ᵏ cells around l, resized to s by s, with l ~ N(W mean(x) + b, σ²)"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("footprint", ("batch", "patch", "height", "width"), fixed="it follows from where the glimpse is taken"),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "2*C + 2"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    placement: ClassVar[str] = "on the image, or on a map, once a step of a recurrent model"

    def __init__(self, channels: int, size: int = 12, patches: int = 3, standard_deviation: float = 0.11) -> None:
        super().__init__()
        self.channels = channels
        self.size = size
        self.patches = patches
        self.standard_deviation = standard_deviation
        self.locate = nn.Linear(channels, 2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Selection:
        self.check(x)
        precise = torch.promote_types(x.dtype, torch.float32)  # half precision cannot tell one pixel from the next
        mean = self.locate(x.mean((2, 3))).to(precise)  # (B, 2), x before y
        location, log_probability = mean, None
        if self.training:
            location = (mean + self.standard_deviation * torch.randn_like(mean)).detach()  # (B, 2)
            log_probability = self.log_density(location, mean).to(x.dtype)[:, None].expand(-1, self.patches)  # (B, K)
        widths = self.size * torch.arange(self.patches, device=x.device).to(precise).exp2()  # (K,), in cells
        half = torch.stack((widths / x.shape[3], widths / x.shape[2]), 1)  # (K, 2)
        transform = functional.box_transform(location[:, None], half)  # (B, K, 2, 3)
        grids = [
            functional.affine_grid(box, self.size << k, self.size << k)  # (B, s·2ᵏ, s·2ᵏ, 2)
            for k, box in enumerate(transform.unbind(1))
        ]

        def footprint(_: Request) -> Tensor:
            return torch.stack([functional.footprint(grid, x.shape[2], x.shape[3]) for grid in grids], 1)

        self.offer("footprint", footprint)
        field = x.to(precise)  # (B, C, H, W)
        regions = [
            F.avg_pool2d(F.grid_sample(field, grid, align_corners=False), 1 << k) for k, grid in enumerate(grids)
        ]
        return Selection(torch.stack(regions, 1).to(x.dtype), transform.to(x.dtype), log_probability)

    def log_density(self, location: Float[Tensor, "B 2"], mean: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """`log N(location; mean, σ² I)`."""
        distance = (location - mean) / self.standard_deviation  # (B, 2)
        return -distance.square().sum(1) / 2 - math.log(2 * math.pi * self.standard_deviation**2)
