"""A table in, a predictor out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from regard.errors import GO_ON_WITHOUT, UserError
from regard.models.fusion.cells import TABULAR, Bad, Cells, bad_numbers, values_of, wrong
from regard.models.fusion.columns import columns_of, folder_of, kinds_of
from regard.models.fusion.encoders import Encoder, encoders
from regard.models.fusion.model import Batch, FusionModel, collate
from regard.models.fusion.outcome import Outcome, form_of
from regard.models.fusion.predictor import Predictor, build, on
from regard.models.fusion.splitting import split
from regard.models.fusion.table import fusions
from regard.models.fusion.training import Recipe, train

SETTLING_SHARE = 0.15
"""Of the rows, for fusions that settle something on rows that nothing was trained on."""


def fit(
    table: Any,
    target: str = "label",
    columns: Sequence[str] | Mapping[str, str | None] | None = None,
    fusion: str = "concatenation",
    *,
    task: str | None = None,
    rows: Sequence[int] | None = None,
    width: int = 64,
    fusion_options: Mapping[str, Any] | None = None,
    encoder_options: Mapping[str, Mapping[str, Any]] | None = None,
    folder: str | Path | None = None,
    held_out: float = 0.15,
    epochs: int = 40,
    batch: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    patience: int = 8,
    modality_dropout: float = 0.1,
    seed: int = 0,
    device: str | None = None,
    skip_bad: bool = False,
    checkpoint: str | Path | None = None,
    memory: float = 2.0,
    say: Callable[[str], object] = print,
) -> Predictor:
    """Train on the columns of a table, text, pictures, sounds, videos, numbers and categories, to predict one of them.

    What the columns hold is inferred, and said; vocabularies and statistics come from the rows that are trained on.

    Args:
        table: a pandas data frame, an Arrow table, a mapping from names to columns, a list of mappings, or the path of
            a CSV, Parquet or Arrow file. Pictures, sounds and videos are paths (pictures also Pillow images or arrays;
            a video also a folder of frames). A cell that is None, NaN or blank is missing.
        target: the column to predict.
        columns: those to predict from, all others by default; a mapping gives kinds as well: `"text"`, `"image"`,
            `"audio"`, `"video"`, `"number"`, `"category"`, or None to infer one.
        fusion: a key of `regard.models.fusion.fusions`.
        task: `"classification"`, or `"regression"` of a number; inferred from the target by default: numbers that are
            not all whole, or of more than 20 values, are regressed on, all else is taken for classes.
        rows: those to train on and to hold out from, counted from 0; default all.
        width: width of tokens and of the fusion.
        fusion_options: further arguments of the fusion.
        encoder_options: for a column of text, pictures, sounds or videos further arguments of its encoder, such as
            `{"photo": {"backbone": "resnet18", "pretrained": True, "size": 224}}`.
        folder: where relative paths begin; default the folder of the file, else the current one.
        held_out: share of the rows that training does not see, by which it stops early.
        epochs, batch, learning_rate, weight_decay, patience, modality_dropout, seed: see `training.Recipe`.
        device: as PyTorch names it; default a GPU if there is one.
        skip_bad: whether rows with a cell that cannot be read are left out, instead of being an error.
        checkpoint: a file that training is written to after every epoch, and taken up from if it is there.
        memory: gigabytes of cells to keep once they are read; the others are read again in every epoch.
        say: is given a line about columns, skipped rows and every epoch.

    Raises:
        UserError: the table, a column, a row or an argument is wrong; the message says which and what to do.
    """
    folder = folder_of(table, folder)
    data = columns_of(table)
    if target not in data:
        raise UserError(
            f"there is no column {target!r} to predict: the table has {', '.join(data)}; choose one as the target"
        )
    if fusion not in fusions:
        raise UserError(f"there is no fusion {fusion!r}: choose one of {', '.join(fusions)}")
    kinds = kinds_of(data, target, columns, folder)
    form = form_of(target, data[target], task)
    say(f"target: {target} ({form.task})")
    say("columns: " + ", ".join(f"{name} ({kind})" for name, kind in kinds.items()))
    values = values_of(data, kinds, folder)
    options = {name: dict(given) for name, given in (encoder_options or {}).items()}
    if strange := [name for name in options if name not in values or name == TABULAR]:
        raise UserError(f"encoder_options names {strange}: choose among {', '.join(n for n in values if n != TABULAR)}")
    place, kept = on(device), [int(memory * 2**30)]
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        # What reads files needs nothing of the data, so that bad ones are found before the rows are split.
        cells = {
            name: Cells(name, encoders[kinds[name]].learn([], width, **options.get(name, {})), column, kept)
            for name, column in values.items()
            if kinds.get(name) in ("image", "audio", "video")
        }
        labels, problems = labels_of(target, data[target], form)
        problems += [(TABULAR, bad) for bad in bad_numbers(values.get(TABULAR, []), kinds)]
        problems += [(name, bad) for name, each in cells.items() for bad in each.bad()]
        bad_rows = refuse(problems, skip_bad, say)
        good = [row for row in (range(len(labels)) if rows is None else rows) if row not in bad_rows]
        parts = split(good, form.strata(labels), (held_out, SETTLING_SHARE if fusions[fusion].settles else 0.0), seed)
        known = [label for row, label in enumerate(labels) if row not in bad_rows]  # a class may be in the test alone
        outcome = form.learn(known, [labels[row] for row in parts[0]])
        for name, column in values.items():
            if name not in cells:
                seen = [column[row] for row in parts[0] if column[row] is not None]
                cells[name] = Cells(name, learn(name, seen, kinds, width, options.get(name, {})), column, kept)
            cells[name].encoder.adapt(cells[name].among(parts[0]))
        readers = {name: cells[name].encoder for name in values}
        model = FusionModel(readers, build(fusion, readers, outcome, width, fusion_options or {})).to(place)

        def batches(rows: Sequence[int], dropped: float) -> Batch:
            raw = [{name: cells[name][row] for name in readers} for row in rows]
            return collate(readers, raw, torch.tensor([outcome.encode(labels[row]) for row in rows]), dropped)

        about = {"fusion": fusion, "options": dict(fusion_options or {}), "kinds": kinds, "outcome": outcome.as_json()}
        about["encoders"] = {name: reader.settings for name, reader in readers.items()}
        recipe = Recipe(epochs, batch, learning_rate, weight_decay, patience, modality_dropout, seed)
        state = None if checkpoint is None else Path(checkpoint)
        history = train(model, batches, parts, recipe, place, state, about, say)
    return Predictor(model, target, kinds, fusion_options or {}, history, place)


def refuse(problems: Sequence[tuple[str, Bad]], skip_bad: bool, say: Callable[[str], object]) -> set[int]:
    """The rows to leave out.

    Raises:
        UserError: there are some, and they are not to be skipped.
    """
    rows = {bad.row for _, bad in problems}
    if problems:
        first = wrong(*problems[0]) + (f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else "")
        if not skip_bad:
            raise UserError(f"{first}: mend such rows, or {GO_ON_WITHOUT}")
        say(f"left out {len(rows)} rows: {first}")
    return rows


def learn(
    name: str, values: Sequence[Any], kinds: Mapping[str, str], width: int, options: Mapping[str, Any]
) -> Encoder:
    """The encoder of a modality that takes what it knows from the values of the training part."""
    if name == TABULAR:
        flat = {column: kind for column, kind in kinds.items() if kind in ("number", "category")}
        return encoders[TABULAR].learn(values, width, kinds=flat)
    return encoders[kinds[name]].learn(values, width, **options)


def labels_of(target: str, values: Sequence[Any], form: type[Outcome]) -> tuple[list[Any], list[tuple[str, Bad]]]:
    """The target's values as the form reads them, None where it cannot, and these with their reasons."""
    labels, problems = [], []
    for row, value in enumerate(values):
        try:
            if value is None:
                raise ValueError("is empty")
            labels.append(form.read(value))
        except ValueError as error:
            labels.append(None)
            problems.append((target, Bad(row, str(error))))
    return labels, problems
