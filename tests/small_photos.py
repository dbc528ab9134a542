"""A folder of small pictures, one coloured square or disc each, and questions about them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230)}
SHAPES = ("square", "disc")
ASKED = ("what color is it?", "what shape is it?", "is it red?")

Row = tuple[str, str, str]
"""The name of a picture, a question and its answer."""


def photos(folder: Path, count: int = 13, side: int = 31) -> list[Row]:
    """Write so many pictures and `questions.csv`; gives its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, rows = Random(0), []
    for number in range(count):
        colour, shape = list(COLOURS)[number % 3], SHAPES[number % 2]
        picture = Image.new("RGB", (side, side), (draw.randrange(30),) * 3)
        left, top = draw.randrange(side - 14), draw.randrange(side - 14)
        pen = ImageDraw.Draw(picture)
        (pen.rectangle if shape == "square" else pen.ellipse)((left, top, left + 13, top + 13), COLOURS[colour])
        picture.save(folder / f"{number}.png")
        answers = (colour, shape, "yes" if colour == "red" else "no")
        rows += [(f"{number}.png", question, answer) for question, answer in zip(ASKED, answers, strict=True)]
    table(folder / "questions.csv", rows)
    return rows


def table(path: Path, rows: Sequence[Sequence[str]], header: str = "image,question,answer") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return path


def official(folder: Path, rows: Sequence[Row]) -> tuple[Path, Path]:
    """The same pictures and questions in VQA's format, ten answers each, one in ten people of another opinion."""
    pictures = sorted({name for name, _, _ in rows}, key=lambda name: int(name.partition(".")[0]))
    numbers = {name: number for number, name in enumerate(pictures, 1)}
    (folder / "train2014").mkdir(exist_ok=True)
    for name, number in numbers.items():
        with Image.open(folder / name) as picture:
            picture.save(folder / "train2014" / f"COCO_train2014_{number:012d}.jpg", quality=95)
    asked = [
        {"image_id": numbers[name], "question": question, "question_id": 10 * at + 1}
        for at, (name, question, _) in enumerate(rows)
    ]
    answered = [
        {
            "question_id": one["question_id"],
            "image_id": one["image_id"],
            "question_type": " ".join(one["question"].split()[:2]),
            "answer_type": "yes/no" if answer in ("yes", "no") else "other",
            "multiple_choice_answer": answer,
            "answers": [{"answer": answer, "answer_id": at} for at in range(9)] + [{"answer": "a cat", "answer_id": 9}],
        }
        for one, (_, _, answer) in zip(asked, rows, strict=True)
    ]
    about = {"data_type": "mscoco", "data_subtype": "train2014"}
    (folder / "asked.json").write_text(json.dumps({**about, "questions": asked}))
    (folder / "answered.json").write_text(json.dumps({**about, "annotations": answered}))
    return folder / "asked.json", folder / "answered.json"
