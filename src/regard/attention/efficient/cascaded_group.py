"""Cascaded group attention."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention import offering
from regard.attention.arguments import choose_heads, convolution_over
from regard.attention.contract import Paper, Refine
from regard.attention.layout import map_to_tokens, tokens_to_map
from regard.attention.norm import BatchNorm
from regard.attention.offering import MapFact, Request

Variant = Literal["paper", "authors"]


class CascadedGroupAttention(Refine):
    """Cascaded group attention: every head has its own channels, and adds to them what the head before it found.

        x'_1 = x_1,  x'_j = x_j + y_(j-1)                             for the parts x_1..x_h of the channels
        q, k, v = Wq x'_j, Wk x'_j, Wv x'_j, then q ← depthwise convolution of q
        y_j  = Σ_n a_tn v_n,  a_tn = softmax over n of q_t · k_n / √K
        y    = Wo [y_1; ...; y_h]

    Every projection and every depthwise convolution has a batch normalisation instead of a bias. Without a residual,
    which is that of the block around it.

    Paper: Liu, Peng, Zheng, Yang, Hu, Yuan, "EfficientViT: Memory Efficient Vision Transformer with Cascaded Group
    Attention", CVPR 2023.

    Args:
        channels: channels `C` of the map.
        heads: how many heads `h`; default the greatest divisor of `channels` up to the paper's 4.
        key_width: channels `K` of a query and of a key; default 16, the paper's choice. A value has `d = C / h`.
        kernel_size: of the convolution of the queries, odd, for all heads or for each; default 5, that of two of the
            authors' six models. The others have 7, 5, 3 and 3 for the first, second, third and fourth head.
        variant: `"paper"`, the default, or `"authors"`: a ReLU before `Wo`. Their code also adds learned biases for
            the offsets in windows of one size, which this attention over maps of any size does not have.
        dims: how many spatial axes the map has, 1, 2 or 3; default 2.

    Shapes:
        x: `(B, C, *spatial)` with `dims` spatial axes of any size. Gives the same shape.

    Maps:
        attention: `(batch, heads, query, key)`, sums to one over the keys.

    Raises:
        ValueError: `heads` does not divide `channels`, a `kernel_size` is even or their number is not that of the
            heads, `key_width` is less than one, there is no such `variant`, or `dims` is not 1, 2 or 3.
        ShapeError: the input has another channel count or number of spatial axes.
    """

    name: ClassVar[str] = "cascaded_group"
    aliases: ClassVar[tuple[str, ...]] = ("cga", "efficientvit_msra")
    paper: ClassVar[Paper] = Paper(
        "EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention", "Liu et al.", "CVPR", 2023
    )
    formula: ClassVar[str] = (
        "y = Wo concat_j(y_j), y_j = softmax(q_j k_jᵀ / √K) v_j with q_j, k_j, v_j of x_j + y_(j-1)"
    )
    layout = "map"
    spatial_ranks = (2,)
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "heads", "query", "key"), ("key",)),)
    growth: ClassVar[str] = "N^2"
    positional: ClassVar[bool] = True
    parameter_count: ClassVar[str] = "h*((d + 2)*(2*K + d) + 25*K + 2*K) + C*C + 2*C"
    letters: ClassVar[dict[str, str]] = {"C": "channels", "h": "heads", "d": "value_width", "K": "key_width"}
    deviations: ClassVar[tuple[str, ...]] = ('variant="authors": a ReLU before the last projection',)
    placement: ClassVar[str] = "between feed-forward blocks of a small transformer of maps, inside a residual"
    place = "branch"

    def __init__(
        self,
        channels: int,
        heads: int | None = None,
        key_width: int = 16,
        kernel_size: int | Sequence[int] = 5,
        variant: Variant = "paper",
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = convolution_over(dims)
        self.channels = channels
        self.heads = choose_heads(channels, heads, most=4)
        sizes = [kernel_size] * self.heads if isinstance(kernel_size, int) else list(kernel_size)
        if len(sizes) != self.heads:
            raise ValueError(f"kernel_size={kernel_size} is neither one size nor one for each of {self.heads} heads.")
        self.key_width = key_width
        self.value_width = channels // self.heads
        self.variant = variant
        self.spatial_ranks = (dims,)  # pyright: ignore[reportAttributeAccessIssue]
        projected = 2 * key_width + self.value_width
        self.project = nn.ModuleList(
            nn.Sequential(convolution(self.value_width, projected, 1, bias=False), BatchNorm(projected)) for _ in sizes
        )
        self.near = nn.ModuleList(
            nn.Sequential(
                convolution(key_width, key_width, size, padding=size // 2, groups=key_width, bias=False),
                BatchNorm(key_width),
            )
            for size in sizes
        )
        self.output = nn.Sequential(convolution(channels, channels, 1, bias=False), BatchNorm(channels))

    def forward(self, x: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        self.check(x)
        spatial = tuple(x.shape[2:])
        if offering.listening():
            with offering.over_grid(spatial):
                found = self.offer_steps("attention", self.heads, lambda steps: self.cascade(x, steps))
        else:
            found, _ = self.cascade(x, (None,) * self.heads)
        together = torch.cat(found, dim=1)  # (B, C, *spatial)
        return self.output(together.relu() if self.variant == "authors" else together)

    def cascade(
        self, x: Float[Tensor, "B C *spatial"], steps: Sequence[Tensor | None]
    ) -> tuple[list[Tensor], Callable[[Request], Tensor]]:
        """What every head reads, `(B, d, *spatial)` each, and their weights.

        Args:
            steps: the weights that every head reads with, `(B, N, N)`; None for its own.
        """
        spatial = tuple(x.shape[2:])
        found: list[Tensor] = []
        pairs: list[tuple[Tensor, Tensor]] = []  # query and key of every head, (B, 1, N, K)
        parts = x.chunk(self.heads, dim=1)
        for part, project, near, given in zip(parts, self.project, self.near, steps, strict=True):
            widths = [self.key_width, self.key_width, self.value_width]
            query, key, value = project(part + found[-1] if found else part).split(widths, dim=1)
            query, key, value = (
                map_to_tokens(some)[:, None] for some in (near(query), key, value)
            )  # (B, 1, N, K or d)
            if given is None:
                context = functional.scaled_dot_product_attention(query, key, value)[:, 0]  # (B, N, d)
            else:
                context = functional.read(given, value[:, 0])
            found.append(tokens_to_map(context, spatial))
            pairs.append((query, key))

        def attention(request: Request) -> Float[Tensor, "B H T N"]:
            chosen = pairs if request.heads is None else [pairs[head] for head in request.heads]
            query, key = (torch.cat(some, dim=1) for some in zip(*chosen, strict=True))
            return functional.scaled_dot_product_weights(request.pick(query, queries=2), key)

        return found, attention
