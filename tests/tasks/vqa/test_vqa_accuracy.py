"""The official measure: values against every subset, normal forms against a table that the official script gave."""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from itertools import combinations

import pytest

from regard.errors import UserError
from regard.tasks.vqa import Accuracy, exact_match, normal_form, vqa_accuracy
from regard.tasks.vqa.accuracy import CONTRACTIONS

# What vqaEval.py of GT-Vision-Lab/VQA made of the first when it was run on it, and what was evidently meant.
FORMS = [
    ("yes", "yes", "yes"),
    ("Yes", "yes", "yes"),
    ("  The\tdog\n", "dog", "dog"),
    ("t-shirt", "t shirt", "t shirt"),
    ("black -white", "black white", "black white"),
    ("black-white - red", "blackwhite red", "black white red"),
    ("1,000", "1000", "1000"),
    ("1,000 (or so)-ish", "1000 or soish", "1000 or so ish"),
    ("salt,pepper", "salt pepper", "salt pepper"),
    ("salt, pepper", "salt pepper", "salt pepper"),
    ("5.", "5", "5."),
    ("3.5", "3.5", "3.5"),
    (".5", ".5", ".5"),
    ("No.5", "no.5", "no.5"),
    ("U.S.A.", "usa", "usa"),
    ("$5.00!", "$5.00", "$5.00"),
    ("10:30", "10:30", "10:30"),
    ("none", "0", "0"),
    ("Two or Ten", "2 or 10", "2 or 10"),
    ("twenty one", "twenty 1", "twenty 1"),
    ("an apple and the a", "apple and", "apple and"),
    ("dont", "don't", "don't"),
    ("WHATS up?", "what's up", "what's up"),
    ("couldn'tve", "couldn't've", "couldn't've"),
    ("y'alldve", "y'alldve", "y'alldve"),
    ("somebody'd", "somebodyd", "somebody'd"),
    ("Im", "im", "i'm"),
    ("." * 40, "." * 8, ""),
    ("a", "", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("said", "official", "meant"), FORMS)
def test_normal_forms_are_those_of_the_official_script(said: str, official: str, meant: str) -> None:
    assert normal_form(said) == official
    assert normal_form(said, clean=True) == meant


def test_the_contractions_are_the_118_of_the_official_script_that_change_anything() -> None:
    # 120 stand there, of which “let's” and “she's” give themselves.
    assert len(CONTRACTIONS) == 118
    assert all(short != word for short, word in CONTRACTIONS.items())


def by_subsets(prediction: str, answers: Sequence[str]) -> Fraction:
    """Each subset of all but one by itself."""
    scores = [
        min(Fraction(1), Fraction(sum(answer == prediction for answer in subset), 3))
        for subset in combinations(answers, len(answers) - 1)
    ]
    return sum(scores, Fraction()) / len(scores)


@pytest.mark.parametrize("people", [4, 5, 10, 11])
def test_accuracy_is_the_mean_over_all_subsets_without_one_person(people: int) -> None:
    for matches in range(people + 1):
        answers = ["red"] * matches + ["blue"] * (people - matches)
        assert vqa_accuracy("red", answers) == pytest.approx(float(by_subsets("red", answers)), abs=1e-12)


def test_ten_answers_give_the_published_steps_and_the_approximation_others() -> None:
    answers = [["red"] * count + ["blue"] * (10 - count) for count in range(6)]
    assert [vqa_accuracy("red", said) for said in answers] == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])
    assert [vqa_accuracy("red", said, approximate=True) for said in answers] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1, 1, 1]
    )


def test_nothing_is_normalised_where_all_people_agree() -> None:
    agreed = ["Two dogs."] * 10
    assert vqa_accuracy("Two dogs.", agreed) == 1
    assert vqa_accuracy(" Two\tdogs.\n", agreed) == 1  # white space is another matter
    assert vqa_accuracy("two dogs", agreed) == 0
    assert vqa_accuracy("two dogs", [*agreed[:9], "cats"]) == 1
    assert vqa_accuracy("2 dogs", agreed, clean=True) == 1


