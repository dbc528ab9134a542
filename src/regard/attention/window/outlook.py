"""Outlook attention."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Refine
from regard.attention.offering import SPATIAL, MapFact


class OutlookAttention(Refine):
    """Outlook attention: every position says how the positions around it read each other.

        A_i       = softmax over sources of Wa x_i + ba, in h heads a k² by k² matrix
        v         = Wv x
        y_i,t     = Σ_s A_i,ts v_(s of the window around i)        for the k² targets t of the window
        y_j       = Wo (the sum of y_i,t over all windows i in which t is j) + bo

    Nothing is compared: the weights come from the window's middle alone. Around the map values are zero, and take part.

    Paper: Yuan, Hou, Jiang, Feng, Yan, "VOLO: Vision Outlooker for Visual Recognition", TPAMI 2022 (arXiv 2021),
    algorithm 1.

    Args:
        channels: channels `C` of the map.
        kernel_size: size `k` of a window, odd; default 3, the paper's choice.
        stride: positions from a window to the next; default 1. Where it is more, `A` is of the mean of that many
            positions squared.
        heads: how many heads `h`; default the greatest divisor of `channels` that leaves a head the paper's 32
            channels.
        scaled: whether scores are divided by the root of a head's channels; default False, as in the equation.

    Shapes:
        x: `(B, C, H, W)` of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, height, width, target, source)` of every window, sums to one over the sources; a
            target or source `r k + c` is row `r` and column `c` of the window. Height and width are those of the
            windows: of the map, or with a stride as many times fewer, rounded up.

    Raises:
        ValueError: `heads` does not divide `channels`, `kernel_size` is even, or `stride` is not in 1..`kernel_size`.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "outlook"
    aliases: ClassVar[tuple[str, ...]] = ("volo", "outlooker", "outlook_attn")
    paper: ClassVar[Paper] = Paper("VOLO: Vision Outlooker for Visual Recognition", "Yuan et al.", "TPAMI", 2022)
    formula: ClassVar[str] = "y = Wo fold(softmax(Wa x_i + ba) · unfold(Wv x)_i) + bo"
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "heads", SPATIAL, "target", "source"), ("source",)),
    )
    growth: ClassVar[str] = "N"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "2*C*C + C + (C + 1)*k*k*k*k*h"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "k": "kernel_size", "h": "heads"}
    deviations: ClassVar[tuple[str, ...]] = (
        "stride=2: weights of every second row and column, as in the authors' released models",
        "scaled=True: scores over the root of a head's channels, as in the authors' code",
    )
    placement: ClassVar[str] = "in the early blocks of a transformer of maps, where the map is fine"
    place = "branch"

    def __init__(
        self, channels: int, kernel_size: int = 3, stride: int = 1, heads: int | None = None, scaled: bool = False
    ) -> None:
        super().__init__()
        if stride > kernel_size:
            raise ValueError(f"stride={stride} leaves positions without a window: give 1 to {kernel_size}.")
        self.channels = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.heads = choose_heads(channels, heads, most=channels // 32)
        self.targets = self.sources = kernel_size**2
        self.scale = (channels // self.heads) ** -0.5 if scaled else 1.0
        self.value = nn.Linear(channels, channels, bias=False)
        self.score = nn.Linear(channels, self.heads * self.targets * self.sources)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        self.check(x)
        k, s = self.kernel_size, self.stride
        middles = x if s == 1 else F.avg_pool2d(x, s, s, ceil_mode=True)  # (B, C, rows, columns)
        scores = self.score(middles.permute(0, 2, 3, 1)) * self.scale  # (B, rows, columns, h·k⁴)
        weights = scores.unflatten(3, (self.heads, k * k, k * k)).softmax(5)  # (B, rows, columns, h, k², k²)
        weights = self.offer("attention", weights.movedim(3, 1)).movedim(1, 3)
        value = self.value(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, H, W)
        value = F.unfold(value, k, padding=k // 2, stride=s).unflatten(1, (self.heads, -1, k * k))  # (B, h, d, k², n)
        context = weights.flatten(1, 2) @ value.permute(0, 4, 1, 3, 2)  # (B, n, h, k², d)
        parts = context.permute(0, 2, 4, 3, 1).flatten(1, 3)  # (B, C·k², n)
        y = F.fold(parts, (x.shape[2], x.shape[3]), k, padding=k // 2, stride=s)  # (B, C, H, W)
        return self.output(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, H, W)
