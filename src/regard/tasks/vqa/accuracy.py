"""The measure of visual question answering, to the letter of its official script.

Antol et al., “VQA: Visual Question Answering”, ICCV 2015; Goyal et al., “Making the V in VQA Matter”, CVPR 2017. The
rule is that of `vqaEval.py` in GT-Vision-Lab/VQA, as of November 2026. An answer is right in so far as three of nine
people gave it, averaged over the ten ways to leave one of ten people out:

    accuracy = mean over the subsets of nine of min(1, matches / 3)

so that 1, 2, 3 and 4 matches among ten give 0.3, 0.6, 0.9 and 1. The often quoted min(1, matches / 3) gives 0.33, 0.67
and 1.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from regard.errors import UserError

PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
"""The marks that do not count, in the order in which the script goes through them; periods have a rule of their own."""

_digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_digits)}
ARTICLES = frozenset({"a", "an", "the"})

_contracted = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    """,
)


def _one_apostrophe_short(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


# The script lists, for each contracted form, those that lack one of its apostrophes. One entry is the wrong way round.
CONTRACTIONS = {short: word for word in _contracted for short in _one_apostrophe_short(word)} | {
    "somebody'd": "somebodyd"
}
"""How the script restores apostrophes. Its four forms with a capital I never match: it lower-cases before it looks."""

_clean_contractions = {
    short.lower(): word.lower() for word in (*_contracted, "somebody'd") for short in _one_apostrophe_short(word)
}

# `(?!<=\d)` looks ahead for “<=” and a digit, where `(?<!\d)` was meant: it excludes nothing.
_official_period = re.compile(r"(?!<=\d)(\.)(?!\d)")
_official_periods = int(re.UNICODE)  # the script passes this flag where the number of replacements goes: 32
_digits_around_comma = re.compile(r"\d,\d")
_clean_period = re.compile(r"(?<!\d)\.(?!\d)")
_clean_comma = re.compile(r"(?<=\d),(?=\d)")
_clean_marks = str.maketrans(dict.fromkeys(PUNCTUATION, " "))


def normal_form(answer: str, *, clean: bool = False) -> str:
    """An answer as it is compared: without punctuation, case and articles, numbers as digits, apostrophes restored.

    Args:
        answer: what somebody or some model said.
        clean: as was evidently meant. The script looks whether a mark stands next to a space, or a comma between
            digits, *anywhere* in the text and then deletes every such mark, or every mark; here each mark is judged by
            itself: a comma between digits is deleted, any other mark parts two words. The script deletes a period
            unless a digit follows; here also one that follows a digit stays. It stops after 32 periods, turns
            “somebody'd” into “somebodyd”, and misses “im”, “ive”, “id've” and “i'dve”; here it does not.
    """
    text = _plain(answer)
    return _words(_clean_punctuation(text) if clean else _official_punctuation(text), clean)


def vqa_accuracy(
    prediction: str,
    answers: Sequence[str],
    *,
    clean: bool = False,
    earlier: bool = False,
    approximate: bool = False,
) -> float:
    """How right a prediction is, from 0 to 1, given what ten people answered.

    As in the official script, nothing is normalised, not even case, where all people gave the same answer.

    Args:
        prediction: the model's answer.
        answers: what people answered; ten in VQA, and the same rule, leaving each out in turn, for four or more.
        clean: normalise always, and by `normal_form(clean=True)`. Not comparable with published figures.
        earlier: the rule of the script until 2017, kept by openvqa and LAVIS: the prediction is always normalised,
            people's answers lose their punctuation alone, and only where they differ; “two” never equals “2” there.
        approximate: min(1, matches / 3) among all answers, without subsets.

    Raises:
        UserError: fewer than four answers (three if approximate), so that none could be wholly right, or both rules at
            once.
    """
    if clean and earlier:
        raise UserError("clean=True and earlier=True are two different rules: give one of them")
    least = 3 if approximate else 4
    if len(answers) < least:
        raise UserError(
            f"{len(answers)} answer{'' if len(answers) == 1 else 's'} for a question: expected ten, or at least "
            f"{least}, for an answer that all gave to be right; use exact_match instead"
        )
    if clean:
        given = normal_form(prediction, clean=True)
        said = [normal_form(answer, clean=True) for answer in answers]
    elif earlier:
        given = normal_form(prediction)
        said = list(answers)
        if len(set(said)) > 1:
            said = [_official_punctuation(answer) for answer in said]
    else:
        given = _plain(prediction)
        said = [_plain(answer) for answer in answers]
        if len(set(said)) > 1:
            given = normal_form(given)
            said = [normal_form(answer) for answer in said]
    matches = said.count(given)
    return min(1.0, matches / 3) if approximate else agreement(matches, len(said))


def agreement(matches: int, people: int) -> float:
    """The accuracy of an answer that so many of so many people gave: the mean over all subsets without one of them."""
    # Who gave the answer is left out in `matches` of the subsets, who did not in all others.
    return (matches * min(1.0, (matches - 1) / 3) + (people - matches) * min(1.0, matches / 3)) / people


def exact_match(prediction: str, answers: Sequence[str], *, normalise: Callable[[str], str] | None = None) -> float:
    """1 if the prediction is one of the answers, otherwise 0: the measure of GQA and CLEVR.

    Args:
        prediction: the model's answer.
        answers: the right answer, or several that are.
        normalise: what to do to both first, such as `normal_form`; nothing by default, as the script of GQA.
    """
    if normalise is not None:
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    return float(prediction in answers)


@dataclass(frozen=True)
class Report:
    """Accuracy in per cent over a set of questions.

    Attributes:
        questions: how many there were.
        overall: the mean over all.
        per_answer_type: the mean over those of each type: “yes/no”, “number” and “other” in VQA.
        per_question_type: the same by how the question begins (VQA) or what it asks for (GQA, CLEVR).
    """

    questions: int
    overall: float
    per_answer_type: Mapping[str, float]
    per_question_type: Mapping[str, float]


class Accuracy:
    """Accuracy over a set of questions: in all, by answer type and by question type.

    Args:
        measure: of one prediction given people's answers: `vqa_accuracy`, `exact_match`, or one with its options set.
    """

    def __init__(self, measure: Callable[[str, Sequence[str]], float] = vqa_accuracy) -> None:
        self._measure = measure
        self._overall: list[float] = []
        self._by_answer: defaultdict[str, list[float]] = defaultdict(list)
        self._by_question: defaultdict[str, list[float]] = defaultdict(list)

    def add(
        self,
        prediction: str,
        answers: Sequence[str],
        *,
        question_type: str | None = None,
        answer_type: str | None = None,
    ) -> float:
        """Count one question, and give its own accuracy, from 0 to 1."""
        value = self._measure(prediction, answers)
        self._overall.append(value)
        if answer_type is not None:
            self._by_answer[answer_type].append(value)
        if question_type is not None:
            self._by_question[question_type].append(value)
        return value

    def report(self, *, digits: int | None = 2) -> Report:
        """The percentages, rounded to two places as the official script does, or not at all for `digits=None`.

        Raises:
            UserError: nothing was added.
        """
        if not self._overall:
            raise UserError("no question was counted: expected at least one before a report; call add first")

        def percentage(values: list[float]) -> float:
            mean = 100 * sum(values) / len(values)
            return mean if digits is None else round(mean, digits)

        return Report(
            questions=len(self._overall),
            overall=percentage(self._overall),
            per_answer_type={name: percentage(values) for name, values in self._by_answer.items()},
            per_question_type={name: percentage(values) for name, values in self._by_question.items()},
        )


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _official_punctuation(text: str) -> str:
    result = text
    deletes_all = _digits_around_comma.search(text) is not None
    for mark in PUNCTUATION:
        deletes = deletes_all or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if deletes else " ")
    return _official_period.sub("", result, count=_official_periods)


def _clean_punctuation(text: str) -> str:
    return _clean_period.sub("", _clean_comma.sub("", text).translate(_clean_marks))


def _words(text: str, clean: bool) -> str:
    contractions = _clean_contractions if clean else CONTRACTIONS
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in ARTICLES)
