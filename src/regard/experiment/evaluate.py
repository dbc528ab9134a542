"""Measure the models of a finished run again: on what it held out, or on other questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from regard import files
from regard.errors import UserError, in_one_line
from regard.experiment.choosing import reopened
from regard.experiment.statistics import Interval, share_interval

if TYPE_CHECKING:
    from regard.models.vqa import Answering
    from regard.tasks.task import Evaluation, Outcomes, Task
    from regard.tasks.vqa.question import Questions
    from regard.tasks.vqa.source import Source

OVERALL = "overall"

TRAINED = ", on most of which it was trained"
"""Behind the name of what a model is measured on."""


@dataclass(frozen=True)
class Score:
    """How right some answers are, how sure that is, and how many they are."""

    accuracy: float
    interval: Interval
    questions: int

    @classmethod
    def of(cls, right: "Outcomes", groups: np.ndarray) -> "Score":
        """The score of outcomes, some of which share a picture."""
        return cls(float(right.mean()), share_interval(right, groups), len(right))


@dataclass(frozen=True)
class Measured:
    """What a model, or a guess, reached on some questions.

    Attributes:
        scores: by section of the table (“overall”, “answer type”, “question type”, ...) and by name in it.
        answers: one a question, in order, where they have texts.
        pointing: the share of questions about one place in which it looked there most.
    """

    scores: Mapping[str, Mapping[str, Score]]
    answers: Sequence[str] = ()
    pointing: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """What the models of a run reached.

    Attributes:
        about: what they were measured on.
        measure: what accuracy is, in words; None where it is the share of right answers.
        models: by name, and guesses beside them.
        questions: those that were asked, where they come from files.
        notes: what else there is to say, each as a text of several lines.
    """

    about: str
    measure: str | None
    models: Mapping[str, Measured]
    questions: "Questions | None" = None
    notes: Sequence[str] = field(default_factory=tuple)


def evaluate(
    run: Path,
    models: Mapping[str, Path],
    source: "Source | Path | None" = None,
    *,
    regions: Path | None = None,
    clean: bool = False,
    device: str = "cpu",
    skip_bad: bool = False,
) -> Evaluated:
    """Measure models of a run.

    Args:
        run: its folder.
        models: which, by name (`mcan-0`), and their folders.
        source: other questions, or of pictures by class another folder; default what the run held out.
        regions: of those, the region features for models that read these.
        clean: VQA's accuracy as was evidently meant, see `normal_form`; not comparable with published figures.
        device: where.
        skip_bad: leave out questions and pictures that cannot be used.

    Raises:
        UserError: the run, a model or the questions cannot be read, or the run's task has no such questions.
    """
    settings = files.read_json(run / "settings.json")
    known = TRAINED if settings.get("epochs") != 0 and _trained_on(settings, source) else ""
    if isinstance(source, Path):
        task, about = _other_pictures(settings, source, device, skip_bad), f"the pictures in {source}{known}"
    elif source is not None:
        found = _elsewhere(models, source, regions, clean, device, skip_bad)
        return replace(found, about=found.about + known)
    else:
        task, about = reopened(settings, device, run), f"what {run} held out"
    if settings["task"] == "visual-questions":
        return _held_out_questions(task, models, clean, device)
    if clean:
        raise UserError(f"--clean is about answers as texts, which {task.name} does not compare: leave it out")
    if settings["task"] == "sort-of-clevr":
        return _sort_of_clevr(task, models, device)
    found = {}
    for name, folder in models.items():
        attention, _, seed = name.rpartition("-")
        model = restored(task, attention, int(seed), folder, device)
        found[name] = _measured(task.evaluate(model, int(seed)), task)
    return Evaluated(about, None, found)


def restored(task: "Task", attention: str, seed: int, folder: Path, device: str) -> Any:
    """A model as it was kept: from its recipe, or built as it was for training.

    Raises:
        UserError: its weights are not there, or are those of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from regard.models.vqa import load

    if (folder / "recipe.json").is_file():
        return load(folder, device)
    model = task.model(attention, seed)
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = in_one_line(error)[:200]
        raise UserError(f"{path} does not hold the weights of {attention} ({reason}): train it anew") from error
    return model


def _other_pictures(settings: Mapping[str, Any], folder: Path, device: str, skip_bad: bool) -> "Task":
    """The task of a run of pictures by class, on all pictures of another folder."""
    from regard.tasks.pictures import PicturesTask

    if settings["task"] != PicturesTask.name:
        raise UserError(
            f"{folder} alone cannot be evaluated on: give a folder of pictures and the file of the questions about them"
        )
    names = ("backbone", "pretrained", "at", "start", "size", "batch", "classes")  # what a model is built of
    return PicturesTask(folder, **{name: settings[name] for name in names}, skip_bad=skip_bad, device=device)


def _trained_on(settings: Mapping[str, Any], source: "Source | Path | None") -> bool:
    """Whether these pictures or questions are those of the run itself."""
    if source is None or isinstance(source, Path):
        return source is not None and str(source.resolve()) == settings["data"]
    return source.as_json()["questions"] == (settings.get("questions") or {}).get("questions")


