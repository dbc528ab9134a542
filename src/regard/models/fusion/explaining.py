"""What a prediction rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.attention.contract import Attention
from regard.formatting import number
from regard.models.fusion.contract import Example
from regard.models.fusion.encoders import Encoder
from regard.models.fusion.model import FusionModel
from regard.watching import AttentionMap, NoMapError, watch


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the prediction for one row rests on.

    Attributes:
        prediction: the class or the number.
        said: the probability of that class; of a number the number again.
        modalities: how much less is said when a modality is missing.
        parts: how much less is said without a part of it alone: for each modality the parts by name, in their order.
            A part is a token that the fusion reads, of which the encoder's neighbouring ones may know.
    """

    prediction: Any
    said: float
    modalities: dict[str, float]
    parts: dict[str, list[tuple[str, float]]]
    watched: tuple[AttentionMap, ...] = field(repr=False)

    @property
    def maps(self) -> list[AttentionMap]:
        """The attention of the fusion, in the order in which it was computed.

        Raises:
            NoMapError: the fusion has none.
        """
        if not self.watched:
            raise NoMapError(
                "this fusion has no attention: read `modalities` and `parts`, or take one at model level, such as "
                "bottleneck, cross_attention, directed_pairs or perceiver"
            )
        return list(self.watched)

    def __str__(self) -> str:
        lines = [f"{self.prediction} ({number(self.said)})"]
        for name, change in sorted(self.modalities.items(), key=lambda pair: -abs(pair[1])):
            top = sorted(self.parts[name], key=lambda pair: -abs(pair[1]))[:3]
            lines.append(f"  {name} {change:+.3g}: " + ", ".join(f"{part} {less:+.3g}" for part, less in top))
        return "\n".join(lines)


@torch.no_grad()
def explain(model: FusionModel, encoders: Sequence[Encoder], cells: dict[str, Tensor], example: Example) -> Explanation:
    """Explain the one row of an example; `cells` are what its encoders read of it."""
    fusion, outcome = model.fusion, model.fusion.outcome
    names = list(example.tokens)
    masks = [example.masks[name] for name in names]
    widths = [mask.shape[1] for mask in masks]
    # The row as it is, without each modality, and without each token: all of them as one batch.
    everything = torch.cat(masks, 1)  # (1, all tokens)
    ends = torch.tensor(widths).cumsum(0).tolist()
    hidden = torch.zeros(len(names), everything.shape[1], dtype=torch.bool)
    for row, (end, width) in enumerate(zip(ends, widths, strict=True)):
        hidden[row, end - width : end] = True
    hidden = torch.cat((hidden, torch.eye(everything.shape[1], dtype=torch.bool))).to(everything.device)
    kept = dict(zip(names, (everything & ~hidden).split(widths, 1), strict=True))

    if any(isinstance(module, Attention) for module in fusion.modules()):
        with watch(fusion) as seen:
            answer = fusion(example.tokens, example.masks)
        maps = tuple(seen.maps)
    else:
        answer, maps = fusion(example.tokens, example.masks), ()
    others = fusion({name: x.expand(len(hidden), -1, -1) for name, x in example.tokens.items()}, kept)
    said = float(outcome.said(answer, answer))
    less = (said - outcome.said(others, answer)).tolist()
    changes = dict(zip(names, torch.tensor(less[len(names) :]).split(widths), strict=True))
    called = dict(zip(model.names, encoders, strict=True))
    parts = {
        name: [
            (part, float(change))
            for part, change, there in zip(
                called[name].parts(cells[name], width), changes[name], example.masks[name][0].tolist(), strict=True
            )
            if there
        ]
        for name, width in zip(names, widths, strict=True)
    }
    return Explanation(outcome.decode(answer.cpu())[0], said, dict(zip(names, less, strict=False)), parts, maps)