def test_answers_that_differ_in_white_space_alone_agree() -> None:
    assert vqa_accuracy("Red", [" red"] * 5 + ["red\n"] * 5) == 0


def test_both_sides_are_normalised_where_people_differ() -> None:
    answers = ["two", "2", "Two", "the two", "3", "3", "3", "4", "5", "6"]
    assert vqa_accuracy("2.", answers) == 1
    assert vqa_accuracy("three", answers) == pytest.approx(0.9)


def test_a_period_after_a_digit_counts_only_in_the_clean_variant() -> None:
    answers = ["5."] * 4 + ["6"] * 6
    assert vqa_accuracy("5", answers) == 1
    assert vqa_accuracy("5", answers, clean=True) == 0


def test_the_earlier_rule_never_turns_peoples_numbers_into_digits_and_always_the_predictions() -> None:
    differing, agreed = ["two"] * 9 + ["a pair!"], ["two"] * 10
    assert vqa_accuracy("two", differing) == vqa_accuracy("two", agreed) == 1
    assert vqa_accuracy("two", differing, earlier=True) == vqa_accuracy("two", agreed, earlier=True) == 0
    assert vqa_accuracy("Yes!", ["yes"] * 10, earlier=True) == 1
    assert vqa_accuracy("Yes!", ["yes"] * 10) == 0
    # Punctuation is taken from people's answers, articles and the spaces that it leaves behind are not.
    assert vqa_accuracy("red car", ["red-car"] * 5 + ["blue"] * 5, earlier=True) == 1
    assert vqa_accuracy("red car", ["red car!"] * 5 + ["blue"] * 5, earlier=True) == 0
    assert vqa_accuracy("a red car", ["a red car"] * 5 + ["blue"] * 5, earlier=True) == 0


def test_too_few_answers_and_two_rules_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r"^1 answer for a question: expected ten.*use exact_match"):
        vqa_accuracy("red", ["red"])
    assert vqa_accuracy("red", ["red"] * 3, approximate=True) == 1
    for people, approximate in ((3, False), (2, True)):
        with pytest.raises(UserError, match=f"^{people} answers for a question"):
            vqa_accuracy("red", ["red"] * people, approximate=approximate)
    with pytest.raises(UserError, match="clean=True and earlier=True"):
        vqa_accuracy("red", ["red"] * 10, clean=True, earlier=True)


def test_exact_match_normalises_only_when_told_to() -> None:
    assert exact_match("pipe", ["pipe"]) == 1
    assert exact_match("The pipe", ["pipe"]) == 0
    assert exact_match("The pipe", ["hose", "Pipe"], normalise=normal_form) == 1


def test_a_report_gives_the_means_over_all_and_by_type_rounded_as_the_official_script() -> None:
    accuracy = Accuracy()
    people = [["red"] * count + ["blue"] * (10 - count) for count in (1, 2, 10)]
    values = [
        accuracy.add("red", people[0], question_type="what color", answer_type="other"),
        accuracy.add("red", people[1], question_type="what", answer_type="other"),
        accuracy.add("green", people[2], question_type="what color", answer_type="number"),
    ]
    assert values == pytest.approx([0.3, 0.6, 0])
    report = accuracy.report()
    assert (report.questions, report.overall) == (3, 30.0)
    assert report.per_answer_type == {"other": 45.0, "number": 0.0}
    assert report.per_question_type == {"what color": 15.0, "what": 60.0}


def test_percentages_are_rounded_to_two_places_or_not_at_all() -> None:
    accuracy = Accuracy(exact_match)
    for prediction in ("red", "blue", "blue"):
        accuracy.add(prediction, ["red"])
    assert accuracy.report().overall == 33.33
    assert accuracy.report(digits=1).overall == 33.3
    assert accuracy.report(digits=None).overall == pytest.approx(100 / 3, abs=1e-12)
    assert accuracy.report().per_answer_type == {}


def test_a_report_takes_any_measure_and_needs_a_question() -> None:
    accuracy = Accuracy(partial(vqa_accuracy, clean=True))
    with pytest.raises(UserError, match="no question was counted"):
        accuracy.report()
    accuracy.add("2 dogs", ["two dogs"] * 10)
    assert accuracy.report().overall == 100
