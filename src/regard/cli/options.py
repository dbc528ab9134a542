"""Options that several commands have, each described once, and how a command ends that is stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from regard.errors import UserError

if TYPE_CHECKING:
    from regard.tasks.vqa.source import Source

DATA, MODEL, TRAINING, RUN = "The data", "The model", "Training", "The run"

RunFolder = Annotated[str, typer.Argument(help="A run's name in runs/, its folder, or the folder of one model in it.")]
RunModel = Annotated[
    str | None,
    typer.Option(help="One of the run's models, as mcan-0, or mcan for those of all seeds; default all."),
]

Annotations = Annotated[
    Path | None,
    typer.Option(help="Of VQA and data sets in its format: the JSON file of the answers.", rich_help_panel=DATA),
]
ImageData = Annotated[Path | None, typer.Option(help="Of Visual Genome: its image_data.json.", rich_help_panel=DATA)]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder", help="Where paths in a fusion's table begin; default where it lies.", rich_help_panel=DATA
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Go on without questions and pictures that cannot be used.", rich_help_panel=DATA),
]
Test = Annotated[
    Path | None,
    typer.Option(
        help="Test on these other questions; default: a fifth of the pictures is held out.", rich_help_panel=DATA
    ),
]
TestPictures = Annotated[Path | None, typer.Option(help="Their pictures, if they are elsewhere.", rich_help_panel=DATA)]
TestAnnotations = Annotated[Path | None, typer.Option(help="Their answers, as --annotations.", rich_help_panel=DATA)]
Minimum = Annotated[
    int | None,
    typer.Option(
        help="How often an answer must occur in training to be chosen from. Default 1; 9 from 10,000 questions on.",
        rich_help_panel=DATA,
    ),
]

Pretrained = Annotated[
    bool,
    typer.Option("--pretrained", help="Start from published weights, if they can be had.", rich_help_panel=MODEL),
]
Frozen = Annotated[
    bool,
    typer.Option(
        "--frozen", help="Leave the image encoder as it is; it sees every picture once.", rich_help_panel=MODEL
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        "--question",
        help="What reads questions: lstm, gru, bag, or an encoder of Hugging Face, by name or folder; of vilt or blip, "
        "their checkpoint. Beside other models: vilt=CHECKPOINT,blip=CHECKPOINT, and what reads for those.",
        rich_help_panel=MODEL,
    ),
]
Width = Annotated[int, typer.Option(help="Of what it makes of a question; 1024 in many papers.", rich_help_panel=MODEL)]
Glove = Annotated[
    Path | None, typer.Option(help="A file of GloVe's vectors that words start from.", rich_help_panel=MODEL)
]
RegionFile = Annotated[
    Path | None,
    typer.Option(
        help="Region features in place of pictures: an HDF5 file, or a folder of one .npz a picture.",
        rich_help_panel=MODEL,
    ),
]

Minutes = Annotated[
    float | None,
    typer.Option(help="The same in minutes for each model, instead of --epochs.", rich_help_panel=TRAINING),
]
Batch = Annotated[int, typer.Option(help="Pictures a batch, each with all its questions.", rich_help_panel=TRAINING)]
Augmentation = Annotated[
    str | None,
    typer.Option(
        help="shift: training pictures are moved and turned a little, otherwise in every epoch; none. Default shift "
        "for pictures that are seen anew in every epoch.",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="The highest of the schedule. Default 5e-4, and 1e-4 where published weights are trained on.",
        rich_help_panel=TRAINING,
    ),
]

Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; auto takes the best there is.", rich_help_panel=RUN)
]
Precision = Annotated[
    str, typer.Option(help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.", rich_help_panel=RUN)
]
Name = Annotated[
    str | None,
    typer.Option(help="The run's name, a folder in runs/. Default: that of the data.", rich_help_panel=RUN),
]
Resume = Annotated[
    bool,
    typer.Option(
        help="Go on with what the run of this name has. --no-resume puts it aside under another name and begins again.",
        rich_help_panel=RUN,
    ),
]


@contextmanager
def stoppable() -> Iterator[None]:
    """Training inside ends with one line when it is stopped, and not with a traceback.

    Raises:
        typer.Exit: with 130, as the shell has it, on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. Nothing finished is lost: the same command goes on from the last epoch.")
        raise typer.Exit(130) from None


def source(
    questions: Path | None, pictures: Path, annotations: Path | None = None, image_data: Path | None = None
) -> "Source | None":
    """The files of a data set, as they were typed; None without questions.

    Raises:
        UserError: files beside the questions, without these.
    """
    from regard.tasks.vqa.source import Source

    if questions is not None:
        return Source(questions, pictures, annotations, image_data)
    _refuse_alone("questions, and none are given: give their file too", annotations, image_data)
    return None


def source_of_test(
    test: Path | None,
    pictures: Path,
    test_pictures: Path | None,
    annotations: Path | None,
    image_data: Path | None,
) -> "Source | None":
    """The files of the questions to test on; None without them.

    Args:
        test: their file.
        pictures: the folder of the pictures to learn from, which theirs lie in too without `test_pictures`.
        test_pictures: theirs.
        annotations: their answers.
        image_data: that of the questions to learn from, which holds for all of Visual Genome.

    Raises:
        UserError: files beside the questions, without these; or there is no such file.
    """
    from regard.tasks.vqa.source import Source

    if test is None:
        _refuse_alone("other questions to test on, and none are given: give --test too", test_pictures, annotations)
        return None
    found = Source(test, test_pictures or pictures, annotations)
    return replace(found, image_data=image_data) if found.format == "Visual Genome" else found


def _refuse_alone(whose: str, *paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            raise UserError(f"{path} belongs to {whose}")
