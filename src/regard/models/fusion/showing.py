"""Rows of the test that a run's report shows, and what a fusion says to them."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.formatting import number
from regard.models.fusion.outcome import Classes
from regard.models.fusion.predictor import Predictor

EXAMPLES = 12

SIDE = 160
"""Pixels of a picture's shorter side at most."""

LETTERS = 400
"""Of a text, so many are shown."""


def some_rows(columns: Mapping[str, Sequence[Any]], most: int = EXAMPLES) -> dict[str, list[Any]]:
    """Return some rows of a table, evenly chosen, the first and the last among them."""
    count = len(next(iter(columns.values()), []))
    rows = range(count) if count <= most else [round(place * (count - 1) / (most - 1)) for place in range(most)]
    return {name: [values[row] for row in rows] for name, values in columns.items()}


def examples(
    columns: Mapping[str, Sequence[Any]], kinds: Mapping[str, str], target: str, folder: Path
) -> list[dict[str, Any]]:
    """Return what each row holds, as the report shows it: `cells` by column, texts or pictures, and the `truth`."""
    rows = range(len(columns[target]))
    return [
        {
            "cells": {name: cell(columns[name][row], kind, folder) for name, kind in kinds.items() if name in columns},
            "truth": said(columns[target][row]),
        }
        for row in rows
    ]


def cell(value: Any, kind: str, folder: Path) -> dict[str, Any]:
    """Return a cell as `text`, or as a `picture` inside a link."""
    if value is None:
        return {"text": "missing"}
    if kind == "image":
        try:
            return {"picture": picture_link(value, folder)}
        except Exception as error:  # whatever Pillow raises; with `skip_bad`, such a cell counts as missing
            return {"text": f"cannot be read: {error}"[:LETTERS]}
    if isinstance(value, (str, Path)):
        text = str(value)
        return {"text": text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"}
    return {"text": said(value) if isinstance(value, (bool, int, float)) else type(value).__name__}


def picture_link(value: Any, folder: Path) -> str:
    """Return a file, a Pillow image or an array as a small JPEG or, where that is tiny, PNG picture inside a link."""
    from PIL import Image

    from regard.models.decoding import decode

    given = folder / value if isinstance(value, (str, Path)) else value
    image = decode(given if isinstance(given, (Path, Image.Image)) else Image.fromarray(given), SIDE)
    kind = "PNG" if max(image.size) <= 64 else "JPEG"
    file = io.BytesIO()
    image.save(file, format=kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def readings(predictor: Predictor, columns: Mapping[str, Sequence[Any]], folder: Path, skip_bad: bool) -> list[Any]:
    """Return what a predictor says to each row: the `answer`, its `probability`, and whether it is `correct`.

    Of numbers, which are never just right, the last two are None.
    """
    table = dict(columns)
    answers = predictor.predict(table, folder=folder, skip_bad=skip_bad)
    if not isinstance(predictor.outcome, Classes):
        return [{"answer": said(answer), "probability": None, "correct": None} for answer in answers]
    chances = predictor.predict_proba(table, folder=folder, skip_bad=skip_bad).max(1).tolist()
    truths = columns[predictor.target]
    return [
        {"answer": said(answer), "probability": chance, "correct": answer == truth}
        for answer, chance, truth in zip(answers, chances, truths, strict=True)
    ]


def said(value: Any) -> str:
    """Return a label or a number as it is read."""
    return number(value, 4) if isinstance(value, float) and not value.is_integer() else str(value)
