"""Questions in a table: one's own CSV file, or any data set of Hugging Face. One row asks one question."""

import csv
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from regard.errors import UserError
from regard.tasks.vqa.answers import answer_form
from regard.tasks.vqa.outcomes import PEOPLE
from regard.tasks.vqa.question import BadRow, Gathering, Picture, Question, Questions

COLUMNS: Mapping[str, Sequence[str]] = {
    "image": ("image", "image_path", "image_file", "picture"),
    "question": ("question",),
    "answers": ("answers", "answer", "label", "multiple_choice_answer"),
    "question_id": ("question_id", "questionId"),
    "image_id": ("image_id", "imageId"),
    "question_type": ("question_type",),
    "answer_type": ("answer_type",),
}
"""What each column is called, the first name that a table has; all but the first three may be missing."""

SEPARATOR = "|"
"""Between several answers in one cell of a CSV file."""


def comma_separated(
    path: Path,
    pictures: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    answered: bool = True,
    skip_bad: bool = False,
) -> Questions:
    """A CSV file with a header: `image,question,answer`, and a row for each question.

    A cell in `answers` holds several, parted by “|” or as a JSON list; one in `answer` holds one. Answers that are all
    the same, and enough for VQA's accuracy, are brought into the form in which it compares different ones: it would
    take them as they are written, and “Yes” is none that a model chooses from. Fields may be parted by commas,
    semicolons or tabs. Further columns are read where `COLUMNS` names them, others are left alone.

    Args:
        path: the file, in UTF-8.
        pictures: the folder that the names of pictures start from; that of the file by default.
        columns: what a column is called where it has none of the names in `COLUMNS`: `{"image": "photo"}`.
        answered: False for questions without answers.
        skip_bad: leave out rows that cannot be used.

    Raises:
        UserError: the file is missing, broken or lacks a column, or rows cannot be used and are not to be skipped.
    """
    folder = path.parent if pictures is None else pictures
    line = 1
    try:
        # Spreadsheets put a mark at the beginning, which utf-8-sig removes.
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])]
            found = find_columns(names, columns, str(path), answered)
            several = found.get("answers") != "answer"
            gathered = Gathering(str(path), skip_bad)
            for cells in reader:
                if not any(cells):
                    continue
                line = reader.line_num
                with gathered.row(f"line {line}"):
                    if len(cells) != len(names):
                        raise BadRow(f"{len(cells)} fields, and {len(names)} in the header: put quotes around commas")
                    row = {role: cells[names.index(name)].strip() for role, name in found.items()}
                    if not row["image"]:
                        raise BadRow("it names no picture")
                    answers = _cell(row["answers"], several) if "answers" in row else ()
                    if len(answers) >= PEOPLE and len(set(answers)) == 1:
                        answers = tuple(map(answer_form, answers))
                    gathered.add(_question(row, gathered.picture(folder / row["image"]), answers, answered))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: expected a CSV file with a header; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it as “CSV UTF-8” and try again") from error
    except csv.Error as error:
        raise UserError(
            f"{path} is broken CSV after line {line} ({error}): expected fields with closed quotes; correct it"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a CSV file; check the path") from error
    return gathered.done()


# `Any`: a data set is known by what it can do.
def hugging_face(
    dataset: Any,
    pictures: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    answered: bool = True,
    skip_bad: bool = False,
) -> Questions:
    """One split of a data set of Hugging Face, or anything with `column_names`, a length, rows and columns.

    Questions and answers are read now, pictures when they are wanted. Answers may be one text, a list of texts, VQA's
    list of `{"answer": …}`, or `{"ids": […], "weights": […]}`, of which the ids are taken, the heaviest first.

    Args:
        dataset: such as `datasets.load_dataset("csv", data_files=…)["train"]`.
        pictures: the folder that names of pictures start from, where the column holds names.
        columns: what a column is called where it has none of the names in `COLUMNS`.
        answered: False for questions without answers.
        skip_bad: leave out rows that cannot be used.

    Raises:
        UserError: the data set lacks a column, is not one split of which the length is known, or rows cannot be used.
    """
    source = _described(dataset)
    found = find_columns(list(dataset.column_names), columns, source, answered)
    names_files = _names_files(dataset, found["image"])
    # Column by column: of a row, the picture would be decoded with the rest.
    texts = {role: dataset[name] for role, name in found.items() if role != "image" or names_files}
    classes = _classes(dataset, found.get("answers"))
    gathered = Gathering(source, skip_bad)
    for at, values in enumerate(zip(*texts.values(), strict=True)):
        row = dict(zip(texts, values, strict=True))
        with gathered.row(f"row {at}"):
            image: Picture
            if names_files:
                image = gathered.picture((pictures or Path()) / str(row["image"]))
            else:
                image = partial(_picture, dataset, at, found["image"])
            said = row.get("answers")
            if classes and isinstance(said, int):
                said = classes[said] if said >= 0 else None  # -1 stands for no class
            answers = _answers(said)
            gathered.add(_question(row, image, answers, answered))
    return gathered.done()


def find_columns(
    available: Sequence[str], columns: Mapping[str, str] | None, source: str, answered: bool
) -> dict[str, str]:
    """Which column of a table plays which part.

    Raises:
        UserError: one that is needed is not there, or a name that was given is none.
    """
    given = dict(columns or {})
    there = ", ".join(map(repr, available)) or "none"
    for role, name in given.items():
        if role not in COLUMNS:
            raise UserError(f"columns= names {role!r}, which is no part of a question: expected {', '.join(COLUMNS)}")
        if name not in available:
            raise UserError(f"{source} has no column {name!r}, only {there}: correct columns={{{role!r}: {name!r}}}")
    found = dict(given)
    for role, names in COLUMNS.items():
        if (name := next((name for name in names if name in available), None)) is not None:
            found.setdefault(role, name)
    needed = ["image", "question", *(["answers"] if answered else [])]
    for role in needed:
        if role not in found:
            close = get_close_matches(role, available, n=1)
            example = close[0] if close else "…"
            without = ", or answered=False if there are no answers" if role == "answers" else ""
            raise UserError(
                f"{source} has no column {' or '.join(map(repr, COLUMNS[role][:2]))}, only {there}: rename one, or say "
                f"which it is with columns={{{role!r}: {example!r}}}{without}"
            )
    if not answered:
        found.pop("answers", None)
    return found


def _question(row: Mapping[str, Any], image: Picture, answers: tuple[str, ...], answered: bool) -> Question:
    if answered and not answers:
        raise BadRow("it has no answer")
    if not isinstance(row["question"], str):
        raise BadRow(f"its question is {str(row['question'])[:40]!r}: expected text")
    return Question(
        image=image,
        question=row["question"],
        answers=answers,
        question_type=_text(row.get("question_type")),
        answer_type=_text(row.get("answer_type")),
        question_id=_given(row.get("question_id")),
        image_id=_given(row.get("image_id")),
    )


def _given(identifier: Any) -> Any:
    return None if identifier == "" else identifier


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _cell(cell: str, several: bool) -> tuple[str, ...]:
    if not several:
        return (cell,) if cell else ()
    if cell.startswith("["):
        try:
            return _answers(json.loads(cell))
        except json.JSONDecodeError as error:
            raise BadRow(f"its answers begin with “[” and are no JSON list ({error.msg})") from error
    return tuple(answer for part in cell.split(SEPARATOR) if (answer := part.strip()))


def _answers(value: Any) -> tuple[str, ...]:
    match value:
        case None:
            return ()
        case str():
            return (value,) if value.strip() else ()
        case {"ids": [*names], "weights": [*weights]}:
            order = sorted(range(len(names)), key=lambda at: -weights[at])
            return tuple(str(names[at]) for at in order)
        case {"answer": str(answer)}:
            return (answer,)
        # A column of VQA's answers comes turned round: one list for each of its fields.
        case {"answer": [*answers]}:
            return tuple(map(str, answers))
        case bool() | int() | float():
            return (str(value),)
        case [*answers]:
            return tuple(text for answer in answers for text in _answers(answer))
    raise BadRow(f"its answers are {str(value)[:40]!r}: expected text, or a list of texts")


def _described(dataset: Any) -> str:
    names = getattr(dataset, "column_names", None)
    if isinstance(names, Mapping) or (isinstance(dataset, Mapping) and names is None):
        splits = [str(split) for split in dataset]
        raise UserError(
            f"this is a dictionary of splits ({', '.join(splits)}): expected one of them; give dataset[{splits[0]!r}]"
        )
    if names is None or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(
            f"a {type(dataset).__name__} cannot be asked for its columns, length or rows: expected a data set that "
            "can, such as datasets.Dataset; load it without streaming"
        )
    return f"the {type(dataset).__name__} of {len(dataset)} rows"


def _names_files(dataset: Any, column: str) -> bool:
    """Whether a column holds the names of pictures and not the pictures."""
    features: Any = getattr(dataset, "features", None)
    if isinstance(features, Mapping) and column in features:
        return getattr(features[column], "dtype", None) in ("string", "large_string")
    return len(dataset) > 0 and isinstance(dataset[0][column], str | Path)


def _classes(dataset: Any, column: str | None) -> Sequence[str]:
    """The names of answers that are stored as numbers, where a column is of classes."""
    features: Any = getattr(dataset, "features", None)
    return getattr(features.get(column), "names", None) or () if isinstance(features, Mapping) else ()


def _picture(dataset: Any, at: int, column: str) -> Image.Image:
    """Called when the picture of a row is wanted."""
    value = dataset[at][column]
    if isinstance(value, Mapping):  # as `datasets` gives it with `decode=False`
        value = BytesIO(value["bytes"]) if value.get("bytes") else value.get("path")
    if isinstance(value, str | Path | BytesIO):
        value = Image.open(value)
    if not isinstance(value, Image.Image):
        raise ValueError(f"row {at} holds a {type(value).__name__} under {column!r}, not a picture")
    return value
