"""`regard export`: a model as one file, for PyTorch alone or for ONNX."""

from pathlib import Path
from typing import Annotated

import typer

from regard.cli.options import Folder, RunFolder, RunModel
from regard.commands import pip_install
from regard.errors import UserError


def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(help="NAME.pt2 for PyTorch, NAME.onnx for ONNX.")],
    model: RunModel = None,
    words: Annotated[
        int | None,
        typer.Option(
            help="Words of a question, where the file must fix their number; shorter ones are filled up with 0."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Of a fusion: a table of three rows or more that has every modality, to compare on."),
    ] = None,
    paths: Folder = None,
) -> None:
    """Write a model that answers questions, or a fusion, as one file that runs without regard, and compare the two.

    Of questions, the file takes pictures and the numbers of words, and gives a logit for each answer. NAME.json beside
    it says what that is: the inputs, the words and answers in the order of their numbers, the size of a picture and by
    what its colours, from 0 to 1, are normalised.

    Of a fusion, which is written for PyTorch, it takes what `Predictor.tensors` makes of a table, and gives a logit for
    each class, or the standardised number.

    A file that answers otherwise than the model is not written.

    Examples:

      regard export photos answers.onnx --model mcan

      regard export runs/photos/mcan-0 answers.pt2

      regard export posts fusion.pt2 --model stacking --table posts.csv
    """
    from rich.console import Console
    from rich.text import Text

    from regard.cli.ask import saved_models
    from regard.experiment.run import find_run, named
    from regard.models.fusion import Predictor
    from regard.models.fusion.runs import predictors_in
    from regard.models.vqa import load
    from regard.models.vqa.exporting import export as write

    fusions = predictors_in(place := find_run(run))
    if (words is not None or table is None) if fusions else (table is not None or paths is not None):
        what = "a fusion: give --table, and no --words" if fusions else "no fusion: leave --table and --folder out"
        raise UserError(f"{place} is {what}")
    models = named(place, list(fusions.values()), model) if fusions else saved_models(run, model)
    if len(models) > 1:
        raise UserError(f"{run} has {', '.join(models)}, and a file holds one of them: say which, --model NAME")
    ((name, folder),) = models.items()
    console = Console()
    if fusions:
        Predictor.load(folder, "cpu").export(file, table, folder=paths)
        console.print(Text(f"{file} says what {name} does, of what Predictor.tensors makes of a table"))
        return
    about = write(load(folder), file, words)
    for input_, shape in about["inputs"].items():
        console.print(Text(f"{input_}: {' × '.join(map(str, shape))}"))
    console.print(Text(f"logits: {' × '.join(['pictures', 'questions', str(len(about['answers']))])}"))
    if about["compared"]:
        console.print(Text(f"{file} answers as {name} does; {file.with_suffix('.json')} has its words and answers"))
    else:
        console.print(
            Text(f"{file} was not compared with {name}: {pip_install('onnxruntime')} for that", style="yellow")
        )
