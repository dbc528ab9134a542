"""Encoders and a fusion as one network, and the batches that it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from regard.models.fusion.contract import Example, Fusion, drop_modalities
from regard.models.fusion.encoders import Encoder


@dataclass(frozen=True)
class Batch:
    """Rows of a table.

    Attributes:
        size: how many rows.
        inputs: for each modality what its encoder takes of the rows that have it; a modality that none has is left out.
        rows: for each of these modalities which rows these are.
        target: each row's, encoded by the outcome, or None.
    """

    size: int
    inputs: dict[str, tuple[Tensor, ...]]
    rows: dict[str, Int[Tensor, " some"]]
    target: Num[Tensor, " B"] | None

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.size,
            {name: tuple(part.to(device) for part in parts) for name, parts in self.inputs.items()},
            {name: rows.to(device) for name, rows in self.rows.items()},
            None if self.target is None else self.target.to(device),
        )


def collate(
    encoders: Mapping[str, Encoder],
    cells: Sequence[Mapping[str, Tensor | None]],
    target: Num[Tensor, " B"] | None,
    dropped: float = 0.0,
) -> Batch:
    """Rows as a batch.

    Args:
        cells: for each row and modality what the encoder's `read` gave, None where it is missing.
        dropped: probability of dropping each modality of each row, but never all that a row has.
    """
    present = {name: torch.tensor([row[name] is not None for row in cells]) for name in encoders}
    if dropped:
        present = drop_modalities(present, dropped)
    rows = {name: there.nonzero()[:, 0] for name, there in present.items() if there.any()}
    inputs = {
        name: encoders[name].batch([cell for row in some.tolist() if (cell := cells[row][name]) is not None])
        for name, some in rows.items()
    }
    return Batch(len(cells), inputs, rows, target)


class FusionModel(nn.Module):
    """An encoder for each modality, and the fusion of what they give.

    Args:
        encoders: for each modality its encoder.
        fusion: takes tokens of these modalities.
    """

    def __init__(self, encoders: Mapping[str, Encoder], fusion: Fusion) -> None:
        super().__init__()
        self.names = list(encoders)
        self.encoders = nn.ModuleList(encoders.values())  # a name of a column may not be one of a module
        self.fusion = fusion

    def encode(self, batch: Batch) -> Example:
        """Tokens and masks; only what is there is looked at."""
        tokens, masks, present = {}, {}, {}
        for name, encoder in zip(self.names, self.encoders, strict=True):
            if name not in batch.rows:
                continue
            rows = batch.rows[name]
            some, mask = encoder(*batch.inputs[name])
            tokens[name] = some.new_zeros(batch.size, *some.shape[1:]).index_copy(0, rows, some)
            masks[name] = mask.new_zeros(batch.size, mask.shape[1]).index_copy(0, rows, mask)
            present[name] = masks[name].any(1)
        if not tokens:  # rows of which nothing is there
            first = next(self.parameters())
            name, width = next(iter(self.fusion.widths.items()))
            tokens[name] = first.new_zeros(batch.size, 1, width)
            present[name] = torch.zeros(batch.size, dtype=torch.bool, device=first.device)
        target = torch.zeros(batch.size, dtype=torch.long) if batch.target is None else batch.target
        return Example(target, tokens, masks, present)

    def parts(self) -> list[tuple[str, ...]]:
        """What stops early together, by how the names in its state begin: each modality if they are apart, or all."""
        return [
            (f"encoders.{m}.", *(f"fusion.{begin}" for begin in begins)) for m, begins in enumerate(self.fusion.parts())
        ] or [("",)]

    def forward(self, batch: Batch) -> Float[Tensor, "B K"]:
        example = self.encode(batch)
        return self.fusion(example.tokens, example.masks, example.present)
