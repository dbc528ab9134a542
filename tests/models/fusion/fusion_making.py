"""Small tables with files, for the tests of this folder."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RATE = 2000


def write_sound(path: Path, values: np.ndarray, rate: int = RATE, depth: int = 2) -> None:
    """PCM, `(samples,)` or `(samples, channels)` in -1..1."""
    values = values[:, None] if values.ndim == 1 else values
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(depth)
        file.setframerate(rate)
        scaled = np.round(values * (2 ** (8 * depth - 1) - 1)).astype(np.int64)
        if depth == 1:
            file.writeframes((scaled + 128).astype(np.uint8).tobytes())
        else:
            raw = scaled.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :depth]
            file.writeframes(raw.tobytes())


def table(folder: Path, rows: int = 36) -> dict[str, list[Any]]:
    """Columns of every kind, which all tell the label on their own."""
    random = np.random.default_rng(3)
    labels = np.arange(rows) % 2
    columns: dict[str, list[Any]] = {name: [] for name in ("note", "photo", "noise", "clip", "size", "colour", "label")}
    for row, label in enumerate(labels):
        shade = 40 + 160 * label
        Image.fromarray(random.integers(shade, shade + 40, (9, 11, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        tone = np.sin(np.arange(150 + row) * (0.2 + label))
        write_sound(folder / f"{row}.wav", 0.5 * tone)
        (folder / f"clip{row}").mkdir()
        for frame in range(3):
            light = np.full((8, 8), 30 + 60 * frame if label else 150 - 60 * frame, np.uint8)
            Image.fromarray(light).save(folder / f"clip{row}" / f"{frame}.png")
        told = ("it rained all day and nobody came", "the sun shone on us and we laughed")[label]
        columns["note"].append(f"{told} number {row}")
        columns["photo"].append(f"{row}.png")
        columns["noise"].append(f"{row}.wav")
        columns["clip"].append(f"clip{row}")
        columns["size"].append(float(10 * label + random.normal()))
        columns["colour"].append(("red", "blue")[label])
        columns["label"].append(("bad", "good")[label])
    return columns
