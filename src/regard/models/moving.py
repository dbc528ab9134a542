"""Two looks at a picture: find what the question names, then move on to what lies beside it."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import Attention, offering
from regard.attention.alignment.score import AdditiveScore
from regard.attention.layout import map_to_tokens
from regard.attention.offering import MapFact

BLOCK = 2
"""A move leads from a block of so many cells along each axis to another; which cell of it is meant, content tells."""

REACH = 4
"""How far a move leads at most, in blocks along each axis."""

CERTAINTY = 2.0
"""The logit, before anything is learned, that a word of direction asks to move, and that any other does not.

Without it both hops learn to avoid what a relation starts from, which is never its answer, and stay there.
"""


class FindThenMove(Attention):
    """Find by content; then, if the words ask for it, move on from there: two hops, one read.

        z_n = yᵀ tanh(P m_n)                                                         what stands out, whatever is asked
        a_n = softmax over n of vᵀ tanh(W q + U m_n) + z_n                           find, as additive attention
        s_n = Σ_d k_d a_{n+d},   k = softmax over the offsets d ≠ 0 of (V q)_d       all places beside the found
        b_n = softmax over n of log s_n + z_n                                        of them, one that stands out
        g   = 1 / (1 + Σ_w exp(-θ_w)) over the question's words w                    one word is enough to move
        c   = Σ_n (g a_n + (1 - g) b_n) m_n

    Content addressing, an interpolation gate and a convolutional shift as in Graves, Wayne, Danihelka, "Neural Turing
    Machines", 2014, section 3.3, for cells of a grid: the shift has two axes and leaves out "stay here", which is the
    gate's. Stacked attention (`regard.attention.StackedRead`) puts the first hop's context into the second hop's
    query instead, and adds it to the answer; here the first hop decides only where the second one starts.

    Args:
        width: width `D` of queries and image cells.
        hidden_width: width of the scoring networks.
        words: size of the questions' vocabulary; word 0 fills up short ones and counts for nothing.
        directions: the words that ask to move before anything is learned, as a parser would say (Andreas, Rohrbach,
            Darrell, Klein, "Neural Module Networks", CVPR 2016).

    Shapes:
        query `(B, T, D)`, image `(B, D, h, w)`, words `(B, T, L)`. Gives the context `(B, T, D)`.

    Maps:
        attention: `(batch, hop, query, key)`: `a`, and the weights that are read with; each sums to one over the keys.
    """

    name: ClassVar[str] = "find_then_move"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "hop", "query", "key"), ("key",)),)

    def __init__(self, width: int, hidden_width: int, words: int, directions: Sequence[int]) -> None:
        super().__init__()
        self.context_width = width
        self.find = AdditiveScore(width, width, hidden_width)
        self.offset = nn.Linear(width, (2 * REACH + 1) ** 2)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.salience = nn.Sequential(nn.Linear(width, hidden_width), nn.Tanh(), nn.Linear(hidden_width, 1, bias=False))
        self.stay = nn.Embedding(words, 1)
        with torch.no_grad():
            self.stay.weight.fill_(CERTAINTY)[list(directions)] = -CERTAINTY

    def forward(
        self, query: Float[Tensor, "B T D"], image: Float[Tensor, "B D h w"], words: Int[Tensor, "B T L"]
    ) -> Float[Tensor, "B T D"]:
        memory = map_to_tokens(image)  # (B, N, D)
        salience = self.salience(memory).movedim(-1, 1)  # (B, 1, N)
        found = (self.find(query, memory) + salience).softmax(-1)  # (B, T, N)
        beside = self.shift(found, query, image.shape[2:])  # (B, T, N)
        # What no offset leads to keeps a little weight, so that a logarithm of nothing never meets a gradient.
        moved = ((beside + 1e-6).log() + salience).softmax(-1)  # (B, T, N)
        enough = self.enough(words)  # (B, T, 1)
        weights = enough * found + (1 - enough) * moved  # (B, T, N)
        if offering.listening():
            with offering.over_grid(tuple(image.shape[2:])):
                hops = (found, weights)
                self.offer("attention", lambda request: torch.stack([request.pick(hop, queries=1) for hop in hops], 1))
        return functional.read(weights, memory)  # (B, T, D)

    def shift(
        self, found: Float[Tensor, "B T N"], query: Float[Tensor, "B T D"], grid: torch.Size
    ) -> Float[Tensor, "B T N"]:
        """Where the offsets that the query asks for lead from what was found; what leads out of the picture is lost."""
        scores = self.offset(query)  # (B, T, offsets)
        here = torch.arange(scores.shape[-1], device=scores.device) == scores.shape[-1] // 2
        offsets = scores.masked_fill(here, -torch.inf).softmax(-1).flatten(0, 1)  # (B·T, offsets)
        found = found.reshape(-1, 1, *grid)  # (B·T, 1, h, w)
        blocks = F.avg_pool2d(found, BLOCK, ceil_mode=True)  # (B·T, 1, rows, columns)
        around = F.unfold(blocks, 2 * REACH + 1, padding=REACH)  # (B·T, offsets, rows·columns)
        beside = torch.bmm(offsets[:, None], around).reshape(blocks.shape)  # (B·T, 1, rows, columns)
        beside = beside.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., : grid[0], : grid[1]]
        return beside.reshape(*query.shape[:2], -1)  # (B, T, N)

    def enough(self, words: Int[Tensor, "B T L"]) -> Float[Tensor, "B T 1"]:
        """The share of the weights that stays with what was found."""
        stay = self.stay(words)[..., 0]  # (B, T, L)
        leave = torch.where(words > 0, -stay, torch.finfo(stay.dtype).min).logsumexp(-1, keepdim=True)
        return (-leave).sigmoid()  # (B, T, 1)
