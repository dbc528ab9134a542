"""Which task a comparison is about, and what each takes of what was asked for."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import UserError

if TYPE_CHECKING:
    from regard.models.vqa import Recipe
    from regard.tasks.task import Task
    from regard.tasks.vqa.question import Questions
    from regard.tasks.vqa.source import Source

PICTURE_ATTENTION = ("none", "se", "eca", "cbam")

SMALL_NETWORK = {"widths": [32, 64, 128, 128], "normalization": "group", "positions": "sines"}
"""Of the convolutions that own pictures are read with where no other image encoder is asked for: 64 cells of 128."""


@dataclass(frozen=True)
class Asked:
    """What a comparison was asked for; the names are those of `compare`."""

    data: Path | None = None
    attention: tuple[str, ...] | None = None
    size: int | None = None
    batch: int = 32
    device: str = "cpu"
    backbone: str | None = None
    pretrained: bool = False
    at: str | None = None
    start: str | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    skip_bad: bool = False
    questions: "Source | None" = None
    test: "Source | None" = None
    frozen: bool = False
    question: str = "lstm"
    width: int = 512
    options: Mapping[str, Any] = field(default_factory=dict)
    glove: Path | None = None
    regions: Path | None = None
    augmentation: str | None = None
    minimum: int | None = None
    learning_rate: float | None = None
    epochs: int | None = None

    def refuse(self, whose: str, *names: str) -> None:
        """Refuse what does not belong to a task: anything but the default under these names.

        Raises:
            UserError: the first of them.
        """
        for name in names:
            if (value := getattr(self, name)) != getattr(Asked(), name):
                shown = "" if value is True or isinstance(value, Mapping) else f" {getattr(value, 'questions', value)}"
                raise UserError(f"--{name.replace('_', '-')}{shown} means nothing to {whose}: leave it out")

    def for_whole(self) -> "Asked":
        """The same for a model that sees and reads in its own way, beside others of which the rest is asked."""
        return replace(self, **{name: getattr(Asked(), name) for name in _of_parts})


@dataclass(frozen=True)
class Chosen:
    """A task, and what it made of what was asked for.

    Attributes:
        task: what is trained.
        attention: the variants.
        size: side of a picture in pixels.
        epochs: how long a variant trains unless something else is asked for.
        name: of the run, likewise.
        options: what must be the same for a run to go on, beside what all tasks have.
        others: the same task as variants take it that see and read in a way of their own, by their names.
    """

    task: "Task"
    attention: tuple[str, ...]
    size: int
    epochs: int
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    others: "Mapping[str, Task]" = field(default_factory=dict)

    def task_of(self, variant: str) -> "Task":
        """The task as a variant takes it."""
        return self.others.get(variant, self.task)


def choose(asked: Asked, folder: Callable[[str], Path]) -> Chosen:
    """The task that `data` and `questions` mean, with variants that it has.

    Args:
        asked: what was asked for.
        folder: the folder of a run, by its default name; what is too much for memory is kept in it.

    Raises:
        UserError: there is no such task or variant, or it cannot be had so.
    """
    if asked.data is None or str(asked.data) in GENERATED:
        kind = GENERATED["digit-scenes" if asked.data is None else str(asked.data)]
    else:
        kind = _pictures if asked.questions is None else _visual_questions
    if asked.epochs == 0:
        _require_pretrained(asked.attention or ())
    chosen = kind(asked, folder)
    for one in chosen.attention:
        chosen.task_of(one).check(one)
    return chosen


def _digit_scenes(asked: Asked, folder: Callable[[str], Path]) -> Chosen:
    from regard.tasks.digit_scenes import DigitScenes

    asked.refuse("digit scenes", *_of_pictures, *_of_questions, *_of_classes)
    size = 40 if asked.size is None else asked.size
    task = DigitScenes(size=size, batch=asked.batch, device=asked.device)
    # A run whose questions are others, as those of an earlier version, does not go on.
    return Chosen(task, asked.attention or task.attentions, size, 32, task.name, {"families": list(task.families)})


def _sort_of_clevr(asked: Asked, folder: Callable[[str], Path]) -> Chosen:
    from regard.tasks.sort_of_clevr import SortOfClevr
    from regard.tasks.sort_of_clevr.scenes import SIDE

    others = (name for name in _of_questions if name != "options")
    asked.refuse("sort-of-CLEVR", *_of_pictures, *others, *_of_classes)
    if asked.size not in (None, SIDE):
        raise UserError(f"--size {asked.size}: pictures of sort-of-CLEVR have {SIDE} pixels; leave it out")
    task = SortOfClevr(batch=asked.batch, device=asked.device)
    names = asked.attention or task.attentions
    if not asked.options:
        return Chosen(task, names, SIDE, 20, task.name)
    only = _only(names)
    task.check(only)
    variants = {only: replace(task.recipe(only), arguments=asked.options)}
    task = SortOfClevr(variants, batch=asked.batch, device=asked.device)
    return Chosen(task, names, SIDE, 20, task.name, {"options": dict(asked.options)})


def _pictures(asked: Asked, folder: Callable[[str], Path]) -> Chosen:
    from regard.tasks.pictures import PicturesTask

    asked.refuse("pictures in folders, a class each", *_of_questions)
    if asked.frozen and not asked.pretrained:
        raise UserError(
            "--frozen leaves the backbone as it is, and without --pretrained that has learned nothing: add "
            "--pretrained, or leave --frozen out"
        )
    data, size = _own(asked), 128 if asked.size is None else asked.size
    given = ("at", "start", "augmentation", "learning_rate", "weight_decay", "label_smoothing")
    options: dict[str, Any] = {
        "backbone": asked.backbone or "resnet18",
        "pretrained": asked.pretrained,
        "frozen": asked.frozen,
        "skip_bad": asked.skip_bad,
        **{name: getattr(asked, name) for name in given if getattr(asked, name) is not None},
    }
    task = PicturesTask(data, size=size, batch=asked.batch, device=asked.device, **options)
    options |= {
        "at": asked.at,
        "start": task.start,
        "augmentation": task.augmentation,
        "learning_rate": task.learning_rate(),
        "weight_decay": task.weight_decay,
        "label_smoothing": task.label_smoothing,
    }
    options |= {"classes": list(task.families), "contents": _contents("pictures", task.names)}
    names = tuple(dict.fromkeys(["none", *map(_catalogued, asked.attention or PICTURE_ATTENTION)]))
    return Chosen(task, names, size, 10, _called(data), options)


def _catalogued(attention: str) -> str:
    """A variant of pictures by class under the names of the catalogue, whatever it was called: `CBAM`, `SE + simam`."""
    from regard.attention.catalogue import get

    return attention if attention == "none" else "+".join(get(name.strip()).name for name in attention.split("+"))


def _visual_questions(asked: Asked, folder: Callable[[str], Path]) -> Chosen:
    from regard.models.vqa.parts import WHOLE
    from regard.tasks.vqa.task import VARIANTS, VisualQuestions

    whose = "questions about pictures"
    asked.refuse(whose, *_of_classes)
    if asked.questions is None or asked.data is None:
        raise UserError(f"{whose} need both: give a folder of pictures, and a file of questions about them")
    names = asked.attention or VARIANTS
    name = _called(asked.data)
    first = _only(names) if asked.options else next((one for one in names if one not in WHOLE), names[0])
    whole = [one for one in names if one in WHOLE and one != first]
    if whole:
        _require_checkpoints(asked.question, names)
    kinds = {first: asked, **{one: asked.for_whole() for one in whole}}
    recipes = {one: recipe_of(mine, one) for one, mine in kinds.items()}
    questions = asked.questions.read(skip_bad=asked.skip_bad)
    test = None if asked.test is None else asked.test.read(skip_bad=asked.skip_bad)

    def taken(one: str) -> VisualQuestions:
        """The task as a kind of model takes it: its split, answers, order and seeds are those of all."""
        mine = kinds[one]
        return VisualQuestions(
            questions,
            test=test,
            recipe=recipes[one],
            minimum=mine.minimum,
            glove=mine.glove,
            regions=mine.regions,
            augmentation=mine.augmentation,
            batch=mine.batch,
            learning_rate=mine.learning_rate,
            skip_bad=mine.skip_bad,
            folder=folder(name),
            device=mine.device,
            untrained=mine.epochs == 0,
        )

    pictures = asked.questions.pictures
    elsewhere = pictures if asked.test is None else asked.test.pictures

    def contents(task: VisualQuestions) -> str:
        parts = ((task.training, pictures), (task.validation, pictures), (task.test, elsewhere))
        return _contents("questions", itertools.chain(*(_rows(part.questions, place) for part, place in parts)))

    task, others = taken(first), {one: taken(one) for one in whole}
    held = contents(task)
    if any(contents(one) != held for one in others.values()):
        raise UserError(
            f"some pictures of {pictures} can be read by {first} and not by {', '.join(others)}, or the "
            "other way round, so that they would be asked other questions: leave those pictures out"
        )
    options = {
        "questions": asked.questions.as_json(),
        "test": None if asked.test is None else asked.test.as_json(),
        "glove": _whole(asked.glove),
        "regions": _whole(asked.regions),
        "augmentation": task.augmentation,
        "options": dict(asked.options),
        "contents": held,
        **{
            name: getattr(asked, name)
            for name in (
                "backbone", "pretrained", "frozen", "question", "width", "minimum", "learning_rate", "skip_bad"
            )
        },
    }  # fmt: skip
    if others:  # what a whole model does in its own way
        options["others"] = {one: [other.recipe.size, other.augmentation] for one, other in others.items()}
    return Chosen(task, names, recipes[first].size, task.epochs, name, options, others)


GENERATED: Mapping[str, Callable[[Asked, Callable[[str], Path]], Chosen]] = {
    "digit-scenes": _digit_scenes,
    "sort-of-clevr": _sort_of_clevr,
}
"""Tasks that make their own pictures and questions, by what `data` calls them."""


def recipe_of(asked: Asked, core: str) -> "Recipe":
    """What models of questions about own pictures are made of.

    Without published weights the image encoder is by default a small network, which 200 pictures can teach something:
    `SMALL_NETWORK` on 128 pixels. With them it is `resnet18` on 224.
    """
    from regard.models.vqa import Recipe
    from regard.models.vqa.parts import DETECTOR, REGIONS, WHOLE, backbones, encoders

    asked = replace(asked, question=_reader(asked.question, core))
    if core in WHOLE:
        asked.refuse(f"model {core!r}, which is whole", *_of_parts)
        return Recipe(core, asked.options, size=asked.size or 384, question=asked.question)
    if asked.regions:
        asked.refuse("region features, which are read from a file", "backbone", "pretrained", "frozen", "size")
    if asked.question not in encoders:
        asked.refuse(f"question {asked.question!r}, which is none of {', '.join(encoders)}", "width")
    image = REGIONS if asked.regions else asked.backbone or ("resnet18" if asked.pretrained else "convolutions")
    given: dict[str, Any] = {name: True for name in ("frozen", "pretrained") if getattr(asked, name)}
    if image == "convolutions":
        given |= SMALL_NETWORK
    state = {"width": asked.width} if asked.question in encoders else {}
    size = asked.size or (128 if image in backbones else 480 if image == DETECTOR else 224)
    return Recipe(core, asked.options, image, given, size, asked.question, state)


def reopened(settings: Mapping[str, Any], device: str, folder: Path) -> "Task":
    """The task of a run, from its settings.

    Raises:
        UserError: its data is not there any more, or has changed, so that what was held out of it is not known.
    """
    from regard.models.vqa.parts import WHOLE
    from regard.tasks.vqa.source import Source

    def known(name: str, value: Any) -> Any:
        if name in ("questions", "test"):
            return Source.from_json(value)
        return Path(value) if name in ("data", "glove", "regions") else tuple(value) if name == "attention" else value

    names = [one.name for one in fields(Asked) if settings.get(one.name) is not None]
    asked = Asked(**{name: known(name, settings[name]) for name in names})
    data = Path(settings["task"]) if settings["task"] in GENERATED else asked.data
    # One variant is enough to have the task, and options are for one alone. The settings are those of a model in parts,
    # where there is one.
    first = None if asked.attention is None else tuple(sorted(asked.attention, key=lambda name: name in WHOLE))[:1]
    size = None if asked.regions else asked.size
    again = choose(replace(asked, data=data, device=device, attention=first, size=size), lambda _: folder)
    then, now = (one.get("contents") for one in (settings, again.options))
    if then != now:
        raise UserError(
            f"the data of {folder} has changed since it was trained ({then} then, {now} now), so what was held out is "
            "not known any more: give the files that it is to be evaluated on, or train anew"
        )
    return again.task


def _reader(question: str, core: str) -> str:
    """What reads the questions of a model, of `lstm`, or `lstm,vilt=CHECKPOINT`.

    Raises:
        UserError: it needs a checkpoint, and there is none for it; or there are several for one.
    """
    from regard.models.vqa.parts import WHOLE, encoders

    checkpoints, others = _readers(question)
    if len(others) > 1:
        raise UserError(f"--question {question}: expected what reads questions once, and {', '.join(others)} are given")
    if core not in WHOLE:
        return others[0] if others else Asked().question
    found = checkpoints.get(core, *others)
    if found is None or found in encoders:
        raise UserError(
            f"model {core!r} comes from a checkpoint of Hugging Face, and none is given: say which, by name or folder, "
            "--question CHECKPOINT"
        )
    return found


def _readers(question: str) -> tuple[dict[str, str], list[str]]:
    """The checkpoints of models that are whole, by their names, and what reads the questions of all others.

    Raises:
        UserError: a part is empty, or there are several checkpoints for one.
    """
    from regard.models.vqa.parts import WHOLE

    parts = [part.strip() for part in question.split(",")]
    named = [
        (name, value) for name, equals, value in (part.partition("=") for part in parts) if equals and name in WHOLE
    ]
    if not named:
        return {}, [question]  # a folder alone may have commas in its name
    if "" in parts or "" in dict(named).values():
        raise UserError(f"--question {question}: a part between its commas is empty, expected such as vilt=CHECKPOINT")
    if len(dict(named)) < len(named):
        raise UserError(f"--question {question}: expected one checkpoint for each of {', '.join(dict(named))}")
    return dict(named), [part for part in parts if part.partition("=")[0] not in WHOLE]


def _require_checkpoints(question: str, names: Sequence[str]) -> None:
    """Refuse models beside others for which it is not said whose checkpoint is which."""
    from regard.models.vqa.parts import WHOLE

    whole, given = [one for one in names if one in WHOLE], _readers(question)[0]
    if missing := [one for one in whole if one not in given]:
        wanted = ",".join(f"{one}=CHECKPOINT" for one in whole)
        raise UserError(
            f"{missing[0]!r} is compared with models that read in another way, and --question {question} does not say "
            f"what is its checkpoint: give --question {wanted}, and with a comma what reads for the others, if not lstm"
        )


def _require_pretrained(names: Sequence[str]) -> None:
    """Refuse to measure without training what knows nothing before it."""
    from regard.models.vqa.parts import WHOLE

    if not names or not set(names) <= set(WHOLE):
        fresh = ", ".join(one for one in names if one not in WHOLE) or "those of this task"
        raise UserError(
            f"--epochs 0 measures models as they came, and {fresh} would know nothing: give at least 1, or "
            f"{' or '.join(WHOLE)} alone, with their checkpoint"
        )


def _contents(what: str, rows: Iterable[object]) -> str:
    """How much there is, and a digest of it: of other data, other parts are trained on, and other answers known."""
    digest, count = sha256(), 0
    for row in rows:
        digest.update(repr(row).encode())
        count += 1
    return f"{count:,} {what} {digest.hexdigest()[:12]}"


def _rows(part: "Questions", pictures: Path) -> Iterator[object]:
    """What decides what is learned of these questions; not where the pictures' folder is, or how it is spelled."""
    for at, one in enumerate(part):
        picture = os.path.relpath(one.image, pictures) if isinstance(one.image, Path) else one.image_id
        yield at, picture, one.question, one.answers, one.consensus, one.question_type, one.answer_type


def _only(names: Sequence[str]) -> str:
    """The one variant that options are for."""
    if len(names) != 1:
        raise UserError(f"options of one model, and {len(names)} are asked for: name one, or leave the options out")
    return names[0]


def _own(asked: Asked) -> Path:
    if asked.data is None:
        raise UserError("no pictures: give a folder as data")
    return asked.data


def _called(folder: Path) -> str:
    """Its name as whoever typed it knows it: `.` is the folder one stands in, and a link is not what it leads to."""
    return Path(os.path.abspath(folder)).name


def _whole(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


_of_pictures = ("backbone", "pretrained", "frozen", "augmentation", "learning_rate", "skip_bad")
_of_classes = ("at", "start", "weight_decay", "label_smoothing")
_of_parts = ("backbone", "pretrained", "frozen", "regions", "glove", "width")
_of_questions = ("questions", "test", "question", "width", "options", "glove", "regions", "minimum")
