"""One's own CSV file, and data sets that behave as those of Hugging Face do."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from regard.errors import UserError
from regard.tasks.vqa import AnswerVocabulary, Question, comma_separated, hugging_face
from regard.tasks.vqa.outcomes import form_of, outcomes


def picture(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (11, 7), colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.png", "sub/two.png"):
        picture(tmp_path / name)
    return tmp_path


def table(folder: Path, text: str, name: str = "questions.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_gives_one_question_a_row(folder: Path) -> None:
    path = table(
        folder,
        "image,question,answer,question_id,question_type,answer_type,image_id,licence\n"
        'one.png,"Is it red, or not?",yes | no,q1,is it,yes/no,5,free\n'
        "\n"
        "sub/two.png,How many?, 3 ,,,,,\n",
    )
    first, second = comma_separated(path)
    assert first == Question(
        image=folder / "one.png",
        question="Is it red, or not?",
        answers=("yes | no",),
        question_type="is it",
        answer_type="yes/no",
        question_id="q1",
        image_id="5",
    )
    assert second == Question(image=folder / "sub" / "two.png", question="How many?", answers=("3",))


def test_several_answers_are_parted_by_a_bar_or_written_as_a_list(folder: Path) -> None:
    path = table(
        folder, 'image,question,answers\none.png,What?,red| dark red |red\none.png,Why?,"[""a|b"", ""c"", 5]"\n'
    )
    assert [one.answers for one in comma_separated(path)] == [("red", "dark red", "red"), ("a|b", "c", "5")]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_of_spreadsheets_are_read(folder: Path, delimiter: str) -> None:
    text = "image,question,answer\r\none.png,Größe?,groß\r\n".replace(",", delimiter)
    path = folder / "q.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (only,) = comma_separated(path)
    assert (only.question, only.answers, only.image) == ("Größe?", ("groß",), folder / "one.png")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Yes|Yes|Yes|Yes", ["yes"] * 4),
        ("Two dogs.|Two dogs.|Two dogs.|Two dogs.", ["2 dogs"] * 4),
        ("A|A|A|A|A", ["a"] * 5),
        ("Yes|Yes|Yes", ["Yes"] * 3),  # too few for VQA's accuracy: compared in lower case as they are
        ("Yes|yes|Yes|Yes", ["Yes", "yes", "Yes", "Yes"]),  # the official rule brings them into its form itself
    ],
)
def test_answers_that_all_gave_can_be_met(folder: Path, written: str, read: list[str]) -> None:
    (one,) = comma_separated(table(folder, f"image,question,answers\none.png,What?,{written}\n"))
    assert list(one.answers) == read
    answers = AnswerVocabulary.of([one], form=form_of([one]))
    assert outcomes([one], answers.answers).tolist() == [1]


def test_columns_may_be_named_and_pictures_lie_elsewhere(folder: Path) -> None:
    path = table(folder, "photo,text,reply\ntwo.png,What?,red\n")
    columns = {"image": "photo", "question": "text", "answers": "reply"}
    (only,) = comma_separated(path, folder / "sub", columns=columns)
    assert (only.image, only.answers) == (folder / "sub" / "two.png", ("red",))


def test_questions_may_come_without_answers(folder: Path) -> None:
    path = table(folder, "image,question\none.png,What?\n")
    assert comma_separated(path, answered=False)[0].answers == ()
    with_some = table(folder, "image,question,answer\none.png,What?,\n")
    assert comma_separated(with_some, answered=False)[0].answers == ()


GOOD = "image,question,answer\none.png,What?,red\n"
BAD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing": (lambda p: p.unlink(), ["there is no file", "expected a CSV file with a header"]),
    "folder": (lambda p: (p.unlink(), p.mkdir()), ["cannot be read (Is a directory)"]),
    "empty": (lambda p: p.write_text(""), ["has no column 'image' or 'image_path', only none"]),
    "header alone": (lambda p: p.write_text("image,question,answer\n"), ["holds no questions"]),
    "latin": (lambda p: p.write_bytes(GOOD.encode() + b"one.png,Gr\xf6sse?,5\n"), ["not text in UTF-8", "CSV UTF-8"]),
    "misspelt": (
        lambda p: p.write_text(GOOD.replace("answer", "anwser")),
        [
            "has no column 'answers' or 'answer', only 'image', 'question', 'anwser'",
            "{'answers': 'anwser'}",
            "answered",
        ],
    ),
    "no image": (
        lambda p: p.write_text(GOOD.replace("image", "file")),
        ["no column 'image'", "columns={'image': '…'}"],
    ),
    "open quote": (lambda p: p.write_text(GOOD + 'one.png,"What?,red\n'), ["is broken CSV after line 2"]),
    "too many": (
        lambda p: p.write_text(GOOD + "one.png,Red, or not?,yes\n"),
        ["1 of 2 questions", "line 3: 4 fields, and 3 in the header: put quotes around commas"],
    ),
    "no picture": (lambda p: p.write_text(GOOD + "three.png,Q?,a\n"), ["line 3: there is no picture", "three.png"]),
    "no name": (lambda p: p.write_text(GOOD + ",Q?,a\n"), ["line 3: it names no picture"]),
    "no question": (lambda p: p.write_text(GOOD + "one.png,,a\n"), ["line 3: its question is empty"]),
    "no answer": (lambda p: p.write_text(GOOD + "one.png,Q?, \n"), ["line 3: it has no answer"]),
    "no list": (
        lambda p: p.write_text(GOOD.replace("answer", "answers") + 'one.png,Q?,"[""a"""\n'),
        ["line 3: its answers begin with “[” and are no JSON list"],
    ),
    "twice": (
        lambda p: p.write_text("image,question,answer,question_id\none.png,Q?,a,5\none.png,R?,b,5\n"),
        ["line 3: the same question_id stands above"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_in_a_table_is_named_by_line(folder: Path, name: str) -> None:
    path = table(folder, GOOD)
    spoil, words = BAD[name]
    spoil(path)
    with pytest.raises(UserError) as caught:
        comma_separated(path)
    assert "questions.csv" in str(caught.value)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_columns_that_are_given_must_be_there(folder: Path) -> None:
    path = table(folder, GOOD)
    with pytest.raises(UserError, match=r"no column 'photo', only 'image', 'question', 'answer'"):
        comma_separated(path, columns={"image": "photo"})
    with pytest.raises(UserError, match=r"names 'picture', which is no part of a question: expected image, question"):
        comma_separated(path, columns={"picture": "image"})


def test_bad_lines_are_left_out_and_listed_when_asked(folder: Path) -> None:
    left = comma_separated(table(folder, GOOD + "three.png,Q?,a\n"), skip_bad=True)
    assert [one.question for one in left] == ["What?"]
    assert [one.where for one in left.skipped] == ["line 3"]


class Rows:
    """Behaves as `datasets.Dataset`: rows by number, columns by name; counts how often a picture is decoded."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns
        self.decoded = 0
        self.features: dict[str, Any] | None = None

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        self.decoded += 1
        return {name: values[key] for name, values in self._columns.items()}


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (11, 7), colour).save(file, "PNG")
    return file.getvalue()


def test_rows_give_questions_now_and_pictures_when_they_are_wanted() -> None:
    red, blue = (Image.new("RGB", (11, 7), colour) for colour in ("red", "blue"))
    rows = Rows(
        {
            "image": [red, red, blue],
            "question": ["What?", "Why?", "Who?"],
            "answers": [
                [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}, {"answer": "pink", "answer_id": 2}],
                ["because", "so"],
                {"ids": ["you", "me"], "weights": [0.3, 1.0]},
            ],
            "question_id": [50, 51, 52],
            "image_id": [5, 5, 7],
            "answer_type": ["other", None, "other"],
        }
    )
    questions = hugging_face(rows)
    before = rows.decoded
    assert [one.answers for one in questions] == [("red", "pink"), ("because", "so"), ("me", "you")]
    assert [(one.question_id, one.image_id, one.answer_type) for one in questions][:2] == [
        (50, 5, "other"),
        (51, 5, None),
    ]
    assert rows.decoded == before
    assert questions.picture(2, 7).getpixel((0, 0)) == (0, 0, 255)
    assert questions.picture(0, 7) is questions.picture(1, 7)
    assert rows.decoded == before + 2


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("red", ("red",)),
        (5, ("5",)),
        ({"answer": ["red", "blue"], "answer_id": [1, 2]}, ("red", "blue")),
        ({"answer": "red"}, ("red",)),
        (("red", "red"), ("red", "red")),
    ],
)
def test_answers_come_in_every_shape_of_the_hub(answers: Any, expected: tuple[str, ...]) -> None:
    rows = Rows({"image": [Image.new("RGB", (3, 5))], "question": ["What?"], "answer": [answers]})
    assert hugging_face(rows)[0].answers == expected


def test_answers_that_are_numbers_of_classes_are_named() -> None:
    rows = Rows({"image": [Image.new("RGB", (3, 5))] * 2, "question": ["What?", "Q?"], "label": [1, -1]})
    rows.features = {"label": SimpleNamespace(names=["red", "blue"]), "image": SimpleNamespace()}
    assert [one.answers for one in hugging_face(rows, skip_bad=True)] == [("blue",)]
    with pytest.raises(UserError, match="row 1: it has no answer"):
        hugging_face(rows)


def test_pictures_may_be_bytes_or_names_of_files(folder: Path) -> None:
    coded = Rows({"image": [{"bytes": png("lime"), "path": None}], "question": ["What?"], "answer": ["green"]})
    assert hugging_face(coded).picture(0, 7).getpixel((0, 0)) == (0, 255, 0)
    named = Rows({"image": ["one.png", "three.png"], "question": ["What?", "Q?"], "answer": ["red", "a"]})
    assert hugging_face(named, folder, skip_bad=True)[0].image == folder / "one.png"
    with pytest.raises(UserError, match=r"the Rows of 2 rows cannot be used: row 1: there is no picture .*three\.png"):
        hugging_face(named, folder)
    unopened = Rows({"image": [{"bytes": None, "path": str(folder / "one.png")}], "question": ["Q?"], "answer": ["a"]})
    assert hugging_face(unopened).picture(0, 7).size == (11, 7)


def test_what_is_no_picture_is_named_when_it_is_wanted() -> None:
    rows = Rows({"image": [[3, 5]], "question": ["What?"], "answer": ["red"]})
    with pytest.raises(UserError, match=r"question 0 of the Rows of 1 rows: .*row 0 holds a list under 'image'"):
        hugging_face(rows).picture(0, 7)


def test_what_is_wrong_in_rows_is_named() -> None:
    image = Image.new("RGB", (3, 5))
    rows = Rows({"image": [image] * 3, "question": ["What?", None, "Q?"], "answer": ["red", "b", object()]})
    with pytest.raises(UserError) as caught:
        hugging_face(rows)
    assert "2 of 3 questions in the Rows of 3 rows" in str(caught.value)
    assert "row 1: its question is 'None': expected text; row 2: its answers are '<object" in str(caught.value)
    with pytest.raises(
        UserError, match=r"Rows of 1 rows has no column 'answers' or 'answer', only 'image', 'question'"
    ):
        hugging_face(Rows({"image": [image], "question": ["Q?"]}))
    assert len(hugging_face(Rows({"image": [image], "question": ["Q?"]}), answered=False)) == 1


def test_what_is_not_one_split_is_refused() -> None:
    class Splits(dict[str, Rows]):
        column_names: dict[str, list[str]] = {"train": ["image"]}  # noqa: RUF012

    class Stream:
        column_names = ("image", "question")

    with pytest.raises(UserError, match=r"a dictionary of splits \(train, test\).*give dataset\['train'\]"):
        hugging_face(Splits(train=Rows({"image": []}), test=Rows({"image": []})))
    with pytest.raises(UserError, match=r"a Stream cannot be asked .* without streaming"):
        hugging_face(Stream())


@pytest.mark.slow
def test_a_data_set_of_hugging_face_is_read(folder: Path) -> None:
    import datasets

    texts = {
        "question": ["What?", "Why?"],
        "answers": [
            [{"answer": "red", "answer_id": 1}, {"answer": "pink", "answer_id": 2}],
            [{"answer": "so", "answer_id": 1}],
        ],
    }

    def made(images: list[Any], **features: Any) -> Any:
        content = datasets.table.InMemoryTable.from_pydict({"image": images, **texts})
        info = datasets.DatasetInfo(features=datasets.Features(features) if features else None)
        # With a fingerprint given, nothing is pickled for one.
        return datasets.Dataset(content, info=info, fingerprint="five")

    named = made([str(folder / "one.png")] * 2)
    assert hugging_face(named)[0].image == folder / "one.png"
    kinds = {name: kind for name, kind in named.features.items() if name != "image"}
    stored = made([{"bytes": png("lime"), "path": "five.png"}] * 2, image=datasets.Image(), **kinds)
    questions = hugging_face(stored)
    assert [one.answers for one in questions] == [("red", "pink"), ("so",)]
    assert questions.picture(1, 7).getpixel((0, 0)) == (0, 255, 0)
    with pytest.raises(UserError, match="a dictionary of splits"):
        hugging_face(datasets.DatasetDict({"train": named}))
    with pytest.raises(UserError, match="without streaming"):
        hugging_face(named.to_iterable_dataset())