def _measured(evaluation: "Evaluation", task: "Task") -> Measured:
    kinds = evaluation.kinds(task.families)
    scores = {name: Score.of(evaluation.correct[among], evaluation.groups[among]) for name, among in kinds.items()}
    overall = scores.pop("overall")
    pointing = None if evaluation.pointed is None else float(evaluation.pointed.mean())
    return Measured({OVERALL: {OVERALL: overall}, "kind": scores}, pointing=pointing)


def _held_out_questions(task: Any, models: Mapping[str, Path], clean: bool, device: str) -> Evaluated:
    from regard.models.vqa import load
    from regard.models.vqa.parts import WHOLE
    from regard.tasks.vqa.outcomes import Prior, measure_of

    part = task.test
    found: dict[str, Measured] = {}
    for name, folder in models.items():
        model = load(folder, device)
        whole = _recipe(model).core in WHOLE  # it sees and reads otherwise than those beside it
        answers = _said(model, part.questions, None, device)[0] if whole else task.answered(model)
        found[name] = _of_answers(part.questions, answers, part.picture_of, clean)
    prior = Prior(task.training.questions)
    guesses = [prior.answer(question) for question in part.questions]
    found["most frequent answer"] = _of_answers(part.questions, guesses, part.picture_of, clean)
    about = f"{len(part.questions):,} questions held out of {part.questions.source}"
    return Evaluated(about, measure_of(part.questions, clean), found, part.questions)


def _elsewhere(
    models: Mapping[str, Path], source: "Source", regions: Path | None, clean: bool, device: str, skip_bad: bool
) -> Evaluated:
    from regard.models.vqa import Recipe, load
    from regard.models.vqa.recipe import RECIPE
    from regard.tasks.vqa.outcomes import measure_of

    questions = source.read(skip_bad=skip_bad)
    if regions is None:
        side = max(Recipe.from_json(files.read_json(folder / RECIPE)).size for folder in models.values())
        questions = questions.check(side, skip_bad=skip_bad)
    known = all(question.answers for question in questions)
    found = {}
    for name, folder in models.items():
        model = load(folder, device)
        require_regions_used(name, model, regions)
        answers, pictures = _said(model, questions, regions, device)
        found[name] = _of_answers(questions, answers, pictures, clean) if known else Measured({}, answers)
    about = f"{len(questions):,} questions of {questions.source}"
    return Evaluated(about, measure_of(questions, clean) if known else None, found, questions)


def _said(
    model: "Answering", questions: "Questions", regions: Path | None, device: str
) -> tuple[list[str], np.ndarray]:
    """A model's answers to questions, which it sees and reads in its own way, and the number of each one's picture."""
    from regard.tasks.vqa.asked import Asked
    from regard.tasks.vqa.seeing import RegionFiles, seeing

    see = seeing(questions, model.view, _recipe(model).size, None if regions is None else RegionFiles(regions))
    asked = Asked(questions, cast(Any, model.vocabulary), see, longest=model.longest, device=device)
    texts = [str(text) for text in model.answers or ()]
    return [texts[number] for number in asked.chosen(model).tolist()], asked.picture_of


def _of_answers(questions: "Questions", answers: Sequence[str], groups: np.ndarray, clean: bool) -> Measured:
    from regard.tasks.vqa.outcomes import kind_of, outcomes

    right = outcomes(questions, answers, clean)
    scores = {OVERALL: {OVERALL: Score.of(right, groups)}}
    sections: dict[str, Sequence[str | None]] = {
        "answer type": [question.answer_type for question in questions],
        "question type": [question.question_type for question in questions],
    }
    if not any(sections["answer type"]):
        sections["kind"] = list(map(kind_of(questions), questions))
    for section, types in sections.items():
        named = np.array([name or "" for name in types])
        each = {str(name): named == name for name in np.unique(named) if name}
        if each and (section, types) != ("kind", sections["question type"]):
            scores[section] = {name: Score.of(right[among], groups[among]) for name, among in each.items()}
    return Measured(scores, answers)


def _sort_of_clevr(task: Any, models: Mapping[str, Path], device: str) -> Evaluated:
    """Both parts of the test, each beside what can be had without looking."""
    found, notes = {}, []
    for name, folder in models.items():
        attention, _, seed = name.rpartition("-")
        model = restored(task, attention, int(seed), folder, device)
        (_, rule), (evaluation, more) = (task.tested(model, part) for part in ("rule", "more"))
        found[name] = _measured(evaluation, task)
        notes += [f"{name}\n{results}" for results in (rule, more)]
    return Evaluated("2,000 scenes that nobody trained on", None, found, notes=notes)


def require_regions_used(name: str, model: "Answering", regions: Path | None) -> None:
    """Refuse region features for a model that sees pictures.

    Raises:
        UserError: it does.
    """
    if regions is not None and model.view is not None:
        raise UserError(f"--regions {regions} means nothing to {name}, which sees pictures: leave it out")


def _recipe(model: "Answering") -> Any:
    if model.recipe is None:
        raise UserError("a model without recipe cannot be measured on pictures from files: train it anew")
    return model.recipe
