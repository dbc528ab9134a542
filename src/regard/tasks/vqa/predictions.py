"""Answers as files that the evaluation servers and scripts take, whole and each once."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from regard import files
from regard.errors import UserError
from regard.tasks.vqa.question import Identifier, Question

Pair = tuple[Identifier, str]
Predictions = Mapping[Identifier, str] | Iterable[Pair]
"""An answer for each question, by its `question_id`."""


def write_vqa(path: Path, predictions: Predictions, questions: Iterable[Question]) -> None:
    """`[{"question_id": 42000, "answer": "yes"}, …]`: VQA v1 and v2, OK-VQA, TextVQA and VizWiz on EvalAI.

    Args:
        path: the file; what stands there is replaced once all is written.
        predictions: the answers.
        questions: those of the part that is evaluated, all of which need an answer.

    Raises:
        UserError: a question has no answer or several, an answer belongs to no question, or the file cannot be written.
    """
    answers = _matched(predictions, questions)
    files.write_text(path, json.dumps([{"question_id": number, "answer": answer} for number, answer in answers]))


def write_gqa(path: Path, predictions: Predictions, questions: Iterable[Question]) -> None:
    """`[{"questionId": "07333408", "prediction": "pipe"}, …]`: GQA's server and script.

    Args:
        path: as `write_vqa`.
        predictions: the answers.
        questions: as `write_vqa`.

    Raises:
        UserError: as `write_vqa`.
    """
    answers = _matched(predictions, questions)
    rows = [{"questionId": str(number), "prediction": answer} for number, answer in answers]
    files.write_text(path, json.dumps(rows))


def write_clevr(path: Path, predictions: Predictions, questions: Iterable[Question]) -> None:
    """One answer a line, in the order of the questions: CLEVR, whose test has no server; as openvqa writes it.

    Args:
        path: as `write_vqa`.
        predictions: the answers.
        questions: as `write_vqa`; their order is that of the lines.

    Raises:
        UserError: as `write_vqa`, or an answer has more than one line.
    """
    answers = _matched(predictions, questions)
    for number, answer in answers:
        if len(answer.splitlines()) != 1:
            raise UserError(f"the answer to question {number} is {answer!r}: expected one line; give one that is")
    files.write_text(path, "".join(f"{answer}\n" for _, answer in answers))


def write_table(path: Path, answers: Sequence[str], questions: Sequence[Question]) -> None:
    """A CSV file with `image,question,answer` and, where questions have one, `question_id`: one's own table.

    Args:
        path: as `write_vqa`.
        answers: one for each question, in their order.
        questions: as `write_vqa`.

    Raises:
        UserError: the file cannot be written.
    """
    numbered = any(question.question_id is not None for question in questions)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "question", "answer", *(["question_id"] if numbered else [])])
    for question, answer in zip(questions, answers, strict=True):
        image = question.image if isinstance(question.image, Path) else question.image_id
        writer.writerow([image, question.question, answer, *([question.question_id] if numbered else [])])
    files.write_text(path, text.getvalue())


def _matched(predictions: Predictions, questions: Iterable[Question]) -> list[Pair]:
    """The answers in the order of the questions, one for each."""
    pairs = list(cast("Iterable[Pair]", predictions.items() if isinstance(predictions, Mapping) else predictions))
    wanted = [question.question_id for question in questions]
    if None in wanted:
        raise UserError(
            f"question {wanted.index(None)} has no question_id: expected one for every question, by which the server "
            "finds it; add them to the data"
        )
    numbers = [number for number in wanted if number is not None]
    for what, ids in (("questions", numbers), ("answers", [number for number, _ in pairs])):
        if repeated := [number for number, times in Counter(ids).items() if times > 1]:
            raise UserError(
                f"{_some(repeated)} twice or more among the {what}: expected each once; leave out all but one"
            )
    given = dict(pairs)
    if missing := [number for number in numbers if number not in given]:
        raise UserError(f"no answer to {_some(missing)}: expected one for each of {len(numbers)} questions; answer all")
    if unknown := given.keys() - set(numbers):
        raise UserError(
            f"answers to {_some(sorted(unknown, key=str))}, which are not asked: expected those of {len(numbers)} "
            "questions alone; give the part that they belong to"
        )
    return [(number, given[number]) for number in numbers]


def _some(numbers: list[Identifier]) -> str:
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"question{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers[:3]))}{more}"
