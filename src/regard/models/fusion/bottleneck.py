"""Bottleneck tokens."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.blocks import Block
from regard.models.fusion.blocks import entries
from regard.models.fusion.contract import Fusion, Level, Modality
from regard.models.fusion.outcome import Outcome


class Bottleneck(Fusion):
    """Multimodal bottleneck transformer: all that modalities learn of each other goes through a few shared tokens.

        [z_m; b_m] = block_m([z_m; b]) for every modality, then b = mean over m of b_m     in every fusion layer
        logits     = mean over m of L norm(class token of z_m)

    Before, every modality has layers to itself. A missing modality is left out of both means; while all are missing the
    bottleneck stays as it is, and the answer is the classifier's bias.

    Paper: Nagrani, Yang, Arnab, Jansen, Schmid, Sun, "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021,
    equations 8 and 9 and section 3.3.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        tokens: how many tokens the bottleneck has; default 4, the paper's choice.
        alone_layers: layers before the modalities meet.
        layers: layers in which they meet.
        heads: of each attention; default the largest divisor of the width up to 8.
    """

    name: ClassVar[str] = "bottleneck"
    level: ClassVar[Level] = "model"
    paper: ClassVar[Paper | None] = Paper(
        "Attention Bottlenecks for Multimodal Fusion", "Nagrani et al.", "NeurIPS", 2021
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        tokens: int = 4,
        alone_layers: int = 1,
        layers: int = 2,
        heads: int | None = None,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        if tokens < 1 or layers < 1:
            raise ValueError(f"tokens={tokens} and layers={layers}: give at least one of each, or nothing is fused.")
        self.alone_layers = alone_layers
        self.entries = entries(self.widths, width)
        self.class_tokens = nn.Parameter(torch.randn(len(self.widths), width) * 0.02)
        self.bottleneck = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(width, heads) for _ in self.widths) for _ in range(alone_layers + layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, self.outcome.size)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        batch = modalities[0].mask.shape[0]
        streams, masks = [], []
        for entry, modality, own in zip(self.entries, modalities, self.class_tokens, strict=True):
            streams.append(torch.cat((own.expand(batch, 1, -1), entry(modality)), 1))  # (B, 1 + N, W)
            masks.append(torch.cat((modality.present[:, None], modality.mask), 1))
        there = torch.stack([modality.present for modality in modalities], 1)[..., None]  # (B, M, 1)
        shared = self.bottleneck.expand(batch, -1, -1)  # (B, S, W)
        for depth, layer in enumerate(self.blocks):
            if depth < self.alone_layers:
                streams = [block(x, mask) for block, x, mask in zip(layer, streams, masks, strict=True)]  # pyright: ignore
                continue
            updates = []
            for m, block in enumerate(layer):  # pyright: ignore[reportArgumentType]
                both = torch.cat((streams[m], shared), 1)
                x = block(both, torch.cat((masks[m], masks[m].new_ones(shared.shape[:2])), 1))
                streams[m], update = x.split([streams[m].shape[1], shared.shape[1]], 1)
                updates.append(update)
            shared = mean_of_those_there(torch.stack(updates, 1), there[..., None], shared)
        tops = torch.stack([x[:, 0] for x in streams], 1)  # (B, M, W)
        logits = self.classify(self.dropout(self.norm(tops)))  # (B, M, K)
        return mean_of_those_there(logits, there, self.classify.bias.expand(batch, -1))


def mean_of_those_there(
    x: Float[Tensor, "B M *rest"], there: Tensor, otherwise: Float[Tensor, "B *rest"]
) -> Float[Tensor, "B *rest"]:
    """The mean over the modalities that are there, where there is any."""
    mean = torch.where(there, x, 0.0).sum(1) / there.sum(1).clamp_min(1)
    return torch.where(there.any(1), mean, otherwise)
