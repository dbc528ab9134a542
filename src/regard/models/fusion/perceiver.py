"""The Perceiver as a fusion."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from regard.attention.alignment import PerceiverResampler
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper
from regard.models.fusion.blocks import entries
from regard.models.fusion.contract import Fusion, Level, Modality, head
from regard.models.fusion.outcome import Outcome


class Perceiver(Fusion):
    """Perceiver: a few learned latents read the tokens of all modalities at once, layer by layer.

        logits = mlp(mean over the latents of resampler([x_1; ...; x_M]))

    where `x_m` carry a learned vector that says which modality they are of.

    Paper: Jaegle, Gimeno, Brock, Zisserman, Vinyals, Carreira, "Perceiver: General Perception with Iterative
    Attention", ICML 2021, with the layer of Flamingo's resampler, in which latents read tokens and each other at once.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        latents: how many.
        layers: how many.
        heads: of each attention; default the largest divisor of the width up to 8.
    """

    name: ClassVar[str] = "perceiver"
    level: ClassVar[Level] = "model"
    paper: ClassVar[Paper | None] = Paper(
        "Perceiver: General Perception with Iterative Attention", "Jaegle et al.", "ICML", 2021
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        latents: int = 8,
        layers: int = 3,
        heads: int | None = None,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        self.entries = entries(self.widths, width)
        self.resampler = PerceiverResampler(width, latents, layers, heads=choose_heads(width, heads, 8))
        self.head = head(width, 2 * width, self.outcome.size, self.dropout)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        tokens = torch.cat([entry(modality) for entry, modality in zip(self.entries, modalities, strict=True)], 1)
        mask = torch.cat([modality.mask for modality in modalities], 1)
        return self.head(self.resampler(tokens, mask).mean(1))
