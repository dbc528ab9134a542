"""Mean-field refinement of a conditional random field."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact


class MeanFieldRefinement(Refine):
    """Mean-field refinement: positions that lie near, or look alike, pull each other's class probabilities together.

        q_0  = softmax over the classes of x
        m_i  = w_s · Σ_{j≠i} exp(-|p_i - p_j|² / 2γ²) q_j                               messages, w_s one a class
             + w_a · Σ_{j≠i} exp(-|p_i - p_j|² / 2α² - |f_i - f_j|² / 2β²) q_j          with a guide f
        y    = x - μ m                                                                  q = softmax(y) for the next step

    The first filter is computed axis by axis, the second from all pairs: both are exact.

    Paper: Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr, "Conditional Random Fields as Recurrent
    Neural Networks", ICCV 2015, section 4. As there, the steps share their parameters, μ starts as the Potts model, and
    what is given is not normalised: the class probabilities are its softmax.

    Args:
        channels: number of classes `C`, whose logits the map holds.
        steps: how many mean-field steps; default 5, with which the paper trains. It evaluates with 10.
        guide_channels: channels `G` of the guide, such as 3 of an image; default 0: no guide, and so not the second
            filter.
        smoothness: γ in positions; default 3.
        appearance_position: α in positions; default 160.
        appearance_guide: β in units of the guide; default 3, for an image of values 0 to 255.
        normalize: whether the weights of each filter at a position are divided by their sum; default False, as the
            paper's equation is written.

    Shapes:
        x: `(B, C, *spatial)`, any number and size of spatial axes. Gives the same shape.
        guide: `(B, G, *spatial)`; only, and always, with `guide_channels`.

    Maps:
        probability: the class probabilities `(batch, channel, *spatial)`, sums to one over the channels.

    Raises:
        ValueError: `steps` is less than one, or a width of a filter is not positive.
        ShapeError: the input has another channel count, or the guide does not fit or is missing.
    """

    name: ClassVar[str] = "mean_field"
    aliases: ClassVar[tuple[str, ...]] = ("crf_rnn", "crf", "dense_crf")
    paper: ClassVar[Paper] = Paper(
        "Conditional Random Fields as Recurrent Neural Networks", "Zheng et al.", "ICCV", 2015
    )
    formula: ClassVar[str] = "y = x - μ (w · Σ_{j≠i} k(i, j) softmax(y_j)), steps times, from y = x"
    layout = "map"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact(
            "probability",
            ("batch", "channel", SPATIAL),
            ("channel",),
            fixed="it is the output: nothing is read with it",
        ),
    )
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "C + C*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels"}
    deviations: ClassVar[tuple[str, ...]] = (
        "normalize=True: the weights of a filter are divided by their sum, as in the authors' code",
    )
    placement: ClassVar[str] = "after the logits of a segmentation network"
    place = "output"

    def __init__(
        self,
        channels: int,
        steps: int = 5,
        guide_channels: int = 0,
        smoothness: float = 3.0,
        appearance_position: float = 160.0,
        appearance_guide: float = 3.0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.steps = steps
        self.guide_channels = guide_channels
        self.smoothness = smoothness
        self.appearance_position = appearance_position
        self.appearance_guide = appearance_guide
        self.normalize = normalize
        self.smoothness_weight = nn.Parameter(torch.ones(channels))
        self.appearance_weight = nn.Parameter(torch.ones(channels)) if guide_channels else None
        # μ: Potts, 1 for classes that differ, less 1 for all pairs, which the softmax does not see.
        self.compatibility = nn.Parameter(-torch.eye(channels))

    def forward(
        self, x: Float[Tensor, "B C *spatial"], guide: Float[Tensor, "B G *spatial"] | None = None
    ) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        self.check_guide(x, guide)
        spatial = tuple(x.shape[2:])
        lines = [self.line(size, x) for size in spatial]
        ones = x.new_ones(1, 1, *spatial)
        sums = self.near(ones, lines).clamp_min(torch.finfo(x.dtype).tiny) if self.normalize else ones
        pairs = None if guide is None else self.pairs(guide)  # (B, N, N)
        y = x
        for _ in range(self.steps):
            q = y.softmax(1)  # (B, C, *spatial)
            messages = self.weigh(self.smoothness_weight, self.near(q, lines) / sums)
            if pairs is not None and self.appearance_weight is not None:
                alike = torch.bmm(q.flatten(2), pairs).reshape(x.shape)  # (B, C, *spatial)
                messages = messages + self.weigh(self.appearance_weight, alike)
            y = x - torch.einsum("lc,bcn->bln", self.compatibility, messages.flatten(2)).reshape(x.shape)
        self.offer("probability", lambda request: y.softmax(1))
        return y  # (B, C, *spatial)

    def line(self, size: int, like: Tensor) -> Float[Tensor, "size size"]:
        """The Gaussian between the positions of one axis: over all axes it is the product of these."""
        place = torch.arange(size, device=like.device).to(at_least_single(like)) / self.smoothness
        return (-(place[:, None] - place).square() / 2).exp().to(like.dtype)

    def near(self, q: Float[Tensor, "b c *spatial"], lines: list[Tensor]) -> Float[Tensor, "b c *spatial"]:
        """`Σ_{j≠i}` of the filter over positions: all of them less the position itself, whose weight is one."""
        total = q
        for axis, line in enumerate(lines, start=2):
            total = (total.movedim(axis, -1) @ line).movedim(-1, axis)
        return total - q

    def pairs(self, guide: Float[Tensor, "B G *spatial"]) -> Float[Tensor, "B N N"]:
        """The filter over positions and guide, from all pairs, without the position itself; column `i` receives."""
        spatial = guide.shape[2:]
        places = torch.cartesian_prod(*(torch.arange(size, device=guide.device) for size in spatial))
        places = places.reshape(-1, len(spatial)).to(at_least_single(guide)).T / self.appearance_position  # (axes, N)
        near = (places[:, :, None] - places[:, None]).square().sum(0)  # (N, N)
        features = guide.flatten(2).to(near.dtype) / self.appearance_guide  # (B, G, N)
        squares = features.square().sum(1)  # (B, N)
        products = torch.bmm(features.transpose(1, 2), features)  # (B, N, N)
        alike = (squares[:, :, None] + squares[:, None] - 2 * products).clamp_min(0)
        itself = torch.eye(near.shape[0], dtype=torch.bool, device=guide.device)
        weights = (-(near + alike) / 2).exp().masked_fill(itself, 0.0)  # (B, N, N)
        if self.normalize:
            weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        return weights.to(guide.dtype)

    def weigh(
        self, weight: Float[Tensor, " C"], messages: Float[Tensor, "B C *spatial"]
    ) -> Float[Tensor, "B C *spatial"]:
        """Each class by its weight of a filter."""
        return messages * weight.reshape(-1, *[1] * (messages.ndim - 2))

    def check_guide(self, x: Tensor, guide: Tensor | None) -> None:
        """Refuse a guide of another shape, one that is not wanted, and one that is missing."""
        expected = (x.shape[0], self.guide_channels, *x.shape[2:]) if self.guide_channels else None
        given = None if guide is None else tuple(guide.shape)
        if given != expected:
            raise self.refuse(
                f"a guide of shape {given}", f"{expected}", "build it with the guide's channel count as guide_channels"
            )


def at_least_single(like: Tensor) -> torch.dtype:
    """The type in which distances are computed: in half precision they would be wrong from position 256 on."""
    return torch.promote_types(like.dtype, torch.float32)
