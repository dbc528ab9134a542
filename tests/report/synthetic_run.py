"""A run folder as `regard compare` writes it, made up of numbers that are the same every time."""

import csv
import json
import zlib
from base64 import b64encode
from io import StringIO
from math import exp, hypot
from pathlib import Path
from random import Random
from struct import pack
from typing import Any

FAMILIES = ("attribute", "relation", "count", "comparison")
SCENES = ("none", "spatial", "additive", "dot", "multi_head", "stacked", "hard")


def png(rows: list[list[tuple[int, int, int]]]) -> str:
    """A picture as a data URL."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + bytes(value for colour in row for value in colour) for row in rows)
    header = pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def squares(draw: Random, size: int, box: tuple[int, int, int, int]) -> str:
    """Noise with one bright square in it."""
    left, top, wide, high = box
    rows = [[(grey := draw.randrange(40), grey, grey) for _ in range(size)] for _ in range(size)]
    for row in range(top, top + high):
        rows[row][left : left + wide] = [(230, 70, 60)] * wide
    return png(rows)


def bump(size: int, x: float, y: float, width: float) -> list[list[float]]:
    """Weights around a place in 0..1 that sum to one."""
    rows = [
        [exp(-((hypot((column + 0.5) / size - x, (row + 0.5) / size - y) / width) ** 2)) for column in range(size)]
        for row in range(size)
    ]
    total = sum(map(sum, rows))
    return [[value / total for value in row] for row in rows]


def write(
    folder: Path,
    task: str = "digit-scenes",
    attention: tuple[str, ...] = SCENES,
    seeds: tuple[int, ...] = (0,),
    keys: tuple[str, ...] = FAMILIES,
    finished: int | None = None,
    examples: int = 8,
) -> Path:
    """Write a run; `finished` variants of it, all by default."""
    draw = Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    _save(
        folder / "settings.json",
        {
            "task": task,
            "attention": [name for name in attention if task != "pictures" or name != "none"],
            "seeds": list(seeds),
            "machine": "2 x AMD EPYC, torch 2.15, Python 3.11",
            "regard": "0.1.0",
            "started": "2026-01-02T03:04:05",
            "batch": 64,
            "learning_rate": 0.001,
            "data": None,
        },
    )
    done = attention[: len(attention) if finished is None else finished]
    results = [_result(draw, name, place, seed, keys) for place, name in enumerate(done) for seed in seeds]
    _save(folder / "results.json", results)
    (folder / "metrics.csv").write_text(_metrics(draw, results, keys))
    if task == "pictures":
        _save(folder / "comparison.json", _comparison(results, done, seeds))
    asked, readings = _examples(draw, task, done, keys, examples)
    _save(folder / "examples.json", asked)
    _save(folder / "readings.json", readings)
    return folder


def _result(draw: Random, name: str, place: int, seed: int, keys: tuple[str, ...]) -> dict[str, Any]:
    accuracy = {
        key: min(0.995, max(0.2, (0.35 if name == "none" else 0.7 + 0.05 * place) + draw.uniform(-0.05, 0.1)))
        for key in keys
    }
    if "relation" in keys and name != "stacked":
        accuracy["relation"] = draw.uniform(0.4, 0.55)
    accuracy["overall"] = sum(accuracy.values()) / len(keys)
    return {
        "attention": name,
        "seed": seed,
        "accuracy": accuracy,
        "interval": {key: [max(0.0, value - 0.015), min(1.0, value + 0.015)] for key, value in accuracy.items()},
        "questions": dict.fromkeys(accuracy, 500),
        "pointing": None if name == "none" else 0.9 + 0.01 * place,
        "parameters": 61_234 + 4_321 * place,
        "macs": 2_345_678 + 98_765 * place,
        "milliseconds": 0.41 + 0.06 * place + draw.uniform(0, 0.05),
        "train_seconds": 31.5 + place,
    }


def _metrics(draw: Random, results: list[dict[str, Any]], keys: tuple[str, ...]) -> str:
    named = [*keys, "overall"]
    file = StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["attention", "seed", "epoch", "step", "seconds", "loss", *(f"accuracy_{key}" for key in named)])
    for result in results:
        for epoch in range(1, 13):
            grown = 1 - exp(-epoch / 3)
            values = [result["accuracy"][key] * (0.3 + 0.7 * grown) + draw.uniform(-0.01, 0.01) for key in named]
            cells = [f"{value:.4f}" for value in values]
            if epoch == 2:
                cells[0] = ""
            seconds = result["train_seconds"] * epoch / 12
            loss = f"{2.3 * exp(-epoch / 4):.4f}"
            lines.writerow([result["attention"], result["seed"], epoch, epoch * 40, f"{seconds:.2f}", loss, *cells])
    return file.getvalue()


def _comparison(
    results: list[dict[str, Any]], attention: tuple[str, ...], seeds: tuple[int, ...]
) -> list[dict[str, Any]]:
    overall = {(result["attention"], result["seed"]): result["accuracy"]["overall"] for result in results}
    entries = []
    for place, name in enumerate(attention):
        if name == "none":
            continue
        differences = [overall[name, seed] - overall["none", seed] for seed in seeds]
        mean = sum(differences) / len(differences)
        entries.append(
            {
                "attention": name,
                "difference": mean,
                "interval": None if len(seeds) == 1 else [mean - 0.02 * (place + 1), mean + 0.02 * (place + 1)],
                "differences": differences,
                "p": None if len(seeds) == 1 else 0.013 * place,
                "milliseconds_ratio": 1.0 + 0.04 * place,
                "parameters_added": 1234 * place,
            }
        )
    return entries


def _examples(
    draw: Random, task: str, attention: tuple[str, ...], keys: tuple[str, ...], count: int
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    asked, readings = [], {name: [] for name in attention}
    for place in range(count):
        box = (draw.randrange(4, 36), draw.randrange(4, 36), 10, 12)
        key = keys[place % len(keys)]
        asked.append(
            {
                "picture": squares(draw, 56, box),
                "width": 56,
                "height": 56,
                "question": None if task == "pictures" else f"which digit is red in number {place}?",
                "family": None if task == "pictures" else key,
                "truth": key if task == "pictures" else "seven",
                "box": None if task == "pictures" else list(box),
            }
        )
        x, y = (box[0] + 5) / 56, (box[1] + 6) / 56
        for name in attention:
            correct = place % 3 == 0 or draw.random() < (0.3 if name == "none" else 0.8)
            off = 0.0 if correct else 0.4
            maps: list[dict[str, Any]] = []
            if name == "stacked":
                maps.append({"label": "hop 1", "weights": bump(7, 0.4, 0.7, 0.25), "sums_to_one": True})
                maps.append({"label": "hop 2", "weights": bump(7, (x + off) % 1, y, 0.12), "sums_to_one": True})
            elif name in ("se", "eca"):
                maps.append({"label": "channels", "values": [draw.random() for _ in range(64)]})
            elif name != "none":
                maps.append({"label": "attention", "weights": bump(7, (x + off) % 1, y, 0.15), "sums_to_one": True})
            readings[name].append(
                {
                    "answer": asked[-1]["truth"] if correct else "three",
                    "probability": draw.uniform(0.4, 1.0),
                    "correct": correct,
                    "maps": maps,
                }
            )
    return asked, readings


def _save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
