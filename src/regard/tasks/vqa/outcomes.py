"""How right answers to a set of questions are, and of what kinds the questions are."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter

import numpy as np
from jaxtyping import Float

from regard.tasks.vqa.accuracy import exact_match, normal_form, vqa_accuracy
from regard.tasks.vqa.answers import answer_form, consensus
from regard.tasks.vqa.question import Question

PEOPLE = 4
"""Answers that a question needs for VQA's accuracy; below that, one of them must be met exactly."""

FEW = 20
"""Types of questions, at most, that are told apart in tables and charts."""

_clean = partial(normal_form, clean=True)


def plain(answer: str) -> str:
    """An answer in lower case with single spaces: what is compared where few people were asked."""
    return " ".join(answer.lower().split())


def form_of(questions: Iterable[Question]) -> Callable[[str], str]:
    """What is done to answers before they are compared or counted: more where enough people answered to disagree."""
    return answer_form if any(len(question.answers) >= PEOPLE for question in questions) else plain


def measure_of(questions: Sequence[Question], clean: bool = False) -> str:
    """What `outcomes` measures, in words."""
    people = sum(len(question.answers) >= PEOPLE for question in questions)
    official = "VQA accuracy, clean" if clean else "VQA accuracy (official)"
    if people == 0:
        return "exact match, clean" if clean else "exact match"
    return official if people == len(questions) else f"{official} of {people:,}, exact match of the other questions"


def outcomes(
    questions: Sequence[Question], answers: Sequence[str], clean: bool = False
) -> Float[np.ndarray, " questions"]:
    """How right each answer is, from 0 to 1: VQA's accuracy where `PEOPLE` were asked, otherwise exact match.

    Args:
        questions: with what people answered.
        answers: a model's, one a question.
        clean: as of `normal_form`; not comparable with published figures.
    """

    def outcome(question: Question, answer: str) -> float:
        if len(question.answers) >= PEOPLE:
            return vqa_accuracy(answer, question.answers, clean=clean)
        return exact_match(answer, question.answers, normalise=_clean if clean else plain)

    return np.array([outcome(question, answer) for question, answer in zip(questions, answers, strict=True)], float)


def kind_of(questions: Sequence[Question]) -> Callable[[Question], str]:
    """What tells the kind of each of these questions, for tables: its answer's type if all of them have one; its own,
    if there are no more than `FEW`; otherwise yes/no, number or other, by what people answered.
    """
    for type_of in (attrgetter("answer_type"), attrgetter("question_type")):
        named = set(map(type_of, questions))
        if None not in named and len(named) <= FEW:
            return type_of
    return lambda question: _kind_of_answer(consensus(question) or "")


def question_type(question: Question) -> str:
    """What the data set calls the type of the question, or how it begins: its first two words."""
    return question.question_type or " ".join(question.question.lower().split()[:2])


class Prior:
    """Answers without looking: the most frequent answer to each type of question in training.

    Args:
        questions: those of training.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        form = form_of(questions)
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for question in questions:
            if (agreed := consensus(question, form)) is not None:
                counts[question_type(question)][agreed] += 1
                counts[""][agreed] += 1
        # Of equally frequent answers the first in the alphabet, so that the order of questions does not matter.
        self._best = {name: min(found, key=lambda one: (-found[one], one)) for name, found in counts.items()}

    def answer(self, question: Question) -> str:
        """The most frequent answer to questions of this type; to those of none, the most frequent of all."""
        return self._best.get(question_type(question)) or self._best.get("", "")


def _kind_of_answer(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if re.fullmatch(r"\d+([.,]\d+)?", answer) else "other"
