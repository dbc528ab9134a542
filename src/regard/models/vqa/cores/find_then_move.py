"""Two looks at a picture: find what the question names, then move on to what lies beside it."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard import functional
from regard.attention import Attention
from regard.attention.alignment.score import AdditiveScore
from regard.attention.contract import Paper
from regard.attention.offering import MapFact, Request
from regard.errors import UserError
from regard.models.blocks import ReadBlocks
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words

BLOCK = 2
"""A move leads from a block of so many cells along each axis to another; which cell of it is meant, content tells."""

REACH = 4
"""How far a move leads at most, in blocks along each axis."""

CERTAINTY = 2.0
"""The logit, before anything is learned, that a word of direction asks to move, and that any other does not.

Without it both hops learn to avoid what a relation starts from, which is never its answer, and stay there.
"""


class FindThenMoveRead(Attention):
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
        query_width: width `Dq` of a query.
        memory_width: width `Dm` of a cell.
        hidden_width: width of the scoring networks.
        words_width: width of a word's vector.
        words: size of the questions' vocabulary, of which each word has a `θ`; None: it is linear in the word's vector.
        directions: the words that ask to move before anything is learned, as a parser would say (Andreas, Rohrbach,
            Darrell, Klein, "Neural Module Networks", CVPR 2016).

    Shapes:
        query `(B, T, Dq)`, memory `(B, N, Dm)` of a `grid`'s cells, the questions' `Words`. Gives `(B, T, Dm)`.

    Maps:
        attention: `(batch, hop, query, key)`: `a`, and the weights that are read with; each sums to one over the keys.
    """

    name: ClassVar[str] = "find_then_move"
    maps: ClassVar[tuple[MapFact, ...]] = (MapFact("attention", ("batch", "hop", "query", "key"), ("key",)),)

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        hidden_width: int,
        words_width: int,
        words: int | None = None,
        directions: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.context_width = memory_width
        self.find = AdditiveScore(query_width, memory_width, hidden_width)
        self.offset = nn.Linear(query_width, (2 * REACH + 1) ** 2)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.salience = nn.Sequential(
            nn.Linear(memory_width, hidden_width), nn.Tanh(), nn.Linear(hidden_width, 1, bias=False)
        )
        if words is None:
            self.stay = nn.Linear(words_width, 1)
            nn.init.constant_(self.stay.bias, CERTAINTY)
        else:
            self.stay = nn.Embedding(words, 1)
            with torch.no_grad():
                self.stay.weight.fill_(CERTAINTY)[list(directions)] = -CERTAINTY

    def forward(
        self, query: Float[Tensor, "B T Dq"], memory: Float[Tensor, "B N Dm"], grid: tuple[int, int], words: Words
    ) -> Float[Tensor, "B T Dm"]:
        salience = self.salience(memory).movedim(-1, 1)  # (B, 1, N)
        enough = self.enough(words)  # (B, T, 1)

        def run(steps: Sequence[Tensor | None]) -> tuple[Tensor, Callable[[Request], Tensor]]:
            found, weights = steps
            if found is None:
                found = (self.find(query, memory) + salience).softmax(-1)  # (B, T, N)
            if weights is None:
                beside = self.shift(found, query, grid)  # (B, T, N)
                # What no offset leads to keeps a little weight, so that a logarithm of nothing never meets a gradient.
                moved = ((beside + 1e-6).log() + salience).softmax(-1)  # (B, T, N)
                weights = enough * found + (1 - enough) * moved  # (B, T, N)
            hops = (found, weights)
            return weights, lambda request: torch.stack([request.pick(hop, queries=1) for hop in hops], 1)

        weights = self.offer_steps("attention", 2, run)
        return functional.read(weights, memory)  # (B, T, Dm)

    def shift(
        self, found: Float[Tensor, "B T N"], query: Float[Tensor, "B T D"], grid: tuple[int, int]
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

    def enough(self, words: Words) -> Float[Tensor, "B T 1"]:
        """The share of the weights that stays with what was found."""
        if isinstance(self.stay, nn.Linear):
            stay = self.stay(words.tokens)[..., 0]  # (B, T, L)
        elif words.numbers is not None:
            stay = self.stay(words.numbers)[..., 0]
        else:
            raise UserError("find_then_move got questions that are no words: build it without words=")
        leave = torch.where(words.mask, -stay, torch.finfo(stay.dtype).min).logsumexp(-1, keepdim=True)
        return (-leave).sigmoid()  # (B, T, 1)


class FindThenMove(Core):
    """Two looks at a picture, in a pre-norm residual block: `FindThenMoveRead` in the place of a `Reader`'s read.

    It learns relations between two things where one look cannot: "what is left of the red one". After Graves, Wayne,
    Danihelka, "Neural Turing Machines", 2014.

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions, and of what is given.
        hidden_width: width of the scoring networks; default 64.
        words, directions: as of `FindThenMoveRead`.
        blocks: how often a question finds and moves; default 1.
        expansion: of the hidden layers; default 2.
        dropout: of what is added to a residual; default 0.
    """

    name: ClassVar[str] = "find_then_move"
    paper: ClassVar[Paper] = Paper("Neural Turing Machines", "Graves et al.", "arXiv", 2014)
    loss: ClassVar[Loss] = "consensus"
    grid: ClassVar[bool] = True
    reads_words: ClassVar[bool] = True

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        hidden_width: int = 64,
        words: int | None = None,
        directions: Sequence[int] = (),
        blocks: int = 1,
        expansion: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        reads = [
            FindThenMoveRead(words_width, sight_width, hidden_width, words_width, words, directions)
            for _ in range(blocks)
        ]
        self.read = ReadBlocks(reads, words_width, sight_width, sight_width, expansion, dropout)
        self.joint_width = words_width

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        grid = sight.as_map().shape[2:]
        with sight.looking():
            return self.read(words.summary, sight.tokens, grid, words)
