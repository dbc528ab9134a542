"""The Perceiver resampler."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.heads import MultiHead, Show
from regard.attention.offering import MapFact, Request


class PerceiverResampler(Read):
    """Perceiver resampler: learned latents read the memory and each other, and stand for it from then on.

        x    = the latents
        x   <- x + multi_head(query: norm(x); memory: norm(m) and norm(x), one behind the other)     in every layer
        x   <- x + W_2 relu(W_1 norm(x))²
        c    = x

    It takes no query: its queries are its own, and a memory of any length gives as many vectors as there are latents.
    Where a token stands, in space or time, is told by embeddings which the caller has added to the memory.

    Paper: Alayrac et al., "Flamingo: a Visual Language Model for Few-Shot Learning", NeurIPS 2022, section 2.1 and its
    listing in appendix A.1.1, after Jaegle et al., "Perceiver", ICML 2021. It does not say where it normalises nor
    whether it has biases: as in OpenFlamingo, every layer's input is normalised, memory and latents apart, and there
    are none. (OpenFlamingo has a GELU for the squared ReLU, and normalises once more at the end.)

    Args:
        memory_width: width `Dm` of a memory token, of a latent and of the context.
        latents: how many latents `R`; default 64, the paper's choice.
        layers: how many layers, each with weights of its own; default 6, the paper's choice.
        width: width `E` of all heads together; default `memory_width`.
        heads: number of heads; default the largest divisor of the width that is not above 16, the paper's number.
        expansion: how many times wider than a latent the hidden layer is; default 4, the paper's choice.

    Shapes:
        memory `(B, N, Dm)`, mask `(B, N)` or `(B, 1, N)` with True = takes part. Gives the context `(B, R, Dm)`.
        Of a memory of which nothing takes part, it is what the latents make of themselves.

    Maps:
        attention: how every layer's latents weigh the memory, `(batch, layer, heads, latent, key)`. What is missing to
            a sum of one over the keys is how they weigh each other.

    Raises:
        ValueError: there is no layer, or the heads do not divide the width.
        ShapeError: the width of the memory or the mask does not fit.
    """

    name: ClassVar[str] = "perceiver_resampler"
    aliases: ClassVar[tuple[str, ...]] = ("perceiver", "resampler")
    paper: ClassVar[Paper] = Paper(
        "Flamingo: a Visual Language Model for Few-Shot Learning", "Alayrac et al.", "NeurIPS", 2022
    )
    formula: ClassVar[str] = "x <- x + multi_head(norm(x), [norm(m); norm(x)]); x <- x + W_2 relu(W_1 norm(x))²; c = x"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "layer", "heads", "latent", "key")),)
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = "R*M + L*(4*M*E + 2*X*M*M + 6*M)"
    letters: ClassVar[dict[str, str]] = {
        "R": "latent_count",
        "M": "memory_width",
        "E": "width",
        "L": "depth",
        "X": "expansion",
    }
    placement: ClassVar[str] = "between a vision encoder and a language model that reads its output"

    def __init__(
        self,
        memory_width: int,
        latents: int = 64,
        layers: int = 6,
        width: int | None = None,
        heads: int | None = None,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        self.memory_width = memory_width
        self.query_width = memory_width  # of its own queries
        self.latent_count = latents
        self.depth = layers
        self.width = memory_width if width is None else width
        self.heads = choose_heads(self.width, heads, 16)
        self.expansion = expansion
        self.latents = nn.Parameter(torch.empty(latents, memory_width))
        nn.init.trunc_normal_(self.latents, std=0.02)  # as those of the Perceiver
        self.layers = nn.ModuleList(_Layer(memory_width, self.width, self.heads, expansion) for _ in range(layers))

    @property
    def context_width(self) -> int:
        return self.memory_width

    def forward(
        self, memory: Float[Tensor, "B N Dm"], mask: Bool[Tensor, "B *one N"] | None = None
    ) -> Float[Tensor, "B R Dm"]:
        x = self.latents.expand(memory.shape[0], -1, -1)  # (B, R, Dm)
        mask = self.check(x[:, :1], memory, mask)  # (B, 1, N)
        memory = functional.mask_tokens(memory, mask)
        N = memory.shape[1]
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(1, 1, 1).expand(memory.shape[0], 1, self.latent_count)), 2)

        def run(steps: Sequence[Tensor | None]) -> tuple[Tensor, Callable[[Request], Tensor]]:
            y = x
            layers: list[Callable[[Request], Tensor]] = []

            def show(weights: Callable[[Request], Tensor]) -> Tensor | None:
                of_memory = steps[len(layers)]  # (B, h, R, N)
                layers.append(weights)
                return None if of_memory is None else torch.cat((of_memory, weights(Request())[..., N:]), -1)

            for layer in self.layers:
                y = layer(y, memory, mask, show)  # (B, R, Dm)

            def stack(request: Request) -> Tensor:
                part = Request(heads=request.heads)
                return torch.stack([weights(part) for weights in layers], 1)[..., :N]  # (B, L, h, R, N)

            return y, stack

        return self.offer_steps("attention", self.depth, run)


class _Layer(nn.Module):
    """Attention to the memory and the latents, then the feed-forward network."""

    def __init__(self, channels: int, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.memory_norm = nn.LayerNorm(channels)
        self.latent_norm = nn.LayerNorm(channels)
        self.attention = MultiHead(channels, channels, width, heads, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Linear(channels, expansion * channels, bias=False)
        self.output = nn.Linear(expansion * channels, channels, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B R D"],
        memory: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B 1 N+R"] | None,
        show: Show | None = None,
    ) -> Float[Tensor, "B R D"]:
        latents = self.latent_norm(x)  # (B, R, D)
        x = x + self.attention(latents, torch.cat((self.memory_norm(memory), latents), 1), mask, show)
        return x + self.output(self.hidden(self.norm(x)).relu().square())
