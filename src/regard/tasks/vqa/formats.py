"""The files of the field's data sets, each read as one list of questions.

    vqa            VQA v1 and v2, OK-VQA, VQA-CP with COCO's numbers: questions, annotations, `COCO_val2014_….jpg`
    gqa            GQA, whole or balanced
    clevr          CLEVR v1.0
    visual_genome  Visual Genome's questions
    textvqa        TextVQA, with the words that were read in each picture

Nothing is downloaded. Files are read once; pictures are looked up now and decoded when they are wanted. Rows that
cannot be used are named by file and question, and refused all together, or left out with `skip_bad`. Tables of one's
own and data sets of Hugging Face are in `tables`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from regard.errors import UserError
from regard.models.vqa.vocabulary import tokenize
from regard.tasks.vqa.question import BadRow, Gathering, Question, Questions, value_of

_identifier = int | str


def vqa(questions: Path, pictures: Path, annotations: Path | None = None, *, skip_bad: bool = False) -> Questions:
    """VQA v1 or v2 (Antol et al., ICCV 2015; Goyal et al., CVPR 2017), and data sets in its format.

    Args:
        questions: such as `v2_OpenEnded_mscoco_val2014_questions.json`.
        pictures: the folder of `COCO_val2014_000000000042.jpg`, or the one above its `val2014`; the names of COCO 2017,
            without the prefix, are found too. Abstract scenes are PNG files.
        annotations: such as `v2_mscoco_val2014_annotations.json`; without it, questions alone, as for the test.
        skip_bad: leave out questions whose picture or answers are missing.

    Raises:
        UserError: a file is missing or not of that format, or questions cannot be used and are not to be skipped.
    """
    asked = _object(questions, "questions")
    subset, kind = str(asked.get("data_subtype", "")), str(asked.get("data_type", "mscoco"))
    answered: dict[object, Any] = {}
    if annotations is not None:
        given = _object(annotations, "annotations")
        if (other := str(given.get("data_subtype", subset))) != subset:
            raise UserError(
                f"{questions} asks about {subset} and {annotations} answers for {other}: expected two files of one "
                "part; give the pair that belongs together"
            )
        answered = {one.get("question_id"): one for one in given["annotations"] if isinstance(one, dict)}
    candidates = cache(partial(_coco, pictures, kind, subset))  # several questions ask about one picture
    gathered = Gathering(str(questions), skip_bad)
    for at, row in enumerate(asked["questions"]):
        with gathered.row(_named(row, "question_id", at)):
            number, image = value_of(row, "question_id", _identifier), value_of(row, "image_id", int)
            annotation = None
            if annotations is not None:
                if (annotation := answered.get(number)) is None:
                    raise BadRow(f"no annotation in {annotations}")
                if annotation.get("image_id", image) != image:
                    raise BadRow(f"it is about picture {image}, its annotation about {annotation['image_id']}")
            gathered.add(
                Question(
                    image=gathered.picture(*candidates(image)),
                    question=value_of(row, "question", str),
                    answers=_ten(annotation) if annotation else (),
                    question_type=annotation.get("question_type") if annotation else None,
                    answer_type=annotation.get("answer_type") if annotation else None,
                    question_id=number,
                    image_id=image,
                    consensus=annotation.get("multiple_choice_answer") if annotation else None,
                )
            )
    return gathered.done()


def gqa(
    questions: Path | Sequence[Path], pictures: Path, *, balanced: bool = False, skip_bad: bool = False
) -> Questions:
    """GQA (Hudson and Manning, CVPR 2019).

    The question type is the structural one (verify, query, choose, logical, compare); the answer type is “open” for a
    query and “binary” for all others, as in the official script.

    Args:
        questions: such as `val_balanced_questions.json`, several files, or a folder of them, as `train_all_questions`.
        pictures: the folder `images` with `2354786.jpg`.
        balanced: leave out what is not in the balanced part, where the file holds all.
        skip_bad: leave out questions that cannot be used.

    Raises:
        UserError: as `vqa`.
    """
    files = sorted(questions.glob("*.json")) if isinstance(questions, Path) and questions.is_dir() else questions
    files = [files] if isinstance(files, Path) else list(files)
    if not files:
        raise UserError(f"{questions} holds no JSON files: expected those of GQA's questions; check the path")
    gathered = Gathering(", ".join(map(str, files[:2])) + (", …" if len(files) > 2 else ""), skip_bad)
    for file in files:
        for number, row in _object(file).items():
            # What is not in the balanced part is no row at all; whether it could be used is not asked.
            if balanced and isinstance(row, dict) and row.get("isBalanced") is False:
                continue
            with gathered.row(f"question {number}"):
                image = str(value_of(row, "imageId", _identifier))
                types = row.get("types") or {}
                structural = types.get("structural") if isinstance(types, dict) else None
                gathered.add(
                    Question(
                        image=gathered.picture(pictures / f"{image}.jpg"),
                        question=value_of(row, "question", str),
                        answers=(value_of(row, "answer", str),) if "answer" in row else (),
                        question_type=structural,
                        answer_type=None if structural is None else "open" if structural == "query" else "binary",
                        question_id=number,
                        image_id=image,
                    )
                )
    return gathered.done()


_clevr_types = {
    "count": "count",
    "exist": "exist",
    "equal_integer": "compare numbers",
    "less_than": "compare numbers",
    "greater_than": "compare numbers",
} | {
    f"{what}_{attribute}": f"{name} attribute"
    for what, name in (("query", "query"), ("equal", "compare"))
    for attribute in ("size", "color", "material", "shape")
}


def clevr(questions: Path, pictures: Path, *, skip_bad: bool = False) -> Questions:
    """CLEVR v1.0 (Johnson et al., CVPR 2017).

    The question type is one of the five of the paper's tables (count, exist, compare numbers, query attribute, compare
    attribute), by the last function of the program. The test's questions come without answers and programs.

    Args:
        questions: such as `CLEVR_v1.0/questions/CLEVR_val_questions.json`.
        pictures: the folder `images`, or its `val`.
        skip_bad: leave out questions that cannot be used.

    Raises:
        UserError: as `vqa`.
    """
    gathered = Gathering(str(questions), skip_bad)
    for at, row in enumerate(_object(questions, "questions")["questions"]):
        with gathered.row(_named(row, "question_index", at)):
            file = value_of(row, "image_filename", str)
            last = (row.get("program") or [{}])[-1]
            # Files of CLEVR v1.0 call it function, those of the published generator type.
            name = last.get("function", last.get("type")) if isinstance(last, dict) else None
            gathered.add(
                Question(
                    image=gathered.picture(pictures / str(row.get("split", "")) / file, pictures / file),
                    question=value_of(row, "question", str),
                    answers=(value_of(row, "answer", str),) if "answer" in row else (),
                    question_type=None if name is None else _clevr_types.get(name, name),
                    question_id=row.get("question_index", at),
                    image_id=row.get("image_index", file),
                )
            )
    return gathered.done()


def visual_genome(questions: Path, image_data: Path, pictures: Path, *, skip_bad: bool = False) -> Questions:
    """The questions of Visual Genome (Krishna et al., IJCV 2017). Its answers are sentences, as “Green.”.

    The question type is the first word, of which the paper has six: what, where, when, who, why and how.

    Args:
        questions: `question_answers.json`.
        image_data: `image_data.json`, which says in which folder each picture is.
        pictures: the folder of `VG_100K` and `VG_100K_2`, or one that holds all the pictures.
        skip_bad: leave out questions that cannot be used.

    Raises:
        UserError: as `vqa`.
    """
    # Version 1.0 says `id` where later ones say `image_id`.
    urls = {one.get("image_id", one.get("id")): one.get("url") for one in _list(image_data) if isinstance(one, dict)}
    gathered = Gathering(str(questions), skip_bad)
    for at, entry in enumerate(_list(questions)):
        rows = entry.get("qas") if isinstance(entry, dict) else None
        if not isinstance(rows, list):
            with gathered.row(f"entry {at}"):
                raise BadRow("it has no list 'qas'")
            continue
        for number, row in enumerate(rows):
            with gathered.row(_named(row, "qa_id", number) + f" of entry {at}"):
                image = entry.get("id", entry.get("image_id", row.get("image_id") if isinstance(row, dict) else None))
                if not isinstance(url := urls.get(image), str):
                    raise BadRow(f"{image_data} has no picture {image}")
                path = Path(urlparse(url).path)
                asked = value_of(row, "question", str)
                gathered.add(
                    Question(
                        image=gathered.picture(pictures / path.parent.name / path.name, pictures / path.name),
                        question=asked,
                        answers=(value_of(row, "answer", str),),
                        question_type=next(iter(tokenize(asked)), None),
                        question_id=row.get("qa_id"),
                        image_id=image,
                    )
                )
    return gathered.done()


def textvqa(questions: Path, pictures: Path, read: Path | None = None, *, skip_bad: bool = False) -> Questions:
    """TextVQA (Singh et al., CVPR 2019): ten answers, and the words in the picture as answers of its own.

    Args:
        questions: such as `TextVQA_0.5.1_val.json`.
        pictures: the folder `train_images` (of training and validation) or `test_images`.
        read: what was read in the pictures, such as `TextVQA_Rosetta_OCR_v0.2_val.json`; without it, the `ocr_tokens`
            of the questions where they have them.
        skip_bad: leave out questions that cannot be used.

    Raises:
        UserError: as `vqa`.
    """
    words: dict[object, Any] = {}
    if read is not None:
        seen = _object(read, "data")["data"]
        words = {one.get("image_id"): one.get("ocr_tokens") for one in seen if isinstance(one, dict)}
    gathered = Gathering(str(questions), skip_bad)
    for at, row in enumerate(_object(questions, "data")["data"]):
        with gathered.row(_named(row, "question_id", at)):
            image = value_of(row, "image_id", str)
            if read is not None and image not in words:
                raise BadRow(f"{read} has nothing on picture {image}")
            tokens = words[image] if read is not None else row.get("ocr_tokens")
            gathered.add(
                Question(
                    image=gathered.picture(pictures / f"{image}.jpg"),
                    question=value_of(row, "question", str),
                    answers=tuple(map(str, value_of(row, "answers", list))) if "answers" in row else (),
                    question_id=value_of(row, "question_id", _identifier),
                    image_id=image,
                    # Each word once, in the order of reading.
                    extra_answers=tuple(dict.fromkeys(map(str, tokens or ()))),
                )
            )
    return gathered.done()


def _coco(pictures: Path, kind: str, subset: str, image: int) -> tuple[Path, ...]:
    """Where the picture of this number may be."""
    # The questions of test-dev2015 are about some of the pictures of test2015.
    part = subset.replace("test-dev", "test")
    name = f"COCO_{part}_{image:012d}.jpg" if kind == "mscoco" else f"{kind}_{part}_{image:012d}.png"
    return pictures / name, pictures / part / name, pictures / f"{image:012d}.jpg"


# `Any`: what stands in a JSON file.
def _ten(annotation: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(value_of(one, "answer", str) for one in value_of(annotation, "answers", list))


def _named(row: Any, identifier: str, at: int) -> str:
    number = row.get(identifier) if isinstance(row, dict) else None
    return f"question {number}" if number is not None else f"row {at}"


def _object(path: Path, rows: str | None = None) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict) or (rows is not None and not isinstance(value.get(rows), list)):
        wanted = "an object" if rows is None else f"an object with a list {rows!r}"
        raise UserError(f"{path} holds {_shape(value)}: expected {wanted}; check that it is the file that was meant")
    return value


def _list(path: Path) -> list[Any]:
    value = _json(path)
    if not isinstance(value, list):
        raise UserError(f"{path} holds {_shape(value)}: expected a list; check that it is the file that was meant")
    return value


def _json(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: expected questions or answers in JSON; check the path") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is broken JSON in line {error.lineno}, column {error.colno} ({error.msg}): expected a whole file; "
            "unpack or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: expected JSON; unpack it first if it is an archive") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected a JSON file; check the path") from error


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(map(repr, list(value)[:5])) or 'nothing in it'}"
    return f"a list of {len(value)}" if isinstance(value, list) else f"the value {str(value)[:40]!r}"
