"""The answers that a model chooses among, what it is to learn about each, and the losses that the papers used."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from regard.errors import UserError
from regard.tasks.vqa.accuracy import agreement, normal_form
from regard.tasks.vqa.question import Question

Score = Literal["subsets", "table", "thirds", "counts", "consensus"]
"""How good an answer is that so many people gave; see `AnswerVocabulary.targets`."""

UNKNOWN = -1
"""The label of an answer that is not among those the model chooses from."""

_table = (0.0, 0.3, 0.6, 0.9, 1.0)
_people = {"subsets": 4, "table": 4, "thirds": 3, "counts": 0, "consensus": 0}  # so that an answer can be right


@lru_cache(1 << 16)
def answer_form(answer: str) -> str:
    """As `normal_form`, but an answer of articles alone, such as the letter “A”, stays what it is."""
    return normal_form(answer) or " ".join(answer.lower().split())


@dataclass(frozen=True)
class AnswerVocabulary:
    """The answers that a model chooses among; its output has one value for each.

    Attributes:
        answers: each once, the most frequent first.
        form: what is done to an answer before it is looked up.
    """

    answers: tuple[str, ...]
    form: Callable[[str], str] = answer_form

    def __post_init__(self) -> None:
        if repeated := [answer for answer, times in Counter(self.answers).items() if times > 1]:
            raise UserError(f"{repeated[0]!r} stands in the vocabulary twice: expected each answer once; leave one out")

    @classmethod
    def of(
        cls,
        questions: Iterable[Question],
        *,
        minimum: int = 1,
        most: int | None = None,
        counting: Literal["consensus", "every"] = "consensus",
        form: Callable[[str], str] = answer_form,
    ) -> "AnswerVocabulary":
        """The answers of a training set by occurrence; those of equal number in alphabetical order.

        Args:
            questions: those of training.
            minimum: how many times an answer must occur: 9 in bottom-up top-down and what follows it (3,129 answers).
            most: so many of the most frequent at most: 1,000 in SAN, 3,000 in BLOCK and “Show, ask, attend and answer”.
            counting: `"consensus"` counts the people's answer to each question, once a question:
                `multiple_choice_answer` in VQA, otherwise the most frequent. `"every"` counts all that anybody said.
            form: what is done to an answer first; `str` for nothing.

        Raises:
            UserError: no answer occurs so often, or `counting` is neither.
        """
        if counting not in ("consensus", "every"):
            raise UserError(f"counting={counting!r}: expected 'consensus' or 'every'")
        counts: Counter[str] = Counter()
        for question in questions:
            if counting == "every":
                counts.update(map(form, question.answers))
            elif (agreed := consensus(question, form)) is not None:
                counts[agreed] += 1
        counts.pop("", None)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        answers = tuple(answer for answer, times in ranked if times >= minimum)[:most]
        if not answers:
            highest = (
                f"the most frequent, {ranked[0][0]!r}, occurs {ranked[0][1]} times" if ranked else "there are none"
            )
            raise UserError(
                f"no answer occurs at least {minimum} times, {highest}: lower minimum, or bring more questions"
            )
        return cls(answers, form)

    def __len__(self) -> int:
        return len(self.answers)

    def label(self, answer: str) -> int:
        """The place of an answer, or `UNKNOWN`."""
        return self._places.get(self.form(answer), UNKNOWN)

    def counts(self, answers: Sequence[str]) -> Float[Tensor, " answers"]:
        """How many people gave each answer."""
        found = torch.zeros(len(self))
        for answer in answers:
            if (label := self.label(answer)) != UNKNOWN:
                found[label] += 1
        return found

    def targets(self, answers: Sequence[str], score: Score = "subsets") -> Float[Tensor, " answers"]:
        """What a model is to learn about each answer to one question.

        Args:
            answers: what people said.
            score: `"subsets"`, the official accuracy that each answer would have: the mean over all subsets without
                one person of min(1, count / 3). `"table"`: 0.3, 0.6, 0.9 and 1 for 1, 2, 3 and 4 people, as bottom-up
                top-down lists them; the same for ten people. `"thirds"`: min(1, count / 3). `"counts"`: count / people,
                whose sum is 1 where all answers are known. `"consensus"`: 1 for the most frequent.

        Raises:
            UserError: there is no such score, or it asks for more people than there are, so that no answer could be 1.
        """
        counts = self.counts(answers)
        people = len(answers)
        if score not in _people:
            raise UserError(f"there is no score {score!r}: expected one of {', '.join(map(repr, _people))}")
        if people < _people[score]:
            raise UserError(
                f"targets of {people} answer{'' if people == 1 else 's'} by {score!r}: expected ten, or at least "
                f'{_people[score]}; for questions with few answers take "counts" or "consensus"'
            )
        match score:
            case "subsets":
                return torch.tensor([agreement(matches, people) for matches in range(people + 1)])[counts.long()]
            case "table":
                return torch.tensor(_table)[counts.long().clamp(max=len(_table) - 1)]
            case "thirds":
                return (counts / 3).clamp(max=1)
            case "counts":
                return counts / max(people, 1)
            case "consensus":
                agreed = most_frequent(answers, self.form)
                label = UNKNOWN if agreed is None else self._places.get(agreed, UNKNOWN)
                return torch.tensor([float(at == label) for at in range(len(self))])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {answer: place for place, answer in enumerate(self.answers)}


def consensus(question: Question, form: Callable[[str], str] = answer_form) -> str | None:
    """The people's answer: what the data set names as such, otherwise the most frequent; None without answers."""
    return most_frequent(question.answers, form) if question.consensus is None else form(question.consensus)


