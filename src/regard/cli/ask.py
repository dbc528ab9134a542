"""`regard ask`: a question about a picture, to the models of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.options import RunFolder, RunModel
from regard.commands import command
from regard.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from regard.models.vqa import Answer

_columns = 24
"""Width of a drawing in the terminal."""

_bar = 12

_shades = " ░▒▓█"


def ask(
    run: RunFolder,
    image: Annotated[Path, typer.Argument(help="The picture.")],
    question: Annotated[str, typer.Argument(help="The question, as you would say it.")],
    model: RunModel = None,
    look: Annotated[
        Path | None,
        typer.Option(
            help="Write a picture here: the original, the question, the answer, and where the model looked, with its "
            "scale; of several models, the mean each."
        ),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            help="For a model that reads those: the region features of the picture, an .npz file; or of many pictures, "
            "as for training."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "cpu",
) -> None:
    """Ask the models of a run a question about a picture: what they answer, how surely, and where they looked.

    Examples:

      regard ask photos cat.jpg "what color is the cat?"

      regard ask runs/photos cat.jpg "is it asleep?" --model mcan --look cat-look.png

      regard ask digit-scenes scene.png "which number is the red digit?"
    """
    from rich.columns import Columns
    from rich.console import Console
    from rich.text import Text

    from regard.experiment.compare import found_device
    from regard.experiment.evaluate import require_regions_used
    from regard.models.vqa import load

    folders = saved_models(run, model)
    format = None if look is None else _format(look)
    answers: dict[str, Answer] = {}
    for name, folder in folders.items():
        one = load(folder, found_device(device))
        require_regions_used(name, one, regions)
        answers[name] = one.answer(_regions(name, image, regions) if one.view is None else image, question)
    console = Console()
    console.print(_table(answers))
    for words, names in _by_value({name: answer.unknown for name, answer in answers.items()}).items():
        if words:
            those = "the model" if len(names) == len(answers) else ", ".join(names)
            console.print(
                Text(f"{those} never saw the word{'s' * (len(words) > 1)}: {', '.join(words)}", style="yellow")
            )
    attending = {name: answer for name, answer in answers.items() if answer.looks()}
    if attending:
        console.print("Where it looked:" if len(answers) == 1 else "Where each looked:")
        console.print(Columns([_coarse(console, name, answer, image) for name, answer in attending.items()]))
    if blind := [name for name in answers if name not in attending]:
        console.print(Text(f"no attention to places of the picture: {', '.join(blind)}", style="dim"))
    if look is not None:
        _draw(look, format, attending or answers, image, question)
        console.print(Text(f"{look} shows where {'it' if len(answers) == 1 else 'each'} looked, and what it answered"))


def saved_models(run: str, model: str | None = None) -> dict[str, Path]:
    """The folders of a run's models, by name: `mcan-0`, ...

    Args:
        run: a run's name in `runs/`, its folder, or a model's folder.
        model: the one that is wanted, with its seed, or without it for those of all seeds.

    Raises:
        UserError: there is no such run, it has no models of questions, or none of that name.
    """
    from regard.experiment.run import find_run, named
    from regard.models.vqa.recipe import RECIPE

    folder = find_run(run)
    found = [folder] if (folder / RECIPE).is_file() else sorted(path.parent for path in folder.glob(f"*/{RECIPE}"))
    if not found:
        raise UserError(f"{folder} holds no models that answer questions: train some with `{command('train', 'vqa')}`")
    return named(folder, found, model)


def _regions(name: str, image: Path, path: Path | None) -> Any:
    from regard.tasks.vqa.question import Question
    from regard.tasks.vqa.regions import read_regions
    from regard.tasks.vqa.seeing import RegionFiles

    if path is None:
        raise UserError(f"{name} reads regions and not pictures: give those of this one, --regions FILE.npz")
    return read_regions(path).for_model() if path.suffix == ".npz" else RegionFiles(path)(Question(image, "", ()))


def _by_value(values: dict[str, tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def _table(answers: "dict[str, Answer]") -> "Table":
    from rich import box
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    table.add_column("answer", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("", width=_bar)
    for name, answer in answers.items():
        table.add_section()
        for rank, (text, share) in enumerate(answer.probabilities.items()):
            cells = Text(name if rank == 0 else ""), Text(text, style="bold" if rank == 0 else ""), f"{share:.3f}"
            table.add_row(*cells, Bar(1, 0, share, width=_bar))
    return table


def _coarse(console: "Console", name: str, answer: "Answer", image: Path) -> "RenderableType":
    """Where it looked, in as many characters as there is room for: in colours where the terminal has them."""
    from rich.text import Text

    from regard.models.decoding import decode
    from regard.watching import drawing

    mean = answer.look()
    if mean is None:
        return Text(name)
    lines = [Text(name, style="bold")]
    if console.color_system is None and mean.ndim == 2:
        share = (mean / mean.max().clamp(min=1e-12)).clamp(0, 1)
        lines += [Text("".join(2 * _shades[round(4 * one)] for one in row)) for row in share.tolist()]
    elif console.color_system is not None and (mean.ndim == 2 or answer.boxes is not None):
        drawn = answer.panels(drawing.fitted(decode(image, drawing.SIDE)), each=False)[0].picture
        rows = max(1, round(drawn.height / drawn.width * _columns / 2))
        pixels = drawn.resize((_columns, 2 * rows)).load()
        for row in range(rows):
            line = Text()
            for column in range(_columns):
                upper, lower = (f"rgb{pixels[column, 2 * row + half]}".replace(" ", "") for half in (0, 1))
                line.append("▀", style=f"{upper} on {lower}")
            lines.append(line)
    else:
        heaviest = mean.topk(min(5, len(mean)))
        pairs = zip(heaviest.indices.tolist(), heaviest.values.tolist(), strict=True)
        lines += [Text(f"region {index + 1}: {weight:.2f}") for index, weight in pairs]
    return Text("\n").join(lines)


def _format(path: Path) -> str:
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise UserError(f"--look {path}: {path.suffix or 'a name without ending'} is no kind of picture: try .png")
    return known[path.suffix.lower()]


def _draw(path: Path, format: str | None, answers: "dict[str, Answer]", image: Path, question: str) -> None:
    from regard import files
    from regard.models.decoding import decode
    from regard.watching import drawing

    picture = drawing.fitted(decode(image, drawing.SIDE))
    each = len(answers) == 1
    panels = [panel for name, answer in answers.items() for panel in answer.panels(picture, name, each)]
    drawn = drawing.figure(picture, question, panels)
    files.write(path, lambda partial: drawn.save(partial, format=format))
