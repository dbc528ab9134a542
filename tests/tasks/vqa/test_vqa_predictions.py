"""Files for the evaluation servers: each question once, written whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.errors import UserError
from regard.tasks.vqa import Question, write_clevr, write_gqa, write_vqa


def asked(*numbers: int | str | None) -> list[Question]:
    return [Question(Path("picture.jpg"), "what ?", question_id=number) for number in numbers]


def test_vqa_takes_numbers_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.json"
    write_vqa(path, {7: "no", 5: "café"}, asked(5, 7))
    assert json.loads(path.read_text()) == [
        {"question_id": 5, "answer": "café"},
        {"question_id": 7, "answer": "no"},
    ]


def test_gqa_takes_texts_for_numbers(tmp_path: Path) -> None:
    write_gqa(tmp_path / "a.json", [("07333408", "pipe"), (11, "yes")], asked("07333408", 11))
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {"questionId": "07333408", "prediction": "pipe"},
        {"questionId": "11", "prediction": "yes"},
    ]


def test_clevr_takes_a_line_for_each_question_in_their_order(tmp_path: Path) -> None:
    write_clevr(tmp_path / "a.txt", {0: "yes", 2: "cube", 1: "3"}, asked(2, 0, 1))
    assert (tmp_path / "a.txt").read_text() == "cube\nyes\n3\n"
    for answer in ("two\nlines", ""):
        with pytest.raises(UserError, match=r"the answer to question 0 is .*expected one line"):
            write_clevr(tmp_path / "a.txt", {0: answer}, asked(0))


REFUSED: list[tuple[Any, list[Question], str]] = [
    ({5: "a"}, asked(5, 7), r"no answer to question 7: expected one for each of 2 questions"),
    ({5: "a"}, asked(*range(9)), r"no answer to questions 0, 1, 2 and 5 more"),
    ({5: "a", 7: "b"}, asked(5), r"answers to question 7, which are not asked: expected those of 1 questions"),
    ([(5, "a"), (7, "b"), (5, "c")], asked(5, 7), r"question 5 twice or more among the answers"),
    ({5: "a"}, asked(5, 5), r"question 5 twice or more among the questions"),
    ({5: "a"}, asked(5, None), r"question 1 has no question_id"),
]


@pytest.mark.parametrize(("predictions", "questions", "words"), REFUSED)
@pytest.mark.parametrize("write", [write_vqa, write_gqa, write_clevr])
def test_missing_repeated_and_strange_numbers_are_refused_and_nothing_is_written(
    tmp_path: Path, write: Callable[..., None], predictions: Any, questions: list[Question], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        write(tmp_path / "a.json", predictions, questions)
    assert not list(tmp_path.iterdir())


def test_what_stood_there_stays_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    real = Path.write_text

    def full(self: Path, text: str, **named: Any) -> int:
        real(self, text[:5], **named)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"the disk is full: .*a\.json could not be written"):
        write_vqa(path, {5: "a"}, asked(5))
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
