"""Relation networks."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import rectified
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words


class RelationNetwork(Core):
    """Relation network: a network sees every pair of tokens with the question, another the sum over the pairs.

        z = f(Σ_ij g([o_i; o_j; q]))        with o = [v; x; y], a token and where it lies

    The first layer of `g` is linear in its parts: `A o_i` and `B o_j` are computed once a picture and token, `C q` once
    a question, and a pair costs their sum. Nothing else can be shared, so that memory grows with `Q·N²`.

    Paper: Santoro, Raposo, Barrett, Malinowski, Pascanu, Battaglia, Lillicrap, "A simple neural network module for
    relational reasoning", NeurIPS 2017, with its sizes for CLEVR, where the question is the last state of an LSTM of
    128. For sort-of-CLEVR it has g_widths=(2000,) * 4 and f_widths=(2000, 1000, 500, 100).

    Args:
        sight_width: width of a picture's token.
        words_width: width of the questions.
        g_widths: of the layers of `g`, each with a ReLU; default four of 256.
        f_widths: of the layers of `f` before the answers, each with a ReLU; default two of 256.
        dropout: behind the last layer of `f`; default 0.5, the paper's.
        coordinates: whether a token is told where it lies; default True. Without it regions need no boxes.
    """

    name: ClassVar[str] = "relation_network"
    paper: ClassVar[Paper] = Paper(
        "A simple neural network module for relational reasoning", "Santoro et al.", "NeurIPS", 2017
    )
    loss: ClassVar[Loss] = "consensus"
    attends: ClassVar[bool] = False

    def __init__(
        self,
        sight_width: int,
        words_width: int,
        g_widths: Sequence[int] = (256, 256, 256, 256),
        f_widths: Sequence[int] = (256, 256),
        dropout: float = 0.5,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        if not g_widths or not f_widths:
            raise ValueError(f"RelationNetwork got g_widths={g_widths}, f_widths={f_widths}: give each a layer.")
        width = sight_width + 2 * coordinates
        self.coordinates = coordinates
        self.first = nn.Linear(width, g_widths[0], bias=False)
        self.second = nn.Linear(width, g_widths[0], bias=False)
        self.question = nn.Linear(words_width, g_widths[0])
        self.g = rectified(g_widths)
        self.f = rectified((g_widths[-1], *f_widths))
        self.dropout = nn.Dropout(dropout)
        self.joint_width = f_widths[-1]

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        objects = torch.cat((sight.tokens, sight.coordinates()), 2) if self.coordinates else sight.tokens
        pairs = self.first(objects)[:, :, None] + self.second(objects)[:, None]  # (B, N, N, G)
        related = self.g((pairs[:, None] + self.question(words.summary)[:, :, None, None]).relu())  # (B, Q, N, N, G)
        if sight.mask is not None:
            both = sight.mask[:, :, None] & sight.mask[:, None]  # (B, N, N)
            related = related.masked_fill(~both[:, None, ..., None], 0.0)
        return self.dropout(self.f(related.sum((2, 3))))
