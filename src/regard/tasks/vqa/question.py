"""One question about one picture, and a set of them whose pictures are decoded when they are wanted."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, overload

from PIL import Image, UnidentifiedImageError

from regard.errors import GO_ON_WITHOUT, UserError, in_one_line
from regard.models.decoding import KEPT_BYTES, WORKERS, decode

Identifier = int | str
"""Of a question or a picture, as the data set writes it."""

Picture = Path | Image.Image | Callable[[], Image.Image]
"""A file, a picture in memory, or what gives one when it is called."""


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        image: the picture, not decoded yet where it is a file.
        question: as it was asked.
        answers: what people answered: ten in VQA, one in GQA and CLEVR, none where the data set keeps them secret.
        question_type: how it begins (VQA) or what it asks for (GQA, CLEVR).
        answer_type: such as “yes/no”, “number” and “other” in VQA.
        question_id: what the evaluation server calls it.
        image_id: the same for several questions about one picture.
        consensus: the one answer that the data set names as the people's: `multiple_choice_answer` in VQA.
        extra_answers: answers that this picture alone offers, such as the words that were read in it (TextVQA).
    """

    image: Picture
    question: str
    answers: tuple[str, ...] = ()
    question_type: str | None = None
    answer_type: str | None = None
    question_id: Identifier | None = None
    image_id: Identifier | None = None
    consensus: str | None = None
    extra_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """What was left out, and why."""

    where: str
    reason: str


class Questions(Sequence[Question]):
    """Questions in order; their pictures are decoded when they are wanted, each once while there is room.

    Attributes:
        source: the file that they were read from, for messages.
        skipped: what was left out because it cannot be used.
    """

    def __init__(self, questions: Iterable[Question], source: str, skipped: Iterable[Skipped] = ()) -> None:
        self.source = source
        self.skipped = tuple(skipped)
        self._questions = tuple(questions)
        self._kept = _Kept()

    def __len__(self) -> int:
        return len(self._questions)

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> "Questions": ...

    def __getitem__(self, index: int | slice) -> "Question | Questions":
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return self._questions[index]

    def __iter__(self) -> Iterator[Question]:
        return iter(self._questions)

    def select(self, indices: Iterable[int]) -> "Questions":
        """Some of the questions, such as those for training; pictures that are decoded already are shared."""
        part = Questions((self._questions[index] for index in indices), self.source, self.skipped)
        part._kept = self._kept
        return part

    def identity(self, index: int) -> object:
        """The same for questions about one picture, and for no others: a file's path, where it is a file."""
        return _key(self._questions[index])

    def picture(self, index: int, shorter: int) -> Image.Image:
        """The picture of a question, upright, in RGB, at most `shorter` pixels on its shorter side.

        Several questions about one picture share it. Decoded pictures are kept up to 1 GiB in all.

        Raises:
            UserError: it cannot be decoded.
        """
        question = self._questions[index]
        key = (_key(question), shorter)
        if (kept := self._kept.pictures.get(key)) is not None:
            return kept
        try:
            picture = _decoded(question.image, shorter)
        except Exception as error:  # whatever a decoder stumbles over in a broken file
            raise UserError(
                f"{_name(question, index)} of {self.source}: the picture{_file(question)} cannot be read "
                f"({_reason(error)}): expected one that decodes to the end; repair it, or leave such questions out "
                "with check(skip_bad=True), at the command line --skip-bad"
            ) from error
        size = 4 * picture.width * picture.height  # Pillow takes 4 bytes for a pixel
        if self._kept.room >= size:
            self._kept.room -= size
            self._kept.pictures[key] = picture
        return picture

    def check(self, shorter: int, *, skip_bad: bool = False) -> "Questions":
        """Decode every picture once: a bad one is found now and not in the middle of training.

        Args:
            shorter: as `picture` takes it; what is decoded now need not be decoded then.
            skip_bad: leave out the questions about such pictures.

        Returns:
            These questions, or those that are left.

        Raises:
            UserError: a picture cannot be decoded and `skip_bad` is not given, or none can.
        """
        first = {_key(question): index for index, question in reversed(list(enumerate(self._questions)))}
        with ThreadPoolExecutor(WORKERS) as pool:
            outcomes = pool.map(lambda index: self._trouble(index, shorter), first.values())
            bad = {key: reason for key, reason in zip(first, outcomes, strict=True) if reason is not None}
        if not bad:
            return self
        gathered = Gathering(self.source, skip_bad)
        for index, question in enumerate(self._questions):
            with gathered.row(_name(question, index)):
                if (reason := bad.get(_key(question))) is not None:
                    raise BadRow(f"its picture{_file(question)} cannot be read: {reason}")
                gathered.questions.append(question)
        left = gathered.done(self.skipped)
        left._kept = self._kept
        return left

    def _trouble(self, index: int, shorter: int) -> str | None:
        try:
            self.picture(index, shorter)
        except UserError as error:
            return _reason(error.__cause__ or error)
        return None


