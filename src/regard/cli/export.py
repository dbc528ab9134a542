"""`regard export`: a model that answers questions as one file, for PyTorch alone or for ONNX."""

from pathlib import Path
from typing import Annotated

import typer

from regard.cli.ask import MODEL, RUN
from regard.errors import UserError


def export(
    run: Annotated[str, typer.Argument(help=RUN)],
    file: Annotated[Path, typer.Argument(help="NAME.pt2 for PyTorch, NAME.onnx for ONNX.")],
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    words: Annotated[
        int | None,
        typer.Option(
            help="Words of a question, where the file must fix their number; shorter ones are filled up with 0."
        ),
    ] = None,
) -> None:
    """Write a model that answers questions as one file that runs without regard, and compare the two.

    The file takes pictures and the numbers of words, and gives a logit for each answer. NAME.json beside it says what
    that is: the inputs, the words and answers in the order of their numbers, the size of a picture and by what its
    colours, from 0 to 1, are normalised.

    A file that answers otherwise than the model is not written.

    Examples:

      regard export photos answers.onnx --model mcan

      regard export runs/photos/mcan-0 answers.pt2
    """
    from rich.console import Console
    from rich.text import Text

    from regard.cli.ask import saved_models
    from regard.models.vqa import load
    from regard.models.vqa.exporting import export as write

    models = saved_models(run, model)
    if len(models) > 1:
        raise UserError(f"{run} has {', '.join(models)}, and a file holds one of them: say which, --model NAME")
    ((name, folder),) = models.items()
    about = write(load(folder), file, words)
    console = Console()
    for input_, shape in about["inputs"].items():
        console.print(Text(f"{input_}: {' × '.join(map(str, shape))}"))
    console.print(Text(f"logits: {' × '.join(['pictures', 'questions', str(len(about['answers']))])}"))
    if about["compared"]:
        console.print(Text(f"{file} answers as {name} does; {file.with_suffix('.json')} has its words and answers"))
    else:
        console.print(Text(f"{file} was not compared with {name}: install onnxruntime for that", style="yellow"))
