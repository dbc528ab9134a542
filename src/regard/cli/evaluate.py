"""`regard evaluate`: measure the models of a run, by the official rule of their data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.ask import MODEL, RUN
from regard.cli.train import Annotations, ImageData, ReadWords, RegionFile, SkipBad, source
from regard.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from regard.experiment.evaluate import Evaluated, Score
    from regard.tasks.vqa.source import Source


def evaluate(
    run: Annotated[str, typer.Argument(help=RUN)],
    data: Annotated[
        Path | None,
        typer.Argument(help="The folder of other pictures; default: what the run held out. Of a fusion: a table."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Argument(help="The questions about them, in any format of `regard train vqa`.")
    ] = None,
    annotations: Annotations = None,
    image_data: ImageData = None,
    words: ReadWords = None,
    regions: RegionFile = None,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write the answers here, as the data set's evaluation server takes them; of one model."),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option("--clean", help="VQA's accuracy as was evidently meant, without the official script's slips."),
    ] = False,
    skip_bad: SkipBad = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Measure the models of a run: overall, by answer type and by question type, each with its 95 % interval.

    Answers to a question that at least four people answered are measured by VQA's official rule, others by exact match.
    Without pictures it is what the run held out, beside a guess that does not look: the most frequent answer to each
    type of question. On sort-of-CLEVR these are the published test of 200 scenes and 2,000 more.

    Examples:

      regard evaluate photos

      regard evaluate runs/vqa val2014 questions.json --annotations annotations.json --model mcan

      regard evaluate runs/vqa test2015 questions.json --predictions server.json

      regard evaluate posts more-posts.csv
    """
    from rich.console import Console

    from regard.experiment.compare import found_device
    from regard.experiment.evaluate import evaluate as measure
    from regard.experiment.run import find_run, named
    from regard.models.fusion.runs import evaluate_fusion, is_fusion

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 130)
    folder = find_run(run)
    if is_fusion(folder):
        given = (questions, annotations, image_data, words, regions, predictions, model)
        if data is None or clean or any(value is not None for value in given):
            raise UserError(f"{folder} is a fusion: give the table that it is to be measured on, and nothing else")
        console.print(_fusions(evaluate_fusion(folder, data, skip_bad=skip_bad, device=found_device(device))))
        return
    if (folder / "settings.json").is_file():
        finished = [path.parent for path in sorted(folder.glob("*/result.json"))]
        if not finished:
            raise UserError(
                f"{folder} has no finished model: run the command that began it again, which goes on with it"
            )
        models = named(folder, finished, model)
    else:  # the folder of one model
        models, folder = {folder.name: folder}, folder.parent
    asked = source(questions, data or Path(), annotations, image_data, words)
    if (data is None) != (questions is None):
        raise UserError(
            f"{data or questions} alone cannot be evaluated on: give a folder of pictures and the file of the "
            "questions about them; pictures by class are measured on what the run held out"
        )
    if predictions is not None and len(models) > 1:
        raise UserError(
            f"--predictions {predictions} takes the answers of one model, and the run has {', '.join(models)}: name it "
            "with --model"
        )
    found = measure(folder, models, asked, regions=regions, clean=clean, device=found_device(device), skip_bad=skip_bad)
    console.print(f"On {found.about}." + (f" Accuracy is {found.measure}." if found.measure else ""), highlight=False)
    if any(one.scores for one in found.models.values()):
        names = list(found.models)
        beside = max(1, (console.width - 36) // 24)  # as many models as have room
        for start in range(0, len(names), beside):
            console.print(_table(found, names[start : start + beside]))
    else:
        console.print("Their answers are not known, so there is nothing to measure.")
    for note in found.notes:
        console.print(note, highlight=False, markup=False)
    if predictions is not None:
        _write(predictions, found, folder, asked)
        console.print(f"Answers: {predictions}", highlight=False, soft_wrap=True)


def _fusions(reports: "Mapping[str, Mapping[str, Any]]") -> "Table":
    """What fusions reached on a table, whichever their target is: a row for each thing that is said of them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    def cell(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return "–".join(f"{end:.3f}" for end in value)
        return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"

    table = Table(box=SIMPLE_HEAD)
    table.add_column("", style="bold")
    for name in reports:
        table.add_column(name, justify="right")
    for what in next(iter(reports.values())):
        table.add_row(what.replace("_", " "), *(cell(report[what]) for report in reports.values()))
    return table


def _table(found: "Evaluated", names: list[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title="Accuracy in per cent, with its 95 % interval", title_justify="left")
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


def _write(path: Path, found: "Evaluated", folder: Path, asked: "Source | None") -> None:
    """The answers of the one model, in the format of its questions."""
    from regard import files
    from regard.tasks.vqa.source import Source

    if found.questions is None:
        raise UserError(f"--predictions {path}: this run asks its own questions, which no server knows; leave it out")
    if asked is None:
        settings = files.read_json(folder / "settings.json")
        asked = Source.from_json(settings["test"] or settings["questions"])
    answered = next(iter(found.models.values()))
    asked.write(path, answered.answers, list(found.questions))
