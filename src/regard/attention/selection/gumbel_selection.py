"""Gumbel selection."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.contract import Paper, Select, Selection
from regard.attention.offering import MapFact


class GumbelSelection(Select):
    """Gumbel selection: one region of a regular grid, drawn by its score, with the gradient of a soft choice.

        e_n = mean over region n of the score map wᵀx
        p   = softmax over n of e_n
        s   = argmax over n of e_n + g_n in training, with Gumbel noise g_n;  argmax of e_n in evaluation
        y   = x_s       forward,
        y   = Σ_n softmax_n((e_n + g_n) / τ) x_n       for the gradient in training

    Paper: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017, equations 1 and 2 and
    section 2.2 (the straight-through estimator); Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017, has the
    same distribution. The papers leave open what is chosen: here the map is cut into `rows` by `columns` regions that
    fill it. A map whose size they do not divide is resampled bilinearly, so that each region has whole cells.

    Args:
        channels: channels `C` of the map.
        grid: rows and columns of regions, or one number for both; default 4.
        size: height and width of a region, or one number for both; default that of a region in the input, rounded up.
        temperature: `τ` of the soft choice; default 1. A lower one is closer to the draw, with a noisier gradient.
        straight_through: False, the soft choice forward as well: in training a mixture of all regions. Default True.

    Shapes:
        x: `(B, C, H, W)`, any size. Gives a `Selection` of one region (`K` = 1), `(B, 1, C, h, w)`, and its transform.
        In training `log_probability` is `log p_s`, for a score-function loss; it is None in evaluation, and with
        `straight_through=False`, where nothing is chosen.

    Maps:
        attention: the distribution `p`, `(batch, row, column)`, over the regions; sums to one over both.
        choice: one at the region that was read, zero elsewhere, `(batch, row, column)`; with
            `straight_through=False` in training the weights of the mixture.

    Raises:
        ValueError: `grid`, `size` or `temperature` is not positive.
        ShapeError: the input has another channel count.
    """

    name: ClassVar[str] = "gumbel_selection"
    aliases: ClassVar[tuple[str, ...]] = ("gumbel_softmax",)
    paper: ClassVar[Paper] = Paper(
        "Categorical Reparameterization with Gumbel-Softmax", "Jang, Gu, Poole", "ICLR", 2017
    )
    formula: ClassVar[str] = "y = x_s with s = argmax_n(mean_n(wᵀx) + Gumbel noise); gradient of its softmax"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "row", "column"), ("row", "column")),
        MapFact("choice", ("batch", "row", "column"), ("row", "column")),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "straight_through=False: the soft choice itself in training, the paper's relaxation without a discrete choice",
    )
    placement: ClassVar[str] = "on the image, or on a map, before a network that looks at one part of it"

    def __init__(
        self,
        channels: int,
        grid: int | tuple[int, int] = 4,
        size: int | tuple[int, int] | None = None,
        temperature: float = 1.0,
        straight_through: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.rows, self.columns = (grid, grid) if isinstance(grid, int) else grid
        self.size = (size, size) if isinstance(size, int) else size
        self.temperature = temperature
        self.straight_through = straight_through
        self.score = nn.Linear(channels, 1, bias=False)  # a softmax does not see a bias

    def forward(self, x: Float[Tensor, "B C H W"]) -> Selection:
        self.check(x)
        regions = self.cut(x)  # (B, N, C, h, w)
        precise = torch.promote_types(x.dtype, torch.float32)
        scores = self.score(regions.mean((3, 4)))[..., 0].to(precise)  # (B, N): the mean of scores is that of the mean
        own = scores
        replaced = self.offer("attention", lambda _: own.softmax(1).unflatten(1, (self.rows, self.columns)))
        if replaced is not None:  # what is chosen follows from what takes their place
            scores = replaced.to(precise).flatten(1).clamp_min(torch.finfo(precise).tiny).log()
        perturbed = scores - functional.standard_exponential(scores).log() if self.training else scores
        index = perturbed.argmax(1)  # (B,)
        choice = F.one_hot(index, scores.shape[1]).to(precise)  # (B, N)
        log_probability = None
        if self.training:
            soft = (perturbed / self.temperature).softmax(1)  # (B, N)
            choice = choice + (soft - soft.detach()) if self.straight_through else soft
            if self.straight_through:
                log_probability = scores.log_softmax(1).gather(1, index[:, None]).to(x.dtype)  # (B, 1)
        choice = choice.to(x.dtype)
        choice = self.offer("choice", choice.unflatten(1, (self.rows, self.columns))).flatten(1)
        chosen = functional.read(choice[:, None], regions.flatten(2))  # (B, 1, C·h·w)
        transform = choice @ self.boxes(choice).flatten(1)  # (B, 6)
        return Selection(chosen.unflatten(2, regions.shape[2:]), transform.unflatten(1, (1, 2, 3)), log_probability)

    def cut(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N C h w"]:
        """The regions of a map, row by row."""
        height, width = self.size or (-(-x.shape[2] // self.rows), -(-x.shape[3] // self.columns))
        x = F.interpolate(x, (self.rows * height, self.columns * width), mode="bilinear", align_corners=False)
        cells = x.unflatten(3, (self.columns, width)).unflatten(2, (self.rows, height))  # (B, C, rows, h, columns, w)
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def boxes(self, like: Float[Tensor, "..."]) -> Float[Tensor, "N 2 3"]:
        """The transforms of the regions, row by row."""
        x = (2 * torch.arange(self.columns, device=like.device) + 1).to(like.dtype) / self.columns - 1  # (columns,)
        y = (2 * torch.arange(self.rows, device=like.device) + 1).to(like.dtype) / self.rows - 1  # (rows,)
        centre = torch.stack((x.repeat(self.rows), y.repeat_interleave(self.columns)), 1)  # (N, 2)
        half = centre.new_tensor([[1 / self.columns, 1 / self.rows]])  # (1, 2)
        return functional.box_transform(centre, half)
