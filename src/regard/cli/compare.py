"""`regard compare`: the main job."""

from pathlib import Path
from typing import Annotated

import typer

from regard.cli.train import (
    DATA,
    Annotations,
    Frozen,
    Glove,
    ImageData,
    LearningRate,
    Minimum,
    Reader,
    ReadWords,
    RegionFile,
    Test,
    TestAnnotations,
    TestPictures,
    Width,
    source,
)

BOTH, OWN = "What and how", "Your own pictures"


def compare(
    attention: Annotated[
        str | None,
        typer.Option(
            help="Variants, with commas between them. Digit scenes: none, spatial, additive, dot, multi_head, stacked, "
            "hard (default: all). Pictures: any name of `regard catalog` that refines a map; none is always among them "
            "(default: se,eca,cbam). se+simam puts both at each place. Questions and sort-of-clevr: models, such as "
            "question_only, concatenation, stacked_attention, mcan.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of your own pictures with one sub-folder a class, or with --questions; sort-of-clevr; or "
            "digit-scenes, the default.",
            rich_help_panel=BOTH,
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
    annotations: Annotations = None,
    image_data: ImageData = None,
    words: ReadWords = None,
    test: Test = None,
    test_pictures: TestPictures = None,
    test_annotations: TestAnnotations = None,
    frozen: Frozen = False,
    question: Reader = "lstm",
    width: Width = 512,
    glove: Glove = None,
    regions: RegionFile = None,
    minimum: Minimum = None,
    learning_rate: LearningRate = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="Train each variant from this many seeds. Variants of one seed share data, order and initial values, "
            "so their differences are paired.",
            rich_help_panel=BOTH,
        ),
    ] = 1,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="How long each variant trains. Default 32 on digit scenes, 20 on sort-of-clevr, 10 on pictures; with "
            "questions 8 to 100, some 1,200 steps.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="The same in minutes of training a variant, instead of --epochs.", rich_help_panel=BOTH),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of a picture in pixels. Default 40 on digit scenes, 128 on pictures, and 224 where a network "
            "of timm is asked questions.",
            rich_help_panel=BOTH,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures a batch.", rich_help_panel=BOTH)] = 32,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; auto takes the best there is.", rich_help_panel=BOTH)
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.", rich_help_panel=BOTH),
    ] = "32-true",
    name: Annotated[
        str | None,
        typer.Option(
            help="The run's name, a folder in runs/. Default digit-scenes, or the name of --data.", rich_help_panel=BOTH
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on with what the run of this name has finished. --no-resume puts it aside under another name and "
            "begins again.",
            rich_help_panel=BOTH,
        ),
    ] = True,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Any image model of timm; default resnet18. With questions also detector or convolutions, a small "
            "network, which is the default there without --pretrained.",
            rich_help_panel=OWN,
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained", help="Start from timm's published weights, if they can be had.", rich_help_panel=OWN
        ),
    ] = False,
    at: Annotated[
        str,
        typer.Option(
            help="Where attention is put: block, branch, stage, stage3, pool, stem, a module's path or a glob.",
            rich_help_panel=OWN,
        ),
    ] = "block",
    start: Annotated[
        str,
        typer.Option(
            help="identity: the network is unchanged right after insertion. paper: attention starts as published.",
            rich_help_panel=OWN,
        ),
    ] = "identity",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without pictures that cannot be read.", rich_help_panel=OWN)
    ] = False,
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

      regard compare --attention none,additive,stacked --seeds 3

      regard compare --data flowers --attention se,cbam --at branch --seeds 5

      regard compare --data photos --questions questions.csv --attention question_only,stacked_attention,mcan
    """
    from rich.console import Console

    from regard.experiment import compare as run_comparison
    from regard.report import write_report

    try:
        run = run_comparison(
            attention, data=data,
            questions=source(questions, data or Path(), annotations, image_data, words),
            test=source(test, test_pictures or data or Path(), test_annotations, image_data, None),
            frozen=frozen, question=question, width=width, glove=glove, regions=regions, minimum=minimum,
            learning_rate=learning_rate, seeds=seeds, epochs=epochs, minutes=minutes, size=size, batch=batch,
            device=device, precision=precision, name=name, resume=resume, backbone=backbone, pretrained=pretrained,
            at=at, start=start, skip_bad=skip_bad,
        )  # fmt: skip
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. Nothing finished is lost: the same command goes on from the last epoch.")
        raise typer.Exit(130) from None
    page = write_report(run.folder)
    Console().print(f"Report: {page}", highlight=False, soft_wrap=True)
