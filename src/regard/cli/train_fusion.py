"""`regard train fusion`: predict one column of a table from all others, whatever these hold."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regard.cli.options import DATA, RUN, Device, Folder, Name, Resume, stoppable
from regard.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

TRAINING = "The fusion and its training"


def fusion(
    table: Annotated[
        Path, typer.Argument(help="A CSV, Parquet or Arrow file; pictures, sounds and videos as paths in it.")
    ],
    target: Annotated[str, typer.Option(help="The column to predict.", rich_help_panel=DATA)] = "label",
    task: Annotated[
        str | None,
        typer.Option(
            help="classification or regression. Default: regression of numbers that are not all whole, or of more than "
            "20 values; else classification.",
            rich_help_panel=DATA,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Those to predict from, with commas between them; default all others.", rich_help_panel=DATA),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="What a column holds, where it does not look so: photo=image, or text, audio, video, number, "
            "category; as often as needed.",
            rich_help_panel=DATA,
        ),
    ] = None,
    folder: Folder = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without rows that cannot be read.", rich_help_panel=DATA)
    ] = False,
    fusion: Annotated[
        str,
        typer.Option(
            help="Feature level: concatenation, gated, low_rank_bilinear, factorized_bilinear, tucker, block_bilinear, "
            "tensor, low_rank_tensor; decision level: vote, stacking, gradient_blending; model level: cross_attention, "
            "directed_pairs, bottleneck, perceiver. Commas between several, which see the same rows.",
            rich_help_panel=TRAINING,
        ),
    ] = "concatenation,stacking,bottleneck",
    width: Annotated[int, typer.Option(help="Of tokens and of the fusion.", rich_help_panel=TRAINING)] = 64,
    image: Annotated[
        str | None,
        typer.Option(
            help="What sees pictures: any image model of timm; default a small network.", rich_help_panel=TRAINING
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained", help="With timm's published weights, if they can be had.", rich_help_panel=TRAINING
        ),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(help="Side of a picture in pixels. Default 32; with --image 224.", rich_help_panel=TRAINING),
    ] = None,
    epochs: Annotated[
        int, typer.Option(help="The most; each fusion stops where it gets no better.", rich_help_panel=TRAINING)
    ] = 40,
    batch: Annotated[int, typer.Option(help="Rows a batch.", rich_help_panel=TRAINING)] = 32,
    modality_dropout: Annotated[
        float,
        typer.Option(help="How often a modality of a row is hidden in training.", rich_help_panel=TRAINING),
    ] = 0.1,
    held_out: Annotated[
        float, typer.Option(help="Share of the rows that nothing but the test sees.", rich_help_panel=RUN)
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Where chance comes from.", rich_help_panel=RUN)] = 0,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Draw how the score falls as each modality is dropped or made noisy.",
            rich_help_panel=RUN,
        ),
    ] = False,
    device: Device = "auto",
    name: Name = None,
    resume: Resume = True,
) -> None:
    """Predict one column of a table from its others: text, pictures, sounds, videos, numbers and categories, together.

    What the columns hold is inferred, and said. All fusions are trained on the same rows and tested on the same
    others, once whole and once without each modality, all numbers and categories together being one.

    It writes runs/NAME/: report.html (one file, opens offline), results.json, and a folder for each fusion, which
    `regard evaluate NAME OTHER.csv` and `regard.models.fusion.Predictor.load` read. A run that was broken off goes on
    with the same command, and another --fusion joins it.

    Examples:

      regard train fusion posts.csv

      regard train fusion houses.csv --target price --kind front=image --fusion gated,tensor,vote --robustness

      regard train fusion clips.parquet --target mood --columns words,face,voice --fusion bottleneck --epochs 80
    """
    from rich.console import Console
    from rich.text import Text

    from regard.experiment.compare import found_device
    from regard.experiment.display import wide
    from regard.experiment.run import free_name
    from regard.models.fusion import train_fusions
    from regard.models.fusion.columns import columns_of, folder_of, kinds_of
    from regard.report import write_report

    console = wide(Console())
    folder = folder_of(table, folder)
    data = columns_of(table)
    kinds = kinds_of(data, target, wanted(list(data), target, columns, kind or []), folder)
    seeing = {"backbone": image, "pretrained": pretrained, "size": size or (32 if image is None else 224)}
    place = Path("runs") / (name or table.stem)
    if place.exists() and not resume:
        place.rename(free_name(place))
    with stoppable():
        results = train_fusions(
            place, data, listed(fusion), target=target, task=task, columns=kinds, folder=folder, skip_bad=skip_bad,
            width=width, encoder_options={column: seeing for column, held in kinds.items() if held == "image"},
            epochs=epochs, batch=batch, modality_dropout=modality_dropout, test_share=held_out, seed=seed,
            robustness=robustness, device=found_device(device),
            say=lambda line: console.print(Text(line, style="dim"), soft_wrap=True),
        )  # fmt: skip
    console.print(shown(results, "rows that no training saw"))
    console.print(f"Report: {write_report(place)}", highlight=False, soft_wrap=True)


def listed(names: str) -> list[str]:
    """Names with commas between them.

    Raises:
        UserError: there is none.
    """
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found:
        raise UserError(f"{names!r} names nothing: give at least one name")
    return found


def wanted(names: list[str], target: str, columns: str | None, kinds: list[str]) -> dict[str, str | None]:
    """The columns to predict from, each with its kind where one is given.

    Raises:
        UserError: a kind is not given as COLUMN=KIND, or that of a column that is not used.
    """
    found: dict[str, str | None] = dict.fromkeys(
        [name for name in names if name != target] if columns is None else listed(columns)
    )
    for each in kinds:
        name, _, kind = each.rpartition("=")
        if name not in found:
            raise UserError(f"--kind {each!r}: expected COLUMN=KIND, such as photo=image, of one of {', '.join(found)}")
        found[name] = kind
    return found


def shown(results: list[dict[str, Any]], rows: str) -> "Table":
    """A row a fusion: what it scores, whole and without some modalities; `rows` says on which."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from regard.formatting import number

    first = results[0]["test"]
    regression = "r_squared" in first
    measure = "r_squared" if regression else "accuracy"
    names = {"r_squared": "R²", "accuracy": "accuracy"}
    title = f"{names[measure]} in per cent on {first['rows']:,} {escape(rows)}, with its 95 % interval"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("fusion", style="bold")
    table.add_column("level")
    for heading in (
        "whole",
        *(["mean error"] if regression else []),
        *(f"no {escape(gone)}" for gone in results[0]["without"]),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        test, without = result["test"], result["without"]
        low, high = test["interval"]
        error = [number(test["mean_absolute_error"], 4)] if regression else []
        table.add_row(
            result["fusion"],
            result["level"],
            f"{100 * test[measure]:.1f} [dim]{100 * low:.1f}–{100 * high:.1f}[/]",
            *error,
            *(f"{100 * report[measure]:.1f}" for report in without.values()),
        )
    table.add_section()
    known = ["0.0", number(first["mean_alone"], 4)] if regression else [f"{100 * first['most_common']:.1f}"]
    table.add_row("the mean alone" if regression else "the most common class", "", *known, style="dim")
    return table
