"""A run's folder: what is finished in it, and the files that are made of the finished parts."""

import csv
import io
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from regard import files
from regard.errors import UserError
from regard.experiment.settings import Settings
from regard.experiment.statistics import mean_interval, paired_p


class Run:
    """The folder of one comparison.

    It holds `settings.json`, `results.json`, `metrics.csv`, `examples.json`, `readings.json`, for pictures
    `comparison.json`, at last `report.html`, and a folder for each variant and seed with `checkpoint.safetensors`
    while it trains, and `model.safetensors`, `result.json`, `curve.json` and `readings.json` once it has. The files at
    the top are made anew from those of the parts, so that none of them can fall behind.

    Args:
        folder: where it is.
        settings: what is compared.
        resume: go on with what is there; otherwise it is put aside under another name.

    Raises:
        UserError: the folder holds something else, or a run with other settings.
    """

    def __init__(self, folder: Path, settings: Settings, resume: bool) -> None:
        self.folder = folder
        self.settings = settings
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, a run needs a folder: choose another --name")
        if folder.exists() and not resume:
            folder.rename(free_name(folder))
        old = folder / "settings.json"
        known: dict[str, Any] = {}
        if old.exists():
            known = files.read_json(old)
            if not isinstance(known, dict):
                raise UserError(f"{old} holds no settings of regard: move it away, or choose another --name")
            settings.require_same(known, folder)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds files that are no run of regard: choose another --name")
        mine = settings.as_json()
        for grown in ("attention", "seeds"):
            mine[grown] = list(dict.fromkeys([*known.get(grown, []), *mine[grown]]))
        about = {key: known.get(key) or value for key, value in _machine().items()}
        files.write_json(old, {**mine, **about})
        self.variants: list[str] = mine["attention"]
        self.seeds: list[int] = mine["seeds"]

    def part(self, attention: str, seed: int) -> Path:
        """The folder of one variant and seed."""
        return self.folder / f"{attention}-{seed}"

    def checkpoint(self, attention: str, seed: int) -> Path:
        return self.part(attention, seed) / "checkpoint.safetensors"

    def finished(self, attention: str, seed: int) -> dict[str, Any] | None:
        """The result of a part, or None while it has none."""
        path = self.part(attention, seed) / "result.json"
        return files.read_json(path) if path.exists() else None

    def finish(
        self, attention: str, seed: int, result: dict[str, Any], curve: list[dict[str, Any]], readings: list[Any]
    ) -> None:
        """Keep what came of a part; its result last, because it says that the part is whole."""
        part = self.part(attention, seed)
        files.write_json(part / "curve.json", curve)
        files.write_json(part / "readings.json", readings)
        files.write_json(part / "result.json", result)
        self.checkpoint(attention, seed).unlink(missing_ok=True)

    def results(self) -> list[dict[str, Any]]:
        """The results of all finished parts, by variant and seed."""
        parts = [self.finished(attention, seed) for attention in self.variants for seed in self.seeds]
        return [result for result in parts if result is not None]

    def gather(self, examples: list[dict[str, Any]] | None) -> None:
        """Make the files at the top from those of the finished parts."""
        results = self.results()
        files.write_json(self.folder / "results.json", results)
        rows: list[dict[str, Any]] = []
        readings: dict[str, list[Any]] = {}
        for result in results:
            attention, seed = result["attention"], result["seed"]
            part = self.part(attention, seed)
            rows += [{"attention": attention, "seed": seed, **row} for row in files.read_json(part / "curve.json")]
            if seed == 0:
                readings[attention] = files.read_json(part / "readings.json")
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(self.folder / "metrics.csv", text.getvalue())
        files.write_json(self.folder / "readings.json", readings)
        if examples is not None:
            files.write_json(self.folder / "examples.json", examples)
        if self.settings.task == "pictures":
            files.write_json(self.folder / "comparison.json", compared(results))


def find_run(name: str) -> Path:
    """The folder of a run, or of one model, by its path or by its name in `runs/`.

    Raises:
        UserError: there is none of that name.
    """
    known = ("settings.json", "recipe.json", "predictor.json")  # of a run, of a model, of a fusion
    # A folder of pictures often has the name of the run that was trained on it.
    for path in (Path(name), Path("runs") / name):
        if any((path / file).is_file() for file in known):
            return path
    there = ", ".join(sorted(path.parent.name for path in Path("runs").glob("*/settings.json"))) or "none"
    raise UserError(f"there is no run {name!r}: give a run's folder, or its name in runs/, which has {there}")


def named(folder: Path, parts: Sequence[Path], wanted: str | None) -> dict[str, Path]:
    """The folders of a run's models by name, `mcan-0`, ...

    Args:
        folder: the run.
        parts: the folders to choose from.
        wanted: a model with its seed, or without it for those of all seeds; None: all of them.

    Raises:
        UserError: there is none of that name.
    """
    there = {path.name: path for path in parts}
    found = {name: path for name, path in there.items() if wanted in (None, name, name.rpartition("-")[0])}
    if not found:
        raise UserError(f"{folder} has no model {wanted!r}: it has {', '.join(there)}")
    return found


def compared(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each variant's difference to `none` in overall accuracy, over the seeds that both have finished."""
    by_part = {(result["attention"], result["seed"]): result for result in results}
    table = []
    for attention in dict.fromkeys(result["attention"] for result in results):
        pairs = [
            (result, by_part["none", seed])
            for (name, seed), result in by_part.items()
            if name == attention != "none" and ("none", seed) in by_part
        ]
        if not pairs:
            continue
        differences = [one["accuracy"]["overall"] - none["accuracy"]["overall"] for one, none in pairs]
        table.append(
            {
                "attention": attention,
                "difference": float(np.mean(differences)),
                "interval": mean_interval(differences),
                "differences": differences,
                "p": paired_p(differences),
                "milliseconds_ratio": float(
                    np.mean([one["milliseconds"] / none["milliseconds"] for one, none in pairs])
                ),
                "parameters_added": pairs[0][0]["parameters"] - pairs[0][1]["parameters"],
            }
        )
    return table


def free_name(folder: Path) -> Path:
    """A name beside `folder` that nothing has yet."""
    number = 1
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    return folder.with_name(f"{folder.name}-{number}")


def _machine() -> dict[str, str]:
    import torch

    from regard import __version__

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": f"{cores} x {_processor()}, torch {torch.__version__}, Python {platform.python_version()}",
        "regard": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
