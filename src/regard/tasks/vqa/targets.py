"""What a model is to learn about each question, in numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.models.vqa.core import Loss
from regard.tasks.vqa.accuracy import agreement
from regard.tasks.vqa.answers import (
    UNKNOWN,
    AnswerVocabulary,
    consensus,
    consensus_cross_entropy,
    distribution_divergence,
    sampled_cross_entropy,
    soft_binary_cross_entropy,
    weighted_likelihood,
)
from regard.tasks.vqa.outcomes import PEOPLE
from regard.tasks.vqa.question import Question


@dataclass(frozen=True)
class Targets:
    """What a model is to learn about each question; `UNKNOWN` where there is nothing.

    Attributes:
        agreed: the people's answer.
        labels: the answers that somebody gave, as many columns as any question has.
        shares: how many of the people gave each.
        scores: how right each is: the official accuracy where `PEOPLE` were asked, otherwise the share.
        answers: how many there are to choose from.
    """

    agreed: Int[Tensor, " questions"]
    labels: Int[Tensor, "questions given"]
    shares: Float[Tensor, "questions given"]
    scores: Float[Tensor, "questions given"]
    answers: int

    @classmethod
    def of(cls, questions: Sequence[Question], answers: AnswerVocabulary) -> "Targets":
        """The targets of these questions, of answers that can be chosen."""
        agreed, labels, shares, scores = [], [], [], []
        for question in questions:
            people = len(question.answers)
            given = Counter(map(answers.label, question.answers))
            given.pop(UNKNOWN, None)
            one = consensus(question, answers.form)
            agreed.append(UNKNOWN if one is None else answers.label(one))
            labels.append(list(given))
            shares.append([times / people for times in given.values()])
            scores.append(
                [agreement(times, people) if people >= PEOPLE else times / people for times in given.values()]
            )
        return cls(
            torch.tensor(agreed),
            filled(labels, UNKNOWN),
            filled(shares, 0.0),
            filled(scores, 0.0),
            len(answers),
        )

    def score(self, chosen: Int[Tensor, " questions"]) -> Float[Tensor, " questions"]:
        """How right these answers are, from 0 to 1."""
        return (self.scores * (self.labels == chosen[:, None])).sum(1)

    def loss(self, name: Loss, logits: Float[Tensor, "M answers"], questions: Int[Tensor, " M"]) -> Float[Tensor, ""]:
        """What the paper of that loss trains with, for some of the questions."""
        questions = questions.to(self.agreed.device)
        if name == "consensus":
            return consensus_cross_entropy(logits, self.agreed[questions].to(logits.device))
        values = (self.scores if name == "soft" else self.shares)[questions]
        labels = self.labels[questions]
        wide = values.new_zeros(len(values), self.answers)
        # What nobody gave has the value zero, wherever it is added.
        wide = wide.scatter_add(1, labels.clamp(min=0), values).to(logits.device)
        if name == "soft":
            return soft_binary_cross_entropy(logits, wide)
        if name == "likelihood":
            return weighted_likelihood(logits, wide)
        return sampled_cross_entropy(logits, wide) if name == "sampled" else distribution_divergence(logits, wide)


def filled(rows: Sequence[Sequence[int | float]], value: int | float) -> Tensor:
    """Rows of numbers as one tensor, filled up with a value behind the shorter ones."""
    width = max([1, *map(len, rows)])
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows]).reshape(len(rows), width)