@dataclass
class _Kept:
    """Decoded pictures, by what they are and how large, and how many more bytes may be kept."""

    pictures: dict[tuple[object, int], Image.Image] = field(default_factory=dict)
    room: int = KEPT_BYTES

    def __reduce__(self) -> tuple[type["_Kept"], tuple[()]]:
        """Other processes, as those of a data loader, decode for themselves what they need."""
        return _Kept, ()


class BadRow(Exception):
    """A row of a data set that cannot be used; the message says why."""


class Gathering:
    """Collects the questions of a data set, and the rows that cannot be used.

    Attributes:
        questions: what was collected so far.
    """

    def __init__(self, source: str, skip_bad: bool) -> None:
        self.questions: list[Question] = []
        self._source = source
        self._skip_bad = skip_bad
        self._bad: list[Skipped] = []
        self._rows = 0
        self._known: set[Identifier] = set()
        self._exists: dict[Path, bool] = {}

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Read one row; where that raises a `BadRow`, note it and go on."""
        self._rows += 1
        try:
            yield
        except BadRow as error:
            self._bad.append(Skipped(name, str(error)))

    def add(self, question: Question) -> None:
        """Take one question.

        Raises:
            BadRow: it asks nothing, or has the number of another.
        """
        if not question.question.strip():
            raise BadRow("its question is empty")
        if question.question_id is not None:
            if question.question_id in self._known:
                raise BadRow("the same question_id stands above")
            self._known.add(question.question_id)
        self.questions.append(question)

    def picture(self, *candidates: Path) -> Path:
        """The first of these files that there is.

        Raises:
            BadRow: there is none.
        """
        for path in candidates:
            if path not in self._exists:
                self._exists[path] = path.is_file()
            if self._exists[path]:
                return path
        raise BadRow(f"there is no picture {candidates[0]}")

    def done(self, skipped: Sequence[Skipped] = ()) -> Questions:
        """All that was collected.

        Raises:
            UserError: some rows cannot be used and are not to be skipped, or none is left.
        """
        if self._bad and (not self._skip_bad or not self.questions):
            named = "; ".join(f"{one.where}: {one.reason}" for one in self._bad[:3])
            rest = f"; and {len(self._bad) - 3} more" if len(self._bad) > 3 else ""
            mend = "" if self._skip_bad else f", or {GO_ON_WITHOUT}"
            raise UserError(
                f"{len(self._bad)} of {self._rows} question{'' if self._rows == 1 else 's'} in {self._source} cannot "
                f"be used: {named}{rest}; correct them{mend}"
            )
        if not self.questions:
            raise UserError(f"{self._source} holds no questions: expected at least one; check that the file is whole")
        return Questions(self.questions, self._source, (*skipped, *self._bad))


# `Any`: what stands in a JSON file.
def value_of(row: Any, name: str, kind: type | UnionType) -> Any:
    """What a row of a JSON file holds under a name.

    Raises:
        BadRow: there is nothing under that name, or something of another kind.
    """
    if not isinstance(row, Mapping):
        raise BadRow(f"expected an object, not {str(row)[:40]!r}")
    if name not in row:
        raise BadRow(f"it has no {name!r}, only {', '.join(map(repr, row)) or 'nothing'}")
    if not isinstance(row[name], kind):
        raise BadRow(f"its {name!r} is {str(row[name])[:40]!r}: expected {getattr(kind, '__name__', str(kind))}")
    return row[name]


def _key(question: Question) -> object:
    """The same for questions about one picture."""
    if isinstance(question.image, Path):
        return question.image
    if isinstance(question.image, Image.Image) or question.image_id is None:
        return id(question.image)
    return ("image", question.image_id)


def _decoded(image: Picture, shorter: int) -> Image.Image:
    return decode(image() if callable(image) else image, shorter)


def _name(question: Question, index: int) -> str:
    return f"question {index if question.question_id is None else question.question_id}"


def _file(question: Question) -> str:
    return f" {question.image}" if isinstance(question.image, Path) else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return in_one_line(error)
