"""The querying transformer."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper, Read
from regard.attention.heads import MultiHead, Show
from regard.attention.offering import MapFact, Request


class QueryFormer(Read):
    """Q-Former: learned queries attend to each other and, in every second layer, to the memory.

        x    = norm(the queries)
        x   <- norm(x + multi_head(query: x; memory: x))         in every layer
        x   <- norm(x + multi_head(query: x; memory: m))         in every second layer, the first one included
        x   <- norm(x + W_2 gelu(W_1 x + b_1) + b_2)             in every layer
        c    = x

    It takes no query: its queries are its own, and a memory of any length gives as many vectors as there are queries.
    It is the part that reads an image; the paper lets text pass through the same self-attention in its pre-training.

    Paper: Li, Li, Savarese, Hoi, "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and
    Large Language Models", ICML 2023, section 3.1. Its layers are those of BERT (Devlin et al., NAACL 2019), here
    without dropout.

    Args:
        memory_width: width `Dm` of a memory token.
        queries: how many queries `R`; default 32, the paper's choice.
        layers: how many layers, each with weights of its own; default 12, the paper's choice.
        width: width `E` of a query and of the context; default `memory_width`. The paper's is 768, of tokens of 1408.
        heads: number of heads; default the largest divisor of the width that is not above 12, the paper's number.
        every: a layer in how many attends to the memory; default 2, the paper's choice.
        expansion: how many times wider than a query the hidden layer is; default 4, as in BERT.

    Shapes:
        memory `(B, N, Dm)`, mask `(B, N)` or `(B, 1, N)` with True = takes part. Gives the context `(B, R, E)`.
        Of a memory of which nothing takes part, it is what the queries make of themselves.

    Maps:
        attention: how the memory is weighed each time that it is read, `(batch, crossing, heads, query, key)`, sums to
            one over the keys.

    Raises:
        ValueError: there is no query or no layer, or the heads do not divide the width.
        ShapeError: the width of the memory or the mask does not fit.
    """

    name: ClassVar[str] = "query_former"
    aliases: ClassVar[tuple[str, ...]] = ("q_former", "blip_2")
    paper: ClassVar[Paper] = Paper(
        "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models",
        "Li et al.",
        "ICML",
        2023,
    )
    formula: ClassVar[str] = "x <- norm(x + multi_head(x, x)); x <- norm(x + multi_head(x, m)); x <- norm(x + mlp(x))"
    maps: ClassVar[tuple[MapFact, ...]] = (
        MapFact("attention", ("batch", "crossing", "heads", "query", "key"), ("key",)),
    )
    growth: ClassVar[str] = "N"
    parameter_count: ClassVar[str] = (
        "(R + 2)*E + L*((2*X + 4)*E*E + (X + 9)*E) + K*(2*(E + M)*E + 6*E)"  # K of L layers read the memory
    )
    letters: ClassVar[dict[str, str]] = {
        "R": "query_count",
        "M": "memory_width",
        "E": "width",
        "L": "depth",
        "K": "crossings",
        "X": "expansion",
    }
    placement: ClassVar[str] = "between a frozen image encoder and a frozen language model"

    def __init__(
        self,
        memory_width: int,
        queries: int = 32,
        layers: int = 12,
        width: int | None = None,
        heads: int | None = None,
        every: int = 2,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        self.memory_width = memory_width
        self.width = memory_width if width is None else width
        self.query_width = self.width  # of its own queries
        self.query_count = queries
        self.depth = layers
        self.crossings = -(-layers // every)
        self.heads = choose_heads(self.width, heads, 12)
        self.expansion = expansion
        self.query = nn.Parameter(torch.randn(queries, self.width) * 0.02)  # as all weights of BERT
        self.norm = _Norm(self.width)
        self.layers = nn.ModuleList(
            _Layer(self.width, memory_width if number % every == 0 else None, self.heads, expansion)
            for number in range(layers)
        )

    @property
    def context_width(self) -> int:
        return self.width

    def forward(
        self, memory: Float[Tensor, "B N Dm"], mask: Bool[Tensor, "B *one N"] | None = None
    ) -> Float[Tensor, "B R E"]:
        x = self.norm(self.query).expand(memory.shape[0], -1, -1)  # (B, R, E)
        mask = self.check(x[:, :1], memory, mask)  # (B, 1, N)
        memory = functional.mask_tokens(memory, mask)

        def run(steps: Sequence[Tensor | None]) -> tuple[Tensor, Callable[[Request], Tensor]]:
            y = x
            crossings: list[Callable[[Request], Tensor]] = []

            def show(weights: Callable[[Request], Tensor]) -> Tensor | None:
                crossings.append(weights)
                return steps[len(crossings) - 1]

            for layer in self.layers:
                y = layer(y, memory, mask, show)  # (B, R, E)

            def stack(request: Request) -> Tensor:
                return torch.stack([weights(request) for weights in crossings], 1)  # (B, K, h, R, N)

            return y, stack

        return self.offer_steps("attention", self.crossings, run)


class _Norm(nn.LayerNorm):
    """The layer normalisation of BERT, whose tiny addition to the variance half precision does not hold."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-12)

    def forward(self, input: Float[Tensor, "*lead E"]) -> Float[Tensor, "*lead E"]:
        wide, weight, bias = (functional.at_least_single(x) for x in (input, self.weight, self.bias))
        return F.layer_norm(wide, self.normalized_shape, weight, bias, self.eps).to(input.dtype)


class _Layer(nn.Module):
    """A layer of BERT, with attention to a memory between its two halves if the memory has a width."""

    def __init__(self, width: int, memory_width: int | None, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention = MultiHead(width, width, width, heads, bias=True)
        self.attention_norm = _Norm(width)
        if memory_width is None:
            self.crossing = None
        else:
            self.crossing = MultiHead(width, memory_width, width, heads, bias=True)
            self.crossing_norm = _Norm(width)
        self.hidden = nn.Linear(width, expansion * width)
        self.output = nn.Linear(expansion * width, width)
        self.output_norm = _Norm(width)

    def forward(
        self,
        x: Float[Tensor, "B R E"],
        memory: Float[Tensor, "B N Dm"],
        mask: Bool[Tensor, "B 1 N"] | None,
        show: Show | None = None,
    ) -> Float[Tensor, "B R E"]:
        x = self.attention_norm(x + self.attention(x, x))  # (B, R, E)
        if self.crossing is not None:
            x = self.crossing_norm(x + self.crossing(x, memory, mask, show))  # (B, R, E)
        return self.output_norm(x + self.output(F.gelu(self.hidden(x))))
