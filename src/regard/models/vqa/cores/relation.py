"""Relation networks."""

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regard.attention.contract import Paper
from regard.models.vqa.core import Core, Loss
from regard.models.vqa.layers import rectified
from regard.models.vqa.sight import Sight
from regard.models.vqa.words import Words

_ON_A_CPU, _ELSEWHERE = 2**20, 2**26
"""How many numbers of the first layer of `g` are held at a time: on a CPU so many as its cache holds."""


class RelationNetwork(Core):
    """Relation network: a network sees every pair of tokens with the question, another the sum over the pairs.

        z = f(Σ_ij g([o_i; o_j; q]))        with o = [v; x; y], a token and where it lies

    The first layer of `g` is linear in its parts: `A o_i` and `B o_j` are computed once a picture and token, `C q` once
    a question, and a pair costs their sum. Nothing else can be shared, so that work grows with `Q·N²`; memory does not:
    a few questions' pairs are held at a time, and computed again for the gradient.

    What sees one token alone needs no pairs. With `unary_widths`, `o` is `h([v; x; y; q])`: first layers of `g` whose
    weights between the two tokens are zero, at a cost that grows with `Q·N`. There a token can be found to be the one
    asked about before it meets others.

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
        unary_widths: of the layers of `h`, each with a ReLU; default none, as in the paper.
        question_scale: how many times the size that `initialization` gives the weights begin with by which the question
            is heard first; default 1.
        normalized: whether the sum is divided by the root of the number of pairs; default False, the paper's.
        initialization: of the layers: PyTorch's with `"torch"`, the default, or with `"he"` normal values of variance 2
            by the width of the input, of each part of the first layer of `g` by its own, and biases of zero (He et al.
            2015). PyTorch's biases are larger than what they are added to, so that a ReLU of `g` is open for all pairs
            or for none, and what a pair has that others have not is a tenth of what it has; with He's it is three
            tenths (docs/sort_of_clevr.md).

    Raises:
        ValueError: `g` or `f` has no layer, or there is no such `initialization`.
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
        unary_widths: Sequence[int] = (),
        question_scale: float = 1.0,
        normalized: bool = False,
        initialization: Literal["torch", "he"] = "torch",
    ) -> None:
        super().__init__()
        if not g_widths or not f_widths:
            raise ValueError(f"RelationNetwork got g_widths={g_widths}, f_widths={f_widths}: give each a layer.")
        if initialization not in {"torch", "he"}:
            raise ValueError(f"RelationNetwork got initialization={initialization!r}: give 'torch' or 'he'.")
        width = sight_width + 2 * coordinates
        self.coordinates = coordinates
        self.normalized = normalized
        self.unary = _Heard(width, words_width, unary_widths) if unary_widths else None
        width = unary_widths[-1] if unary_widths else width
        self.first = nn.Linear(width, g_widths[0], bias=False)
        self.second = nn.Linear(width, g_widths[0], bias=False)
        self.question = nn.Linear(words_width, g_widths[0])
        self.g = rectified(g_widths)
        self.f = rectified((g_widths[-1], *f_widths))
        if initialization == "he":
            self.apply(_as_he)
        with torch.no_grad():
            (self.unary or self).question.weight *= question_scale
        self.dropout = nn.Dropout(dropout)
        self.joint_width = f_widths[-1]

    def forward(self, sight: Sight, words: Words) -> Float[Tensor, "B Q J"]:
        objects = torch.cat((sight.tokens, sight.coordinates()), 2) if self.coordinates else sight.tokens
        objects = objects[:, None] if self.unary is None else self.unary(objects, words.summary)  # (B, #Q, N, W)
        asked = self.first(objects) + self.question(words.summary)[:, :, None]  # (B, Q, N, G)
        others = self.second(objects).expand_as(asked)  # (B, Q, N, G)
        there = None if sight.mask is None else sight.mask.repeat_interleave(words.summary.shape[1], 0)  # (B·Q, N)
        related = self._related(asked.flatten(0, 1), others.flatten(0, 1), there)  # (B·Q, H)
        if self.normalized:
            tokens = asked.shape[2] if there is None else there.sum(1, keepdim=True).clamp(min=1)
            related = related / tokens
        return self.dropout(self.f(words.apart(related)))

    def _related(
        self, one: Float[Tensor, "M N G"], other: Float[Tensor, "M N G"], there: Bool[Tensor, "M N"] | None
    ) -> Float[Tensor, "M H"]:
        """The sum over pairs, for so many questions at a time as have few enough pairs."""
        _, N, G = one.shape
        most = max(1, (_ON_A_CPU if one.device.type == "cpu" else _ELSEWHERE) // max(1, N * N * G))
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or len(one) <= most:
            return self._over_pairs(one, other, there)
        run = partial(checkpoint, self._over_pairs, use_reentrant=False, preserve_rng_state=False)
        run = run if torch.is_grad_enabled() else self._over_pairs
        masks = repeat(None) if there is None else there.split(most)
        return torch.cat([run(*part) for part in zip(one.split(most), other.split(most), masks)])  # noqa: B905

    def _over_pairs(
        self, one: Float[Tensor, "M N G"], other: Float[Tensor, "M N G"], there: Bool[Tensor, "M N"] | None
    ) -> Float[Tensor, "M H"]:
        related = self.g((one[:, :, None] + other[:, None]).relu())  # (M, N, N, H)
        if there is not None:
            both = there[:, :, None] & there[:, None]  # (M, N, N)
            related = related.masked_fill(~both[..., None], 0.0)
        return related.sum((1, 2))


class _Heard(nn.Module):
    """Tokens that have heard the question, each for itself: layers with a ReLU of `[o; q]`.

    Args:
        width: width `W` of a token.
        words_width: width of the questions.
        widths: of the layers.
    """

    def __init__(self, width: int, words_width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.token = nn.Linear(width, widths[0], bias=False)
        self.question = nn.Linear(words_width, widths[0])
        self.rest = rectified(widths)

    def forward(self, tokens: Float[Tensor, "B N W"], questions: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q N H"]:
        return self.rest((self.token(tokens)[:, None] + self.question(questions)[:, :, None]).relu())


def _as_he(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
