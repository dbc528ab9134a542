"""Questions as a model takes them: all that are asked about a picture in one row, their words as numbers."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.models.vqa import Answering
from regard.models.vqa.model import Vocabulary
from regard.running import undisturbed
from regard.tasks.batching import Epoch, in_batches
from regard.tasks.vqa.question import Questions
from regard.tasks.vqa.seeing import SOME, Features, Seen, digest, identify, like, together, weight_of
from regard.tasks.vqa.targets import filled

MOST = 32
"""Questions in a row; a picture with more stands in several rows."""


class Row(NamedTuple):
    """A picture, and the questions about it, by their numbers."""

    picture: int
    questions: tuple[int, ...]


class Batch(NamedTuple):
    """Pictures and all that is asked about each.

    Attributes:
        seen: what the model takes for the pictures; None where their features are kept.
        pictures: their numbers, `(B)`.
        words: the numbers of the words, `(B, Q, L)`.
        mask: True for what is a word.
        asked: True for what is a question, `(B, Q)`: some pictures have fewer than others.
        questions: the numbers of the M questions, row by row.
    """

    seen: Seen | None
    pictures: Tensor
    words: Tensor
    mask: Tensor
    asked: Tensor
    questions: Tensor


class Asked:
    """The questions of one part of a data set, and their pictures.

    Args:
        questions: the part.
        vocabulary: from a question to numbers of words; a word's number is never looked at where there is none.
        see: from a question's number to what the model takes for its picture; called in several threads.
        longest: how many words of a question are read; default all.
        fixed: whether what sees the pictures is frozen, so that each is seen once and its features are kept.
        folder: where the features are kept that do not fit into memory, see `Features`.
        device: where batches are.

    Attributes:
        questions, see: as given.
        rows: the pictures with their questions.
        picture_of: each question's picture, by number.
    """

    def __init__(
        self,
        questions: Questions,
        vocabulary: Vocabulary,
        see: Callable[[int], Seen],
        *,
        longest: int | None = None,
        fixed: bool = False,
        folder: Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.questions = questions
        self.device = torch.device(device)
        self.fixed = fixed
        self.see = see
        self._folder = folder
        self._features: Features | None = None
        self._asker: Callable[[], Answering | None] = lambda: None
        words = [list(vocabulary.encode(question.question))[:longest] for question in questions]
        self._words = filled(words, 0).long()
        self._length = torch.tensor([len(one) for one in words])
        about: dict[object, list[int]] = {}
        for index in range(len(questions)):
            about.setdefault(questions.identity(index), []).append(index)
        self._first = [first for first, *_ in about.values()]
        self.rows = [
            Row(picture, tuple(some))
            for picture, every in enumerate(about.values())
            for some in in_batches(every, MOST)
        ]
        self.picture_of = np.zeros(len(questions), int)
        for row in self.rows:
            self.picture_of[list(row.questions)] = row.picture

    def batches(self, rows: Sequence[Sequence[Row]]) -> Epoch[Row, Seen | None, Batch]:
        """These rows, batch by batch; threads look up the pictures of the next one meanwhile."""
        return Epoch(rows, lambda row: None if self.fixed else self.see(self._first[row.picture]), self.batch)

    def batch(self, rows: Sequence[Row], seen: list[Seen | None]) -> Batch:
        """Rows as one batch, with what was seen of each."""
        width = max(len(row.questions) for row in rows)
        number = torch.full((len(rows), width), -1)
        for at, row in enumerate(rows):
            number[at, : len(row.questions)] = torch.tensor(row.questions)
        asked = number >= 0
        length = self._length[number] * asked  # what is asked nothing has no words
        longest = max(1, int(length.max()))
        tensors = (
            torch.tensor([row.picture for row in rows]),
            self._words[number][..., :longest],
            torch.arange(longest) < length[..., None],
            asked,
            number[asked],
        )
        known = [one for one in seen if one is not None]
        return Batch(together(known, self.device) if known else None, *(one.to(self.device) for one in tensors))

    def ask(self, model: Answering, batch: Batch) -> Float[Tensor, "M answers"]:
        """The answers' logits to the questions of a batch."""
        if batch.seen is None:
            sight = self.features(model).sight(batch.pictures, model)
        else:
            sight = model.see(like(batch.seen, model))
        return model.ask(sight, batch.words, batch.mask)[batch.asked].float()

    def chosen(self, model: Answering) -> Int[Tensor, " questions"]:
        """The number of the likeliest answer to each question."""
        best = torch.zeros(len(self.questions), dtype=torch.long)
        with undisturbed(model):
            for batch in self.batches(in_batches(self.rows, SOME)):
                best[batch.questions.cpu()] = self.ask(model, batch).argmax(1).cpu()
        return best

    def features(self, model: Answering, report: Callable[[int], None] = lambda more: None) -> Features:
        """The features of the pictures, as this model's encoder gives them.

        Args:
            model: of the encoder.
            report: told how many pictures more it has seen, while it does.
        """
        # Whoever trains asks at every step with one model: its weights are looked at when another comes, or when they
        # have changed their number format.
        if self._features is None or self._asker() is not model or self._features.dtype != weight_of(model).dtype:
            encoder = digest(model)
            if self._features is None or self._features.encoder != encoder:
                names = [identify(self.questions.identity(first)) for first in self._first]
                self._features = Features(model, encoder, self._first, self.see, names, self._folder, report)
            self._asker = weakref.ref(model)
        return self._features
