"""`regard compare`: the main job."""

from pathlib import Path
from typing import Annotated

import typer

from regard.cli import options
from regard.cli.options import DATA, MODEL, TRAINING, source, source_of_test, stoppable


def compare(
    attention: Annotated[
        str | None,
        typer.Option(
            help="Variants, with commas between them. Digit scenes: none, spatial, additive, general, scaled_dot, "
            "multi_head, stacked, find_then_move, hard (default: all). Pictures: any name of `regard catalog` that "
            "refines a map; none is always among them (default: se,eca,cbam). se+simam puts both at each place. "
            "Questions and sort-of-clevr: models, such as question_only, concatenation, stacked_attention, mcan.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of your own pictures with one sub-folder a class, or with --questions; sort-of-clevr; or "
            "digit-scenes, the default.",
            rich_help_panel=DATA,
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions about the pictures in --data: a CSV file with image,question,answer, or the JSON file of "
            "VQA, GQA, CLEVR, Visual Genome, TextVQA.",
            rich_help_panel=DATA,
        ),
    ] = None,
    annotations: options.Annotations = None,
    image_data: options.ImageData = None,
    test: options.Test = None,
    test_pictures: options.TestPictures = None,
    test_annotations: options.TestAnnotations = None,
    frozen: options.Frozen = False,
    question: options.Reader = "lstm",
    width: options.Width = 512,
    glove: options.Glove = None,
    regions: options.RegionFile = None,
    minimum: options.Minimum = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="Train each variant from this many seeds. Variants of one seed share data, order and initial values, "
            "so their differences are paired.",
            rich_help_panel=TRAINING,
        ),
    ] = 1,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="How long each variant trains. Default 32 on digit scenes, 20 on sort-of-clevr, 10 on pictures; with "
            "questions 8 to 100, some 1,200 steps. 0: measure vilt and blip as they came.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: options.Minutes = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of a picture in pixels. Default 40 on digit scenes, 128 on pictures, and 224 where a network "
            "of timm is asked questions.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch: options.Batch = 32,
    augmentation: options.Augmentation = None,
    learning_rate: options.LearningRate = None,
    device: options.Device = "auto",
    precision: options.Precision = "32-true",
    name: options.Name = None,
    resume: options.Resume = True,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            "--image",
            help="Any image model of timm; default resnet18. With questions also detector or convolutions, a small "
            "network, which is the default there without --pretrained.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    pretrained: options.Pretrained = False,
    at: Annotated[
        str,
        typer.Option(
            help="Where attention is put: block, branch, stage, stage3, pool, stem, a module's path or a glob.",
            rich_help_panel=MODEL,
        ),
    ] = "block",
    start: Annotated[
        str,
        typer.Option(
            help="identity: the network is unchanged right after insertion. paper: attention starts as published.",
            rich_help_panel=MODEL,
        ),
    ] = "identity",
    skip_bad: options.SkipBad = False,
) -> None:
    """Train one model several times, alike in everything but its attention, and show what attention brings and costs.

    Without --data it asks questions about scenes of handwritten digits, whose answers and places are known. With --data
    it classifies your own pictures without and with each mechanism in a network of timm, and reports the paired
    differences. With --questions it trains models that answer them.

    It writes runs/NAME/: report.html (one file, opens offline), results.json, metrics.csv, settings.json, and the
    weights of every variant as safetensors. A run that was broken off, in whatever way, goes on with the same command;
    what is finished is not repeated.

    Examples:

      regard compare

      regard compare --attention none,additive,find_then_move --seeds 3

      regard compare --data flowers --attention se,cbam --at branch --seeds 5

      regard compare --data photos --questions questions.csv --attention question_only,stacked_attention,mcan

      regard compare --data photos --questions questions.csv --attention mcan,vilt --question vilt=CHECKPOINT
    """
    from rich.console import Console

    from regard.experiment import compare as run_comparison
    from regard.report import write_report

    folder = data or Path()
    with stoppable():
        run = run_comparison(
            attention, data=data, questions=source(questions, folder, annotations, image_data),
            test=source_of_test(test, folder, test_pictures, test_annotations, image_data),
            frozen=frozen, question=question, width=width, glove=glove, regions=regions, minimum=minimum,
            augmentation=augmentation, learning_rate=learning_rate, seeds=seeds, epochs=epochs, minutes=minutes,
            size=size, batch=batch, device=device, precision=precision, name=name, resume=resume, backbone=backbone,
            pretrained=pretrained, at=at, start=start, skip_bad=skip_bad,
        )  # fmt: skip
    Console().print(f"Report: {write_report(run.folder)}", highlight=False, soft_wrap=True)
