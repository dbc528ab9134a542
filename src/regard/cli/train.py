"""`regard train vqa`: a model that answers questions about pictures."""

import json
import shlex
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.errors import UserError

if TYPE_CHECKING:
    from regard.experiment.run import Run
    from regard.tasks.vqa.source import Source

DATA, MODEL, TRAINING, RUN = "Questions and pictures", "The model that answers", "Training", "The run"

Annotations = Annotated[
    Path | None,
    typer.Option(help="Of VQA and data sets in its format: the JSON file of the answers.", rich_help_panel=DATA),
]
ImageData = Annotated[Path | None, typer.Option(help="Of Visual Genome: its image_data.json.", rich_help_panel=DATA)]
ReadWords = Annotated[
    Path | None,
    typer.Option("--words", help="Of TextVQA: the JSON file of what was read in the pictures.", rich_help_panel=DATA),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Go on without questions and pictures that cannot be used.", rich_help_panel=DATA),
]
Test = Annotated[
    Path | None,
    typer.Option(help="Test on these questions; default: a fifth of the pictures is held out.", rich_help_panel=DATA),
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
        help="What reads questions: lstm, gru, bag, or an encoder of Hugging Face, by name or folder.",
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
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="The highest of the schedule. Default 5e-4, and 1e-4 where published weights are trained on.",
        rich_help_panel=MODEL,
    ),
]


def vqa(
    pictures: Annotated[
        str, typer.Argument(help="The folder of your pictures; or sort-of-clevr or digit-scenes, which need no files.")
    ],
    questions: Annotated[
        Path | None,
        typer.Argument(
            help="A CSV file with image,question,answer, or the JSON file of VQA, GQA, CLEVR, Visual Genome, TextVQA."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Any core of regard.models.vqa, such as stacked_attention, mcan, ban, mutan, question_only; or vilt "
            "or blip with --question CHECKPOINT. Default cross_attention.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="What sees the pictures: any image model of timm, detector, or convolutions, a small network. Default "
            "convolutions, trained from scratch; with --pretrained resnet18.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    pretrained: Pretrained = False,
    frozen: Frozen = False,
    question: Reader = "lstm",
    width: Width = 512,
    glove: Glove = None,
    regions: RegionFile = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An argument of the model, as layers=2; as often as needed.", rich_help_panel=MODEL),
    ] = None,
    annotations: Annotations = None,
    image_data: ImageData = None,
    words: ReadWords = None,
    test: Test = None,
    test_pictures: TestPictures = None,
    test_annotations: TestAnnotations = None,
    minimum: Minimum = None,
    skip_bad: SkipBad = False,
    epochs: Annotated[
        int | None,
        typer.Option(help="How long to train. Default: 8 to 100 epochs, some 1,200 steps.", rich_help_panel=TRAINING),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="The same in minutes, instead of --epochs.", rich_help_panel=TRAINING)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of a picture in pixels. Default 128 for convolutions, 224 for a network of timm.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Pictures a batch, each with all its questions.", rich_help_panel=TRAINING)
    ] = 32,
    learning_rate: LearningRate = None,
    seed_count: Annotated[
        int, typer.Option("--seeds", help="Train it from this many seeds.", rich_help_panel=TRAINING)
    ] = 1,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; auto takes the best there is.", rich_help_panel=RUN)
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.", rich_help_panel=RUN)
    ] = "32-true",
    name: Annotated[
        str | None,
        typer.Option(help="The run's name, a folder in runs/. Default: that of the pictures.", rich_help_panel=RUN),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with what the run of this name has. --no-resume puts it aside under another name and begins "
            "again.",
            rich_help_panel=RUN,
        ),
    ] = True,
) -> None:
    """Train a model that answers questions about your pictures, and say how well it does and what a guess would do.

    A fifth of the pictures is held out, with all their questions: the measure is VQA's official accuracy where a
    question has at least four answers, and exact match otherwise. Every model trains with the loss of its own paper and
    with AdamW, warmed up and cooled down along a cosine; papers' own optimisers are not imitated.

    It writes runs/NAME/: report.html (one file, opens offline), results.json, metrics.csv, and a folder for the model,
    which `regard ask`, `regard evaluate` and `regard export` read, with its answers to the questions held out. Training
    that was broken off, in whatever way, goes on with the same command. Another --model of the same run joins it.

    Examples:

      regard train vqa photos questions.csv

      regard train vqa photos questions.csv --model mcan --option layers=2 --pretrained --frozen

      regard train vqa coco/train2014 questions.json --annotations annotations.json --model ban --pretrained --frozen

      regard train vqa sort-of-clevr --model relation_network --minutes 60
    """
    from rich.console import Console

    from regard.experiment import compare
    from regard.models.vqa import Recipe
    from regard.report import write_report

    try:
        run = compare(
            model or (None if questions is None else Recipe.core), data=pictures,
            questions=source(questions, Path(pictures), annotations, image_data, words),
            test=source(test, test_pictures or Path(pictures), test_annotations, image_data, None),
            seeds=seed_count, epochs=epochs, minutes=minutes, size=size, batch=batch, device=device,
            precision=precision, name=name, resume=resume, backbone=image, pretrained=pretrained, frozen=frozen,
            question=question, width=width, options=parsed(option or []), glove=glove, regions=regions, minimum=minimum,
            learning_rate=learning_rate, skip_bad=skip_bad,
        )  # fmt: skip
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. Nothing finished is lost: the same command goes on from the last epoch.")
        raise typer.Exit(130) from None
    page = write_report(run.folder)
    console = Console()
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
    console.print(f"Ask it: {invitation(run)}", highlight=False, markup=False, soft_wrap=True)


def source(
    questions: Path | None, pictures: Path, annotations: Path | None, image_data: Path | None, words: Path | None
) -> "Source | None":
    """The files of a data set, as they were typed; None without questions.

    Raises:
        UserError: files beside the questions, without these.
    """
    from regard.tasks.vqa.source import Source

    if questions is not None:
        return Source(questions, pictures, annotations, image_data, words)
    if beside := next((path for path in (annotations, image_data, words) if path is not None), None):
        raise UserError(f"{beside} belongs to questions, and none are given: name their file behind the pictures")
    return None


# `Any`: what a model's arguments are is its own business.
def parsed(options: list[str]) -> dict[str, Any]:
    """Arguments as they were typed, `layers=2`: JSON where they are that, otherwise texts.

    Raises:
        UserError: one has no name or no value.
    """
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise UserError(f"--option {option!r}: expected NAME=VALUE, such as layers=2")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def invitation(run: "Run") -> str:
    """The command that asks a run about one of its test pictures, with a question that it was tested on."""
    from regard import files

    example = files.read_json(run.folder / "examples.json")[0]
    picture = example.get("file")
    if picture is None:  # it was drawn, and is nowhere yet
        path = run.folder / "example.png"
        path.write_bytes(b64decode(example["picture"].partition(",")[2]))
        picture = str(path)
    return shlex.join(["regard", "ask", str(run.folder), picture, example["question"]])