def most_frequent(answers: Sequence[str], form: Callable[[str], str] = answer_form) -> str | None:
    """The answer that most people gave, of equal ones the first."""
    ranked = Counter(map(form, answers)).most_common(1)
    return ranked[0][0] if ranked else None


def soft_binary_cross_entropy(
    logits: Float[Tensor, "B answers"], targets: Float[Tensor, "B answers"]
) -> Float[Tensor, ""]:
    """Each answer by itself is right to some degree: bottom-up top-down, BAN, MCAN.

    The sum over the answers and the mean over the questions, as Teney et al., “Tips and Tricks for Visual Question
    Answering”, CVPR 2018, who multiply the mean over both by the number of answers; MCAN sums over the questions too.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(len(logits), 1)


def consensus_cross_entropy(logits: Float[Tensor, "B answers"], labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """Softmax on the people's answer: Antol et al., ICCV 2015, and all of GQA and CLEVR.

    Questions labelled `UNKNOWN` do not count.
    """
    total = functional.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)


def sampled_cross_entropy(
    logits: Float[Tensor, "B answers"], counts: Float[Tensor, "B answers"], generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Softmax on one answer drawn anew among what people said: SAN, MUTAN.

    Args:
        logits: what the model says.
        counts: how many people gave each answer, or values in that proportion; questions without known answers do not
            count.
        generator: what draws, on the device of the counts.
    """
    known = counts.sum(1) > 0
    drawn = torch.multinomial(torch.where(known[:, None], counts, 1), 1, generator=generator)[:, 0]
    return consensus_cross_entropy(logits, drawn.masked_fill(~known, UNKNOWN))


def distribution_divergence(
    logits: Float[Tensor, "B answers"], shares: Float[Tensor, "B answers"]
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the softmax from the people's shares, mean over the questions: MFB, MFH.

    Apart from a constant it is the cross entropy averaged over the people (“Show, ask, attend and answer”). The shares
    are taken as they are, count / 10 in MFB, so that a question counts less the fewer of its answers are known.
    """
    return functional.kl_div(functional.log_softmax(logits, 1), shares, reduction="batchmean")


def weighted_likelihood(
    likelihoods: Float[Tensor, "B answers"], shares: Float[Tensor, "B answers"]
) -> Float[Tensor, ""]:
    """A language model's loss of each answer, times the share of people who gave it, mean over the questions: BLIP.

    Likelihoods are those of the words, logarithms, and are not normalised over the answers: what nobody gave does not
    count, and a question counts less the fewer of its answers are known. The authors' code smooths the labels of the
    words by 0.1 too, which their paper does not tell, and this does not.
    """
    return -(likelihoods * shares).sum() / max(len(likelihoods), 1)
