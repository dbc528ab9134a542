"""Layers that several of the papers have."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import Read
from regard.attention.multimodal.bilinear_read import scoring
from regard.attention.offering import MapFact
from regard.errors import UserError
from regard.models.vqa.words import Words


class WeightNormLinear(nn.Module):
    """`y = g V x / |V| + b`: a linear layer whose weights have one learned norm (Salimans and Kingma, NeurIPS 2016).

    One norm for the matrix and not for each row, as in the released code of several papers here; in place of
    `torch.nn.utils.parametrizations.weight_norm`, whose modules cannot be pickled.
    """

    def __init__(self, width: int, out_width: int, bias: bool = True) -> None:
        super().__init__()
        start = nn.Linear(width, out_width, bias=bias)
        self.weight = start.weight
        self.bias = start.bias
        self.norm = nn.Parameter(start.weight.detach().norm())

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead E"]:
        return F.linear(x, self.weight * (self.norm / self.weight.norm()), self.bias)


class GatedTanh(nn.Module):
    """`tanh(W x + b) ∘ sigmoid(W' x + b')` (Anderson et al., CVPR 2018, equations 2 to 4)."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.content = nn.Linear(width, out_width)
        self.gate = nn.Linear(width, out_width)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead E"]:
        return self.content(x).tanh() * self.gate(x).sigmoid()


class GlimpseLinear(nn.Module):
    """A linear layer for each glimpse, to its share of a width: `[W_1 v_1 + b_1; ...; W_G v_G + b_G]`.

    Args:
        width: width of all glimpses side by side.
        out_width: of what is given; the glimpses share it evenly.
        glimpses: how many.

    Raises:
        UserError: they cannot share it.
    """

    def __init__(self, width: int, out_width: int, glimpses: int) -> None:
        super().__init__()
        if out_width % glimpses:
            raise UserError(f"{glimpses} glimpses cannot share a width of {out_width}: give a multiple")
        self.layers = nn.ModuleList(nn.Linear(width // glimpses, out_width // glimpses) for _ in range(glimpses))

    def forward(self, seen: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead E"]:
        parts = zip(self.layers, seen.chunk(len(self.layers), -1), strict=True)
        return torch.cat([layer(part) for layer, part in parts], -1)


def brought(width: int, to: int) -> nn.Module:
    """A linear layer to another width; nothing where it is that already."""
    return nn.Identity() if width == to else nn.Linear(width, to)


def rectified(widths: Sequence[int]) -> nn.Sequential:
    """A linear layer from each width to the next, each with a ReLU behind it."""
    return nn.Sequential(*(layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())))


def normalized_classifier(width: int, hidden_width: int, answers: int, dropout: float) -> nn.Sequential:
    """Two layers of normalised weights and a ReLU between: the classifier of BAN and of the known bottom-up code."""
    return nn.Sequential(
        WeightNormLinear(width, hidden_width), nn.ReLU(), nn.Dropout(dropout), WeightNormLinear(hidden_width, answers)
    )


class SelfAttentiveRead(Read):
    """A sequence as one vector a glimpse, by weights that it finds in itself; it takes no query.

        a^g = softmax over n of w_gᵀ relu(W m_n + b)
        c   = [Σ_n a^1_n m_n; ...; Σ_n a^G_n m_n]

    The attention to a question's words of MFB and BLOCK, and what flattens a sequence in MCAN. A bias behind `w` would
    change nothing, for a softmax does not see it.

    Args:
        memory_width: width `M` of a memory token.
        hidden_width: width of the scoring network; default 512, that of all three.
        glimpses: number of attention maps `G`.
        dropout: probability of dropping an entry of the scoring network's hidden layer in training.

    Shapes:
        memory `(B, N, M)`, mask `(B, N)` with True = takes part. Gives `(B, 1, G·M)`.

    Maps:
        attention: `(batch, glimpse, query, key)` with one query, sums to one over the keys.
    """

    name: ClassVar[str] = "self_attentive"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "glimpse", "query", "key"), ("key",)),)

    def __init__(self, memory_width: int, hidden_width: int = 512, glimpses: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.query_width = 0
        self.memory_width = memory_width
        self.glimpses = glimpses
        self.score = scoring(memory_width, hidden_width, glimpses)
        self.score.insert(2, nn.Dropout(dropout))

    @property
    def context_width(self) -> int:
        return self.glimpses * self.memory_width

    def forward(
        self, memory: Float[Tensor, "B N M"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B 1 GM"]:
        mask = self.check(memory.new_empty(memory.shape[0], 1, 0), memory, mask)  # (B, 1, N)
        memory = functional.mask_tokens(memory, mask)
        weights = functional.masked_softmax(self.score(memory).transpose(1, 2), mask)  # (B, G, N)
        weights = self.offer("attention", weights[:, :, None])[:, :, 0]
        return torch.bmm(weights, memory).flatten(1)[:, None]


class QuestionAttention(nn.Module):
    """Every question as what its own words' attention makes of it: `SelfAttentiveRead` over them.

    Shapes:
        `Words` of width `D`. Gives `(B, Q, G·D)`; of a question without words, zeros.
    """

    def __init__(self, width: int, hidden_width: int = 512, glimpses: int = 2) -> None:
        super().__init__()
        self.read = SelfAttentiveRead(width, hidden_width, glimpses)
        self.width = self.read.context_width

    def forward(self, words: Words) -> Float[Tensor, "B Q GD"]:
        return words.apart(self.read(*words.flat())[:, 0])
