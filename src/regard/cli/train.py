"""`regard train vqa`: a model that answers questions about pictures."""

import json
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli import options
from regard.cli.options import MODEL, TRAINING, source, source_of_test, stoppable
from regard.commands import command
from regard.errors import UserError

if TYPE_CHECKING:
    from regard.experiment.run import Run


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
            "or blip with --question CHECKPOINT. Default cross_attention; of digit-scenes find_then_move.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            "--backbone",
            help="What sees the pictures: any image model of timm, detector, or convolutions, a small network. Default "
            "convolutions, trained from scratch; with --pretrained resnet18.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    pretrained: options.Pretrained = False,
    frozen: options.Frozen = False,
    question: options.Reader = "lstm",
    width: options.Width = 512,
    glove: options.Glove = None,
    regions: options.RegionFile = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An argument of the model, as layers=2; as often as needed.", rich_help_panel=MODEL),
    ] = None,
    annotations: options.Annotations = None,
    image_data: options.ImageData = None,
    test: options.Test = None,
    test_pictures: options.TestPictures = None,
    test_annotations: options.TestAnnotations = None,
    minimum: options.Minimum = None,
    skip_bad: options.SkipBad = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="How long to train. Default: 8 to 100 epochs, some 1,200 steps. 0: measure vilt or blip as it came.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: options.Minutes = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of a picture in pixels. Default 128 for convolutions, 224 for a network of timm.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch: options.Batch = 32,
    augmentation: options.Augmentation = None,
    learning_rate: options.LearningRate = None,
    seed_count: Annotated[
        int, typer.Option("--seeds", help="Train it from this many seeds.", rich_help_panel=TRAINING)
    ] = 1,
    device: options.Device = "auto",
    precision: options.Precision = "32-true",
    name: options.Name = None,
    resume: options.Resume = True,
) -> None:
    """Train a model that answers questions about your pictures, and say how well it does and what a guess would do.

    A fifth of the pictures is held out, with all their questions: the measure is VQA's official accuracy where a
    question has at least four answers, and exact match otherwise. Every model trains with the loss of its own paper and
    with AdamW, warmed up and cooled down along a cosine; papers' own optimisers are not imitated.

    It writes runs/NAME/: report.html (one file, opens offline), results.json, metrics.csv, and a folder for the model,
    which `regard ask`, `regard evaluate` and `regard export` read, with its answers to the questions held out. Training
    that was broken off, in whatever way, goes on with the same command. Another --model of the same run joins it, but
    not vilt and blip, which see and read in ways of their own: `regard compare` takes them together with others.

    With --epochs 0 a checkpoint of ViLT or BLIP is not trained, but measured as it came: ViLT by its own answers, BLIP,
    which has none, by how it ranks those of the training questions.

    Examples:

      regard train vqa photos questions.csv

      regard train vqa photos questions.csv --model mcan --option layers=2 --pretrained --frozen

      regard train vqa coco/train2014 questions.json --annotations annotations.json --model ban --pretrained --frozen

      regard train vqa photos questions.csv --model vilt --question dandelin/vilt-b32-finetuned-vqa --epochs 0

      regard train vqa sort-of-clevr --model relation_network --minutes 60
    """
    from rich.console import Console

    from regard.experiment import compare
    from regard.experiment.choosing import GENERATED
    from regard.models.vqa import Recipe
    from regard.report import write_report

    folder = Path(pictures)
    asked = source(questions, folder, annotations, image_data)
    if asked is None and pictures not in GENERATED:
        raise UserError(
            f"no questions about the pictures in {pictures}: give their file behind it; only {' and '.join(GENERATED)} "
            "ask their own"
        )
    with stoppable():
        run = compare(
            model or ("find_then_move" if pictures == "digit-scenes" else Recipe.core), data=pictures, questions=asked,
            test=source_of_test(test, folder, test_pictures, test_annotations, image_data),
            seeds=seed_count, epochs=epochs, minutes=minutes, size=size, batch=batch, device=device,
            precision=precision, name=name, resume=resume, backbone=image, pretrained=pretrained, frozen=frozen,
            question=question, width=width, options=parsed(option or []), glove=glove, regions=regions, minimum=minimum,
            augmentation=augmentation, learning_rate=learning_rate, skip_bad=skip_bad,
        )  # fmt: skip
    console = Console()
    console.print(f"Report: {write_report(run.folder)}", highlight=False, soft_wrap=True)
    console.print(f"Ask it: {invitation(run)}", highlight=False, markup=False, soft_wrap=True)


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
        picture = str(run.folder / "example.png")
        drawn = b64decode(example["picture"].partition(",")[2])
        files.write(Path(picture), lambda partial: partial.write_bytes(drawn))
    regions = run.settings.options.get("regions")
    read = () if regions is None else ("--regions", regions)
    return command("ask", str(run.folder), picture, example["question"], *read)
