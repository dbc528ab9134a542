"""The cross-attention transformer."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard import functional
from regard.attention.arguments import choose_heads
from regard.attention.contract import Paper
from regard.attention.multimodal import CoAttentionalTransformer
from regard.models.fusion.blocks import entries
from regard.models.fusion.contract import Fusion, Level, Modality, head
from regard.models.fusion.outcome import Outcome


class CrossAttention(Fusion):
    """Cross-attention transformer: in every layer each modality reads all others, then its own tokens read each other.

        x_m <- layer_m(x_m, the tokens of all other modalities as they came from the layer before)
        logits = mlp([mean x_1; ...; mean x_M])

    Where nothing of the others is there, a modality stays as it is.

    Paper: Tan, Bansal, "LXMERT: Learning Cross-Modality Encoder Representations from Transformers", EMNLP 2019, its
    cross-modality layer, with all others in place of the one other.

    Args:
        widths, outcome, width, dropout: as every `Fusion`.
        layers: how many.
        heads: of each attention; default the largest divisor of the width up to 8.
    """

    name: ClassVar[str] = "cross_attention"
    level: ClassVar[Level] = "model"
    paper: ClassVar[Paper | None] = Paper(
        "LXMERT: Learning Cross-Modality Encoder Representations from Transformers", "Tan, Bansal", "EMNLP", 2019
    )

    def __init__(
        self,
        widths: Mapping[str, int],
        outcome: int | Outcome,
        width: int = 64,
        dropout: float = 0.0,
        layers: int = 2,
        heads: int | None = None,
    ) -> None:
        super().__init__(widths, outcome, width, dropout)
        heads = choose_heads(width, heads, 8)
        self.entries = entries(self.widths, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(CoAttentionalTransformer(width, width, heads, variant="lxmert") for _ in self.widths)
            for _ in range(layers)
        )
        self.head = head(width * len(self.widths), 2 * width, self.outcome.size, self.dropout)

    def fuse(self, modalities: list[Modality]) -> Float[Tensor, "B K"]:
        tokens = [entry(modality) for entry, modality in zip(self.entries, modalities, strict=True)]
        masks = [modality.mask for modality in modalities]
        if len(tokens) > 1:
            for layer in self.layers:
                read = []
                for m, cross in enumerate(layer):  # pyright: ignore[reportArgumentType]
                    memory = torch.cat(tokens[:m] + tokens[m + 1 :], 1)
                    others = torch.cat(masks[:m] + masks[m + 1 :], 1)
                    x = cross(tokens[m], memory, others, masks[m])
                    read.append(torch.where(others.any(1)[:, None, None], x, tokens[m]))
                tokens = read
        vectors = [functional.masked_mean(x, mask[:, None])[:, 0] for x, mask in zip(tokens, masks, strict=True)]
        return self.head(torch.cat(vectors, 1))
