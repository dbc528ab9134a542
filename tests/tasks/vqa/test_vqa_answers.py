"""Answer vocabularies, targets and losses, each against its formula written out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.errors import UserError
from regard.tasks.vqa import (
    AnswerVocabulary,
    Question,
    consensus_cross_entropy,
    distribution_divergence,
    sampled_cross_entropy,
    soft_binary_cross_entropy,
    vqa_accuracy,
    weighted_likelihood,
)
from regard.tasks.vqa.answers import UNKNOWN, Score, answer_form


def asked(*answers: str, consensus: str | None = None) -> Question:
    return Question(Path("picture.jpg"), "what ?", answers, consensus=consensus)


QUESTIONS = [
    asked("yes", "Yes", "no"),
    asked("Yes!", "no", "no", consensus="yes"),
    asked("the Dog", "dog", "cat"),
    asked("cat", "bird"),
    asked("two"),
    asked(),
]


def test_answers_are_ordered_by_questions_then_by_alphabet() -> None:
    assert AnswerVocabulary.of(QUESTIONS).answers == ("yes", "2", "cat", "dog")


def test_a_vocabulary_may_count_every_answer_of_everybody() -> None:
    every = AnswerVocabulary.of(QUESTIONS, counting="every")
    assert every.answers == ("no", "yes", "cat", "dog", "2", "bird")


def test_a_vocabulary_is_cut_by_occurrence_or_by_size() -> None:
    assert AnswerVocabulary.of(QUESTIONS, minimum=2, counting="every").answers == ("no", "yes", "cat", "dog")
    assert AnswerVocabulary.of(QUESTIONS, most=2).answers == ("yes", "2")
    with pytest.raises(UserError, match=r"at least 3 times, the most frequent, 'yes', occurs 2 times"):
        AnswerVocabulary.of(QUESTIONS, minimum=3)
    with pytest.raises(UserError, match="there are none"):
        AnswerVocabulary.of([])


def test_labels_go_by_normal_form_unless_another_is_given() -> None:
    vocabulary = AnswerVocabulary.of(QUESTIONS)
    assert [vocabulary.label(answer) for answer in ("Yes.", "Two", "a cat", "fox")] == [0, 1, 2, UNKNOWN]
    plain = AnswerVocabulary.of(QUESTIONS, form=str)
    assert plain.label("the Dog") != UNKNOWN
    assert plain.label("The dog") == UNKNOWN


def test_an_answer_of_an_article_alone_stays_itself() -> None:
    assert [answer_form(said) for said in ("A", "The dog", " The  a ")] == ["a", "dog", "the a"]


def test_an_answer_may_not_stand_twice() -> None:
    with pytest.raises(UserError, match="'red' stands in the vocabulary twice"):
        AnswerVocabulary(("red", "blue", "red"))


COUNTS = {"red": 1, "blue": 2, "green": 3, "grey": 4, "black": 0}


def ten() -> list[str]:
    return [answer for answer, count in COUNTS.items() for _ in range(count)]


def test_targets_by_subsets_are_the_accuracy_of_each_answer_and_those_of_the_table() -> None:
    vocabulary = AnswerVocabulary(tuple(COUNTS))
    targets = vocabulary.targets(ten())
    assert targets.tolist() == pytest.approx([vqa_accuracy(answer, ten()) for answer in COUNTS])
    assert vocabulary.targets(ten(), "table").tolist() == pytest.approx(targets.tolist())
    assert targets.tolist() == pytest.approx([0.3, 0.6, 0.9, 1, 0])


def test_other_targets_follow_their_formulae() -> None:
    vocabulary = AnswerVocabulary(("red", "blue", "green", "grey"))
    answers = [*ten()[:-1], "unheard of"]
    assert vocabulary.targets(answers, "thirds").tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert vocabulary.targets(answers, "counts").tolist() == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert vocabulary.targets(answers, "consensus").tolist() == [0, 0, 1, 0]  # of equal ones the first
    assert vocabulary.targets(["unheard of"], "consensus").tolist() == [0, 0, 0, 0]
    assert vocabulary.targets(["red"], "counts").tolist() == [1, 0, 0, 0]
    assert vocabulary.targets(["red"] * 11, "table").tolist() == [1, 0, 0, 0]
    assert vocabulary.targets([], "counts").tolist() == [0, 0, 0, 0]


def test_targets_that_ask_for_several_people_refuse_one() -> None:
    with pytest.raises(UserError, match=r"targets of 1 answer by 'subsets'.*\"counts\""):
        AnswerVocabulary(("red",)).targets(["red"])
    assert AnswerVocabulary(("red",)).targets(["red"] * 3, "thirds").tolist() == [1]
    few: list[tuple[Score, int]] = [("subsets", 3), ("table", 3), ("thirds", 2)]
    for score, people in few:
        with pytest.raises(UserError, match=f"targets of {people} answers by '{score}'.* at least {people + 1};"):
            AnswerVocabulary(("red",)).targets(["red"] * people, score)


@pytest.mark.usefixtures("unchecked_shapes")
def test_words_that_are_no_choice_are_refused() -> None:
    wrong: Any = "majority"
    with pytest.raises(UserError, match="there is no score 'majority': expected one of 'subsets', 'table'"):
        AnswerVocabulary(("red",)).targets(["red"] * 10, wrong)
    with pytest.raises(UserError, match="counting='majority': expected 'consensus' or 'every'"):
        AnswerVocabulary.of(QUESTIONS, counting=wrong)


def test_binary_cross_entropy_sums_over_answers_and_averages_over_questions() -> None:
    logits, targets = torch.randn(3, 5), torch.rand(3, 5)
    expected = 0.0
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        right = 1 / (1 + math.exp(-logit))
        expected -= target * math.log(right) + (1 - target) * math.log(1 - right)
    assert soft_binary_cross_entropy(logits, targets).item() == pytest.approx(expected / 3, rel=1e-5)


def test_consensus_cross_entropy_leaves_unknown_answers_out() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    expected = -(logits.softmax(1)[0, 4].log() + logits.softmax(1)[2, 1].log()) / 2
    loss = consensus_cross_entropy(logits, torch.tensor([4, UNKNOWN, 1]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = consensus_cross_entropy(logits, torch.full((3,), UNKNOWN))
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_sampled_answer_is_drawn_in_proportion_to_how_many_gave_it() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5]]).expand(4001, 3)
    counts = torch.tensor([[1.0, 0.0, 3.0]]).expand(4001, 3)
    log_chances = torch.tensor([1.0, -2.0, 0.5]).log_softmax(0)
    expected = -(0.25 * log_chances[0] + 0.75 * log_chances[2])
    # The two values lie 0.5 apart, so that the mean of 4001 draws has a deviation of 0.0034.
    assert sampled_cross_entropy(logits, counts).item() == pytest.approx(expected.item(), abs=0.017)


def test_a_sampled_answer_comes_from_its_generator_and_not_from_unanswered_questions() -> None:
    logits = torch.randn(2, 7)
    counts = torch.tensor([[0.0] * 7, [0.0, 2.0, 0.0, 0.0, 5.0, 0.0, 3.0]])
    first, second = (sampled_cross_entropy(logits, counts, torch.Generator().manual_seed(5)) for _ in range(2))
    possible = [-logits.log_softmax(1)[1, answer].item() for answer in (1, 4, 6)]
    assert first == second
    assert any(first.item() == pytest.approx(value, rel=1e-5) for value in possible)
    assert sampled_cross_entropy(logits[:1], counts[:1]) == 0


def test_divergence_is_the_mean_cross_entropy_less_the_entropy() -> None:
    logits = torch.randn(2, 3)
    shares = torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])
    chances = logits.softmax(1)
    terms = [
        share * math.log(share / chances[row, column].item())
        for row, line in enumerate(shares.tolist())
        for column, share in enumerate(line)
        if share > 0
    ]
    assert distribution_divergence(logits, shares).item() == pytest.approx(sum(terms) / 2, rel=1e-5)


def test_weighted_likelihood_is_what_each_person_said_by_how_unlikely_it_was_found() -> None:
    likelihoods = -torch.rand(2, 3)
    shares = torch.tensor([[0.5, 0.25, 0.0], [0.0, 0.0, 1.0]])
    wanted = -(0.5 * likelihoods[0, 0] + 0.25 * likelihoods[0, 1] + likelihoods[1, 2]) / 2
    torch.testing.assert_close(weighted_likelihood(likelihoods, shares), wanted)
    assert weighted_likelihood(likelihoods[:0], shares[:0]) == 0
