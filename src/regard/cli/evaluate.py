"""`regard evaluate`: measure the models of a run, by the official rule of their data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regard.cli.options import Annotations, Device, Folder, ImageData, RegionFile, RunFolder, RunModel, SkipBad, source
from regard.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from regard.experiment.evaluate import Evaluated, Score
    from regard.tasks.vqa.source import Source


def evaluate(
    run: RunFolder,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="The folder of other pictures, of pictures by class with one sub-folder a class; default: what "
            "the run held out. Of a fusion: a table."
        ),
    ] = None,
    questions: Annotated[
        Path | None, typer.Argument(help="The questions about them, in any format of `regard train vqa`.")
    ] = None,
    annotations: Annotations = None,
    image_data: ImageData = None,
    regions: RegionFile = None,
    model: RunModel = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write the answers here, as the data set's evaluation server takes them; of one model."),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option("--clean", help="VQA's accuracy as was evidently meant, without the official script's slips."),
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a fusion: measure it as well without this column, or without `tabular`, all numbers and "
            "categories; of several, without each and without all."
        ),
    ] = None,
    paths: Folder = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
) -> None:
    """Measure the models of a run: overall, by answer type and by question type, each with its 95 % interval.

    Answers to a question that at least four people answered are measured by VQA's official rule, others by exact match.
    Without pictures it is what the run held out, beside a guess that does not look: the most frequent answer to each
    type of question. On sort-of-CLEVR these are the published test of 200 scenes and 2,000 more.

    Examples:

      regard evaluate photos

      regard evaluate shelf another-shelf

      regard evaluate runs/vqa val2014 questions.json --annotations annotations.json --model mcan

      regard evaluate runs/vqa test2015 questions.json --predictions server.json

      regard evaluate posts more-posts.csv --without photo --without caption
    """
    from rich.console import Console
    from rich.text import Text

    from regard.cli.train_fusion import shown
    from regard.experiment.compare import found_device
    from regard.experiment.display import wide
    from regard.experiment.evaluate import TRAINED
    from regard.experiment.evaluate import evaluate as measure
    from regard.experiment.run import find_run, named
    from regard.models.fusion.columns import columns_of, folder_of
    from regard.models.fusion.runs import evaluate_fusion, is_fusion, predictors_in, trained_on

    console = wide(Console())
    folder = find_run(run)
    if is_fusion(folder):
        given = (questions, annotations, image_data, regions, predictions)
        if data is None or clean or any(value is not None for value in given):
            raise UserError(f"{folder} is a fusion: give the table that it is to be measured on, and nothing else")
        columns = columns_of(data)
        models = named(folder, list(predictors_in(folder).values()), model)
        results = evaluate_fusion(
            folder, columns, without or (), only=models, folder=folder_of(data, paths), skip_bad=skip_bad,
            device=found_device(device), say=lambda line: console.print(Text(line, style="dim"), soft_wrap=True),
        )  # fmt: skip
        rows = f"rows of {data}" + (TRAINED if trained_on(folder, columns) else "")
        console.print(shown([{**result, "fusion": name} for name, result in results.items()], rows))
        return
    for option, value in (("--without", without and without[0]), ("--folder", paths)):
        if value:
            raise UserError(f"{option} {value} is of fusions, and {folder} is none: leave it out")
    parts = [folder]
    if (folder / "settings.json").is_file():
        parts = [path.parent for path in sorted(folder.glob("*/result.json"))]
        if not parts:
            raise UserError(
                f"{folder} has no finished model: run the command that began it again, which goes on with it"
            )
    else:  # the folder of one model
        folder = folder.parent
    models = named(folder, parts, model)
    asked = source(questions, data or Path(), annotations, image_data)
    if regions is not None and asked is None:
        raise UserError(f"--regions {regions} belongs to other questions, and none are given: leave it out")
    if skip_bad and data is None:
        raise UserError("--skip-bad is about other pictures than those held out, and none are given: leave it out")
    if predictions is not None and len(models) > 1:
        raise UserError(
            f"--predictions {predictions} takes the answers of one model, and the run has {', '.join(models)}: name it "
            "with --model"
        )
    answered = None if predictions is None else asked or _held_out(folder, predictions)
    found = measure(
        folder, models, asked or data, regions=regions, clean=clean, device=found_device(device), skip_bad=skip_bad
    )
    known = any(one.scores for one in found.models.values())
    said = f"Accuracy{f', {found.measure},' if found.measure else ''} in per cent, with its 95 % interval:"
    console.print(
        f"On {found.about}. {said if known else 'Their answers are not known, so there is nothing to measure.'}",
        highlight=False,
        soft_wrap=True,
    )
    names = list(found.models) if known else []
    beside = max(1, (console.width - 36) // 24)  # as many models as have room
    for start in range(0, len(names), beside):
        console.print(_table(found, names[start : start + beside]))
    for note in found.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if predictions is not None and answered is not None:
        answered.write(predictions, next(iter(found.models.values())).answers, list(found.questions or ()))
        console.print(f"Answers: {predictions}", highlight=False, soft_wrap=True)


def _held_out(folder: Path, predictions: Path) -> "Source":
    """The files of the questions that a run was tested on."""
    from regard import files
    from regard.tasks.vqa.source import Source

    settings = files.read_json(folder / "settings.json")
    if not settings.get("questions"):
        raise UserError(
            f"--predictions {predictions}: {folder} holds out no questions from files, whose format it would be; leave "
            "it out, or give other questions"
        )
    return Source.from_json(settings["test"] or settings["questions"])


def _table(found: "Evaluated", names: list[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("", style="bold")
    table.add_column("questions", justify="right")
    shown = [found.models[name] for name in names]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    rows = dict.fromkeys((section, kind) for one in shown for section, kinds in one.scores.items() for kind in kinds)
    last = None
    for section, name in rows:
        if section != last and last is not None:
            table.add_section()
            table.add_row(f"[dim]by {section}[/]")
        last = section
        scores = [one.scores.get(section, {}).get(name) for one in shown]
        count = next(score.questions for score in scores if score is not None)
        table.add_row(name, f"{count:,}", *map(_cell, scores))
    if any(one.pointing is not None for one in shown):
        table.add_section()
        pointing = [one.pointing for one in shown]
        table.add_row("pointing", "", *("–" if share is None else f"{100 * share:.2f}" for share in pointing))
    return table


def _cell(score: "Score | None") -> str:
    if score is None:
        return "–"
    low, high = score.interval
    return f"{100 * score.accuracy:.2f} [dim]{100 * low:.1f}–{100 * high:.1f}[/]"
