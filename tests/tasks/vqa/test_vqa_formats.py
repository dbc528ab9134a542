"""The field's files, written here in their official formats, read back; and what is said where they are wrong."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regard.errors import UserError
from regard.tasks.vqa import Question, Questions, clevr, gqa, question, textvqa, visual_genome, vqa


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (11, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


COLOURS = ["red"] * 7 + ["dark red"] * 2 + ["brown"]


def questions_of_vqa(**changes: Any) -> dict[str, Any]:
    return {
        "info": {"version": "2.0"},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "license": {},
        "questions": [
            {"image_id": 42, "question": "What color is it?", "question_id": 42000},
            {"image_id": 42, "question": "How many are there?", "question_id": 42001},
            {"image_id": 73, "question": "Is it open?", "question_id": 73000},
        ],
        **changes,
    }


def annotation(number: int, kind: str, begins: str, answers: list[str]) -> dict[str, Any]:
    return {
        "question_id": number,
        "image_id": number // 1000,
        "question_type": begins,
        "answer_type": kind,
        "multiple_choice_answer": answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": at} for at, answer in enumerate(answers, 1)
        ],
    }


def annotations_of_vqa() -> dict[str, Any]:
    return {
        "info": {},
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "license": {},
        # In another order than the questions.
        "annotations": [
            annotation(73000, "yes/no", "is it", ["no"] * 10),
            annotation(42000, "other", "what color is", COLOURS),
            annotation(42001, "number", "how many", ["2"] * 5 + ["3"] * 5),
        ],
    }


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """VQA v2 in small: `questions.json`, `annotations.json` and the folder `val2014`."""
    written(tmp_path / "questions.json", questions_of_vqa())
    written(tmp_path / "annotations.json", annotations_of_vqa())
    for number, colour in ((42, "red"), (73, "blue")):
        picture(tmp_path / "val2014" / f"COCO_val2014_{number:012d}.jpg", colour)
    return tmp_path


def read(folder: Path, **named: Any) -> Questions:
    return vqa(
        folder / "questions.json",
        folder / named.pop("pictures", "val2014"),
        folder / "annotations.json",
        **named,
    )


def test_vqa_joins_questions_and_annotations_by_number(val: Path) -> None:
    first, second, third = read(val)
    assert first == Question(
        image=val / "val2014" / "COCO_val2014_000000000042.jpg",
        question="What color is it?",
        answers=tuple(COLOURS),
        question_type="what color is",
        answer_type="other",
        question_id=42000,
        image_id=42,
        consensus="red",
    )
    assert (second.answers, second.answer_type) == (("2",) * 5 + ("3",) * 5, "number")
    assert (third.question_id, third.answers, third.image_id) == (73000, ("no",) * 10, 73)


def test_vqa_finds_pictures_above_their_folder_and_by_the_names_of_2017(val: Path) -> None:
    assert [one.image for one in read(val, pictures=".")] == [one.image for one in read(val)]
    for number in (42, 73):
        picture(val / "train2017" / f"{number:012d}.jpg")
    assert read(val, pictures="train2017")[2].image == val / "train2017" / "000000000073.jpg"


def test_vqa_reads_questions_without_answers_and_the_pictures_of_test_dev(tmp_path: Path) -> None:
    asked = written(tmp_path / "q.json", questions_of_vqa(data_subtype="test-dev2015"))
    for number in (42, 73):
        picture(tmp_path / f"COCO_test2015_{number:012d}.jpg")
    first = vqa(asked, tmp_path)[0]
    assert isinstance(first.image, Path)
    assert (first.answers, first.consensus, first.image.name) == ((), None, "COCO_test2015_000000000042.jpg")


def test_vqa_reads_abstract_scenes(tmp_path: Path) -> None:
    kind = {"data_type": "abstract_v002", "data_subtype": "train2015"}
    asked = written(tmp_path / "q.json", questions_of_vqa(**kind))
    for number in (42, 73):
        picture(tmp_path / f"abstract_v002_train2015_{number:012d}.png")
    assert vqa(asked, tmp_path)[2].image == tmp_path / "abstract_v002_train2015_000000000073.png"


def change(folder: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / file
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


Spoil = Callable[[Path], object]
BAD: dict[str, tuple[Spoil, list[str]]] = {
    "no file": (lambda f: (f / "questions.json").unlink(), ["there is no file", "questions.json", "check the path"]),
    "broken": (
        lambda f: (f / "questions.json").write_text('{"questions":\n [{"image_id": 4'),
        ["questions.json is broken JSON in line 2, column 17", "download it again"],
    ),
    "archive": (lambda f: (f / "questions.json").write_bytes(b"PK\x03\x04\xff\xfe"), ["not text in UTF-8", "unpack"]),
    "folder": (
        lambda f: ((f / "questions.json").unlink(), (f / "questions.json").mkdir()),
        ["cannot be read (Is a directory)"],
    ),
    "swapped": (
        lambda f: (f / "questions.json").write_text((f / "annotations.json").read_text()),
        ["holds an object with 'info'", "expected an object with a list 'questions'"],
    ),
    "list": (lambda f: (f / "questions.json").write_text("[3, 5]"), ["holds a list of 2: expected an object"]),
    "empty": (lambda f: change(f, "questions.json", lambda v: v["questions"].clear()), ["holds no questions"]),
    "other part": (
        lambda f: change(f, "annotations.json", lambda v: v.update(data_subtype="train2014")),
        ["asks about val2014", "answers for train2014", "belongs together"],
    ),
    "no picture": (
        lambda f: (f / "val2014" / "COCO_val2014_000000000042.jpg").unlink(),
        [
            "2 of 3 questions in",
            "question 42000: there is no picture",
            "val2014/COCO_val2014_000000000042.jpg",
            "; question 42001",
            "skip_bad=True, at the command line --skip-bad",
        ],
    ),
    "no annotation": (
        lambda f: change(f, "annotations.json", lambda v: v["annotations"].pop(0)),
        ["1 of 3 questions", "question 73000: no annotation in", "annotations.json"],
    ),
    "other picture": (
        lambda f: change(f, "annotations.json", lambda v: v["annotations"][0].update(image_id=5)),
        ["question 73000: it is about picture 73, its annotation about 5"],
    ),
    "no question": (
        lambda f: change(f, "questions.json", lambda v: v["questions"][1].pop("question")),
        ["question 42001: it has no 'question', only 'image_id', 'question_id'"],
    ),
    "empty question": (
        lambda f: change(f, "questions.json", lambda v: v["questions"][1].update(question="  ")),
        ["question 42001: its question is empty"],
    ),
    "number": (
        lambda f: change(f, "questions.json", lambda v: v["questions"][1].update(question=7)),
        ["question 42001: its 'question' is '7': expected str"],
    ),
    "no object": (
        lambda f: change(f, "questions.json", lambda v: v["questions"].__setitem__(1, "what?")),
        ["row 1: expected an object, not 'what?'"],
    ),
    "twice": (
        lambda f: change(f, "questions.json", lambda v: v["questions"].append(v["questions"][2])),
        ["1 of 4 questions", "question 73000: the same question_id stands above"],
    ),
    "many": (
        lambda f: change(f, "questions.json", lambda v: [v["questions"].append({"question_id": n}) for n in range(5)]),
        ["5 of 8 questions", "question 2: ", "; and 2 more"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_by_file_and_question(val: Path, name: str) -> None:
    spoil, words = BAD[name]
    spoil(val)
    with pytest.raises(UserError) as caught:
        read(val)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_rows_are_left_out_and_listed_when_asked(val: Path) -> None:
    (val / "val2014" / "COCO_val2014_000000000042.jpg").unlink()
    left = read(val, skip_bad=True)
    assert [one.question_id for one in left] == [73000]
    assert [one.where for one in left.skipped] == ["question 42000", "question 42001"]
    assert "there is no picture" in left.skipped[0].reason


def test_nothing_left_is_refused_even_when_bad_rows_may_be_left_out(val: Path) -> None:
    for path in (val / "val2014").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"3 of 3 questions.*correct them$"):
        read(val, skip_bad=True)


def gqa_question(image: str, structural: str = "query", **changes: Any) -> dict[str, Any]:
    return {
        "semantic": [],
        "entailed": [],
        "equivalent": [],
        "question": "What is on the wall?",
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": "furniture", "local": "10c-wall_pipe"},
        "answer": "pipe",
        "types": {"detailed": "existRelS", "semantic": "rel", "structural": structural},
        "fullAnswer": "The pipe is on the wall.",
        **changes,
    }


def test_gqa_reads_a_file_and_keeps_numbers_as_texts(tmp_path: Path) -> None:
    file = written(
        tmp_path / "val_balanced_questions.json",
        {"07333408": gqa_question("2375429"), "11": gqa_question("n161313", "verify", answer="yes")},
    )
    for image in ("2375429", "n161313"):
        picture(tmp_path / "images" / f"{image}.jpg")
    first, second = gqa(file, tmp_path / "images")
    assert first == Question(
        image=tmp_path / "images" / "2375429.jpg",
        question="What is on the wall?",
        answers=("pipe",),
        question_type="query",
        answer_type="open",
        question_id="07333408",
        image_id="2375429",
    )
    assert (second.answer_type, second.answers, second.image_id) == ("binary", ("yes",), "n161313")


def test_gqa_reads_a_folder_of_parts_and_its_balanced_questions_alone(tmp_path: Path) -> None:
    folder = tmp_path / "train_all_questions"
    written(folder / "train_all_questions_1.json", {"2": gqa_question("5", isBalanced=False)})
    # What is not balanced is not asked for its picture either.
    written(folder / "train_all_questions_0.json", {"1": gqa_question("5"), "3": gqa_question("7", isBalanced=False)})
    picture(tmp_path / "5.jpg")
    assert [one.question_id for one in gqa(folder, tmp_path, balanced=True)] == ["1"]
    assert [one.question_id for one in gqa(folder, tmp_path, skip_bad=True)] == ["1", "2"]
    with pytest.raises(UserError, match=r"train_all_questions_1\.json cannot be used: question 3: there is no picture"):
        gqa(folder, tmp_path)


def test_gqa_reads_questions_without_answers(tmp_path: Path) -> None:
    asked = {"question": "Is it red?", "imageId": "n5", "isBalanced": True}
    picture(tmp_path / "n5.jpg")
    (only,) = gqa(written(tmp_path / "submission.json", {"201971873": asked}), tmp_path)
    assert (only.answers, only.question_type, only.answer_type) == ((), None, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no JSON files"):
        gqa(tmp_path / "empty", tmp_path)


def clevr_question(at: int, last: str, key: str = "function") -> dict[str, Any]:
    return {
        "split": "val",
        "image_filename": "CLEVR_val_000003.png",
        "image_index": 3,
        "question_index": at,
        "question_family_index": 39,
        "question": "Are there more spheres than cubes?",
        "answer": "yes",
        "program": [{"inputs": [], key: "scene", "value_inputs": []}, {"inputs": [0], key: last, "value_inputs": []}],
    }


def test_clevr_types_are_the_five_of_the_paper(tmp_path: Path) -> None:
    last = ["count", "exist", "less_than", "equal_integer", "query_color", "equal_shape", "greater_than", "query_size"]
    rows = [clevr_question(at, name, "function" if at % 2 else "type") for at, name in enumerate(last)]
    file = written(tmp_path / "questions" / "CLEVR_val_questions.json", {"info": {}, "questions": rows})
    image = picture(tmp_path / "images" / "val" / "CLEVR_val_000003.png")
    read_back = clevr(file, tmp_path / "images")
    assert [one.question_type for one in read_back] == [
        "count",
        "exist",
        "compare numbers",
        "compare numbers",
        "query attribute",
        "compare attribute",
        "compare numbers",
        "query attribute",
    ]
    assert read_back[5] == Question(
        image=image,
        question="Are there more spheres than cubes?",
        answers=("yes",),
        question_type="compare attribute",
        question_id=5,
        image_id=3,
    )
    assert [one.image for one in clevr(file, tmp_path / "images" / "val")] == [image] * 8


def test_clevr_reads_the_test_without_answers_and_programs(tmp_path: Path) -> None:
    row = {"split": "test", "image_filename": "CLEVR_test_000000.png", "question": "What size is it?"}
    picture(tmp_path / "CLEVR_test_000000.png")
    (only,) = clevr(written(tmp_path / "q.json", {"questions": [row]}), tmp_path)
    assert (only.answers, only.question_type, only.question_id) == ((), None, 0)


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    written(
        tmp_path / "question_answers.json",
        [
            {
                "id": 1,
                "qas": [
                    {
                        "a_objects": [],
                        "q_objects": [],
                        "question": "What color is the clock?",
                        "answer": "Green.",
                        "image_id": 1,
                        "qa_id": 986768,
                    },
                    {"question": "Who is there?", "answer": "A man.", "image_id": 1, "qa_id": 986769},
                ],
            },
            {"id": 2, "qas": [{"question": "Why?", "answer": "Rain.", "image_id": 2, "qa_id": 986770}]},
        ],
    )
    written(
        tmp_path / "image_data.json",
        [
            {"image_id": 1, "url": "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg", "width": 11, "height": 7},
            {"id": 2, "url": "https://cs.stanford.edu/people/rak248/VG_100K/2.jpg", "coco_id": None},
        ],
    )
    picture(tmp_path / "VG_100K_2" / "1.jpg")
    picture(tmp_path / "VG_100K" / "2.jpg")
    return tmp_path


def test_visual_genome_finds_pictures_by_their_addresses(genome: Path) -> None:
    read_back = visual_genome(genome / "question_answers.json", genome / "image_data.json", genome)
    assert read_back[0] == Question(
        image=genome / "VG_100K_2" / "1.jpg",
        question="What color is the clock?",
        answers=("Green.",),
        question_type="what",
        question_id=986768,
        image_id=1,
    )
    assert [one.question_type for one in read_back] == ["what", "who", "why"]
    assert read_back[2].image == genome / "VG_100K" / "2.jpg"


def test_visual_genome_names_what_is_wrong(genome: Path) -> None:
    written(genome / "image_data.json", json.loads((genome / "image_data.json").read_text())[:1])
    written(genome / "question_answers.json", [*json.loads((genome / "question_answers.json").read_text()), {"id": 3}])
    with pytest.raises(UserError) as caught:
        visual_genome(genome / "question_answers.json", genome / "image_data.json", genome)
    assert "2 of 4 questions" in str(caught.value)
    assert "question 986770 of entry 1: " in str(caught.value)
    assert "image_data.json has no picture 2; entry 2: it has no list 'qas'" in str(caught.value)
    with pytest.raises(UserError, match=r"holds an object with 'id': expected a list"):
        visual_genome(written(genome / "q.json", {"id": 1}), genome / "image_data.json", genome)


def test_textvqa_offers_the_words_in_the_picture_as_answers(tmp_path: Path) -> None:
    row = {
        "question": "what is the brand?",
        "image_id": "0054c91397f2fe05",
        "image_classes": ["Camera"],
        "question_tokens": ["what", "is", "the", "brand"],
        "answers": ["nous les gosses"] * 8 + ["gosses"] * 2,
        "question_id": 7,
        "set_name": "train",
    }
    image = picture(tmp_path / "train_images" / "0054c91397f2fe05.jpg")
    asked = written(tmp_path / "TextVQA_0.5.1_train.json", {"dataset_type": "train", "data": [row]})
    rosetta = written(
        tmp_path / "ocr.json",
        {"data": [{"image_id": "0054c91397f2fe05", "ocr_tokens": ["nous", "LES", "nous"], "ocr_info": []}]},
    )
    (only,) = textvqa(asked, tmp_path / "train_images", rosetta)
    assert only == Question(
        image=image,
        question="what is the brand?",
        answers=tuple(row["answers"]),
        question_id=7,
        image_id="0054c91397f2fe05",
        extra_answers=("nous", "LES"),
    )
    assert textvqa(asked, tmp_path / "train_images")[0].extra_answers == ()
    own = written(tmp_path / "own.json", {"data": [row | {"ocr_tokens": ["ici"]}]})
    assert textvqa(own, tmp_path / "train_images")[0].extra_answers == ("ici",)
    with pytest.raises(UserError, match=r"question 7: .*none\.json has nothing on picture 0054c91397f2fe05"):
        textvqa(asked, tmp_path / "train_images", written(tmp_path / "none.json", {"data": []}))


def test_a_picture_is_decoded_when_it_is_wanted_and_once_for_all_its_questions(
    val: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    real = question.decode
    monkeypatch.setattr(question, "decode", lambda path, shorter: decoded.append(path) or real(path, shorter))
    questions = read(val)
    assert not decoded
    first = questions.picture(0, shorter=5)
    assert (first.mode, first.size) == ("RGB", (8, 5))
    assert np.abs(np.asarray(first, int) - (254, 0, 0)).max() < 3
    assert questions.picture(1, shorter=5) is first
    assert questions[1:].picture(0, shorter=5) is first
    assert questions.select([2, 0]).picture(1, shorter=5) is first
    assert [path.name for path in decoded] == ["COCO_val2014_000000000042.jpg"]
    assert min(questions.picture(0, shorter=3).size) == 3
    assert len(decoded) == 2


def test_pictures_beyond_what_may_be_kept_are_decoded_again(val: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = read(val)
    monkeypatch.setattr(questions._kept, "room", 4 * 11 * 7)
    kept, other = questions.picture(0, shorter=7), questions.picture(2, shorter=7)
    assert questions.picture(0, shorter=7) is kept
    assert questions.picture(2, shorter=7) is not other


def test_questions_go_to_other_processes_without_decoded_pictures(val: Path) -> None:
    questions = read(val)
    before = len(pickle.dumps(questions))
    questions.check(7)
    assert len(pickle.dumps(questions)) == before
    copy = pickle.loads(pickle.dumps(questions))
    assert list(copy) == list(questions)
    assert copy.picture(0, 7).size == questions.picture(0, 7).size


def test_parts_keep_their_order_and_their_questions(val: Path) -> None:
    questions = read(val)
    assert [one.question_id for one in questions[::-2]] == [73000, 42000]
    assert [one.question_id for one in questions.select([2, 0])] == [73000, 42000]
    assert len(questions[1:]) == 2


def test_a_broken_picture_is_found_by_a_check_and_left_out_when_asked(val: Path) -> None:
    path = val / "val2014" / "COCO_val2014_000000000042.jpg"
    path.write_bytes(path.read_bytes()[:200])
    questions = read(val)
    with pytest.raises(UserError, match=r"question 42001 of .*: the picture .*042\.jpg cannot be read .*skip_bad=True"):
        questions.picture(1, shorter=5)
    with pytest.raises(UserError, match=r"2 of 3 questions .*: question 42000: its picture .*042\.jpg cannot be read"):
        questions.check(5)
    left = questions.check(5, skip_bad=True)
    assert [one.question_id for one in left] == [73000]
    assert [one.where for one in left.skipped] == ["question 42000", "question 42001"]
    assert left.picture(0, 5) is questions.picture(2, 5)
    assert left.check(5) is left


@pytest.mark.parametrize(("content", "reason"), [(b"", "not a picture"), (b"hello", "not a picture")])
def test_the_reason_of_a_broken_picture_is_short(val: Path, content: bytes, reason: str) -> None:
    (val / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot be read: {reason}"):
        read(val).check(5)


def test_pictures_in_memory_are_turned_upright_and_laid_on_white() -> None:
    clear = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    deep = Image.fromarray(np.full((4, 6), 32768, np.uint16))
    turned = Image.new("RGB", (6, 4))
    turned.getexif()[0x0112] = 6
    questions = Questions([Question(one, "what ?") for one in (clear, deep, turned)], "memory")
    assert questions.picture(0, 9).getpixel((0, 0)) == (255, 255, 255)
    assert questions.picture(1, 9).getpixel((0, 0)) == (128, 128, 128)
    assert questions.picture(2, 9).size == (4, 6)
    assert questions.picture(2, 2).size == (2, 3)
