"""The files of a data set, whichever its format: recognised, read, and answered as its evaluation server takes it."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from regard.errors import UserError
from regard.tasks.vqa.formats import clevr, gqa, textvqa, visual_genome, vqa
from regard.tasks.vqa.predictions import write_clevr, write_gqa, write_table, write_vqa
from regard.tasks.vqa.question import Identifier, Question, Questions
from regard.tasks.vqa.tables import COLUMNS, comma_separated

_head = 1 << 20  # characters: the rows' names stand in the first of them, behind a licence at most
_key = re.compile(r'"(\w+)"\s*:')

MARKS: Mapping[str, frozenset[str]] = {
    "CLEVR": frozenset({"questions", "image_filename"}),
    "GQA": frozenset({"imageId", "question"}),
    "Visual Genome": frozenset({"qas"}),
    "TextVQA": frozenset({"data", "question", "image_id"}),
    "VQA": frozenset({"questions", "image_id"}),
}
"""The names in a JSON file that tell its format, the first that fits."""


@dataclass(frozen=True)
class Source:
    """Where questions and their pictures are.

    Args:
        questions: a CSV file (see `tables.comma_separated`) or the JSON file of VQA, GQA, CLEVR, Visual Genome or
            TextVQA; of GQA also a folder of them.
        pictures: the folder of the pictures.
        annotations: of VQA and data sets in its format, the file of the answers; without it they are not known.
        image_data: of Visual Genome, `image_data.json`.
        words: of TextVQA, the file of the words that were read in the pictures.
    """

    questions: Path
    pictures: Path
    annotations: Path | None = None
    image_data: Path | None = None
    words: Path | None = None

    @cached_property
    def format(self) -> str:
        """One of `MARKS`, or “table”.

        Raises:
            UserError: the file is missing, or of none of these formats.
        """
        if self.questions.is_dir():
            return "GQA"
        if self.questions.suffix.lower() != ".json":
            return "table"
        names = set(_key.findall(_beginning(self.questions)))
        for name, marks in MARKS.items():
            if marks <= names:
                return name
        found = ", ".join(map(repr, sorted(names)[:8])) or "no names"
        raise UserError(
            f"{self.questions} holds {found}: expected the questions of {', '.join(MARKS)}, or a CSV file; check that "
            "it is the file of the questions and not that of the answers"
        )

    def read(self, *, skip_bad: bool = False) -> Questions:
        """The questions, with their answers where these are known.

        Args:
            skip_bad: leave out rows that cannot be used.

        Raises:
            UserError: a file is missing, superfluous or not of its format, or rows cannot be used and are not to be
                skipped.
        """
        if not self.pictures.is_dir():
            raise UserError(f"there is no folder {self.pictures}: expected that of the pictures; check the path")
        self._refuse("--annotations ", self.annotations, "VQA")
        self._refuse("--image-data ", self.image_data, "Visual Genome")
        self._refuse("words=", self.words, "TextVQA")
        match self.format:
            case "VQA":
                return vqa(self.questions, self.pictures, self.annotations, skip_bad=skip_bad)
            case "GQA":
                return gqa(self.questions, self.pictures, skip_bad=skip_bad)
            case "CLEVR":
                return clevr(self.questions, self.pictures, skip_bad=skip_bad)
            case "TextVQA":
                return textvqa(self.questions, self.pictures, self.words, skip_bad=skip_bad)
            case "Visual Genome":
                if self.image_data is None:
                    raise UserError(
                        f"{self.questions} is Visual Genome's, which names its pictures in another file: give "
                        "--image-data image_data.json"
                    )
                return visual_genome(self.questions, self.image_data, self.pictures, skip_bad=skip_bad)
        return comma_separated(self.questions, self.pictures, answered=self._answered, skip_bad=skip_bad)

    def write(self, path: Path, answers: Sequence[str], questions: Sequence[Question]) -> None:
        """Answers as the data set's evaluation server or script takes them; to a table, a table.

        Args:
            path: the file; what stands there is replaced once all is written.
            answers: one for each question, in their order.
            questions: those that are answered.

        Raises:
            UserError: as `predictions.write_vqa`.
        """
        if self.format == "table":
            return write_table(path, answers, questions)
        pairs = [(cast(Identifier, one.question_id), answer) for one, answer in zip(questions, answers, strict=True)]
        return {"GQA": write_gqa, "CLEVR": write_clevr}.get(self.format, write_vqa)(path, pairs, questions)

    def as_json(self) -> dict[str, str | None]:
        """The paths, whole, as settings hold them."""
        return {name: None if path is None else str(path.resolve()) for name, path in asdict(self).items()}

    @classmethod
    def from_json(cls, paths: Mapping[str, str | None]) -> "Source":
        """The inverse of `as_json`."""
        found: dict[str, Any] = {name: None if path is None else Path(path) for name, path in paths.items()}
        return cls(**found)

    @property
    def _answered(self) -> bool:
        """Whether a table has a column of answers."""
        header = next(csv.reader([_beginning(self.questions).partition("\n")[0].replace(";", ",").replace("\t", ",")]))
        return any(name.strip() in COLUMNS["answers"] for name in header)

    def _refuse(self, said: str, path: Path | None, owner: str) -> None:
        if path is not None and self.format != owner:
            raise UserError(
                f"{said}{path} belongs to {owner}, and {self.questions} is a file of {self.format}: leave it out"
            )


def _beginning(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return file.read(_head)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: expected questions in CSV or JSON; check the path") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected questions; check the path") from error
