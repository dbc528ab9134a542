"""Directed pairs of modalities."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper
from regard.attention.multimodal import CrossmodalAttention
from regard.models.blocks import Block
from regard.models.fusion.blocks import places
from regard.models.fusion.contract import Fusion, Level, Modality
from regard.models.fusion.outcome import Outcome


class DirectedPairs(Fusion):
    """MulT: a crossmodal transformer for every ordered pair of modalities, then one over what each has collected.

        z_{s→t} = norm(crossmodal layers from x_t, each reading x_s)      for every target t and source s ≠ t
        z_t     = norm(transformer([z_{s→t} for every s], side by side, plus places)), its last token
        logits  = L(z + W_2 relu(W_1 z)) with z = [z_1; ...; z_M]

    where `x_m` are the tokens at the fusion's width plus sinusoids of their places. A pair whose source is missing
    hands `x_t` on as it is, which the paper has no need to say; so does a fusion of one modality.

    Paper: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
    Sequences", ACL 2019, figure 2. Its projection is a convolution over time; here, over any tokens, of size one, as
    in the authors' code. From there are also: the residuals, which go around the normalisations, where equation 4 adds
    what is normalised; the norm behind every transformer, the places and the ReLU in the last ones. Left out of it are
    the causal mask, the factor `√width` of the tokens before places are added, and all dropout but that of the hidden
    layer before the logits. Its sinusoids have places that count from one and slightly other wave lengths.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        layers: of each crossmodal transformer; default 2. The paper has 4 or 5.
        heads: of each attention; default the largest divisor of the width up to 8.
        last_layers: of the transformer over what a target has collected; default 1. The authors' code has as many as
            `layers`, and no fewer than 3.
    """

    name: ClassVar[str] = "directed_pairs"
    level: ClassVar[Level] = "model"
    paper: ClassVar[Paper | None] = Paper(
        "Multimodal Transformer for Unaligned Multimodal Language Sequences", "Tsai et al.", "ACL", 2019
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        layers: int = 2,
        heads: int | None = None,
        last_layers: int = 1,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        heads = choose_heads(width, heads, 8)
        count = len(self.widths)
        self.sources = [[s for s in range(count) if s != t] for t in range(count)]
        collected = width * max(1, count - 1)
        self.project = nn.ModuleList(nn.Linear(wide, width, bias=False) for wide in self.widths.values())
        self.pairs = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(CrossmodalAttention(width, width, heads, variant="code") for _ in range(layers))
                for _ in sources
            )
            for sources in self.sources
        )
        self.pair_norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(width) for _ in sources) for sources in self.sources)
        last_heads = heads * max(1, count - 1)
        self.last = nn.ModuleList(
            nn.ModuleList(Block(collected, last_heads, activation=nn.ReLU) for _ in range(last_layers))
            for _ in self.widths
        )
        self.last_norms = nn.ModuleList(nn.LayerNorm(collected) for _ in self.widths)
        whole = collected * count
        self.mix = nn.Sequential(nn.Linear(whole, whole), nn.ReLU(), self.dropout, nn.Linear(whole, whole))
        self.classify = nn.Linear(whole, self.outcome.size)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        tokens = []
        for project, modality in zip(self.project, modalities, strict=True):
            x = project(modality.tokens)
            tokens.append(x + places(x.shape[1], self.width, x))
        collected = []
        for target, sources in enumerate(self.sources):
            stacks = zip(sources, self.pairs[target], self.pair_norms[target], strict=True)  # pyright: ignore
            parts = [
                self.feed(layers, norm, tokens[target], tokens[source], modalities[source].mask)
                for source, layers, norm in stacks
            ] or [tokens[target]]
            x = torch.cat(parts, 2)
            x = x + places(x.shape[1], x.shape[2], x)
            for block in self.last[target]:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, modalities[target].mask)
            collected.append(last_token(self.last_norms[target](x), modalities[target].mask))
        z = torch.cat(collected, 1)
        return self.classify(z + self.mix(z))

    @staticmethod
    def feed(
        layers: nn.ModuleList,
        norm: nn.Module,
        target: Float[Tensor, "B T W"],
        source: Float[Tensor, "B N W"],
        mask: Bool[Tensor, "B N"],
    ) -> Float[Tensor, "B T W"]:
        """One ordered pair: every layer reads the same source."""
        x = target
        for layer in layers:
            x = layer(x, source, mask)
        return torch.where(mask.any(1)[:, None, None], norm(x), target)


def last_token(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B D"]:
    """The last token that takes part; zero where none does."""
    places = torch.arange(x.shape[1], device=x.device)
    last = torch.where(mask, places, -1).amax(1)  # (B,)
    found = x.gather(1, last.clamp_min(0)[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
    return found.masked_fill((last < 0)[:, None], 0.0)
