"""A run's folder: what is finished in it, and the files that are made of the finished parts."""

import csv
import io
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard import files
from regard.errors import UserError
from regard.experiment.settings import Settings
from regard.experiment.statistics import holm, mean_interval, paired_interval, paired_item_p, paired_p

if TYPE_CHECKING:
    from regard.costing import Cost
    from regard.tasks.task import Evaluation

Outcomes = tuple[np.ndarray, np.ndarray]
"""How right each test item is, and the group (picture) that it belongs to."""


class Run:
    """The folder of one comparison.

    It holds `settings.json`, `results.json`, `metrics.csv`, `examples.json`, `readings.json`, `comparison.json`,
    `times.json`, at last `report.html`, and a folder for each variant and seed with `checkpoint.safetensors` while it
    trains, and `model.safetensors`, `result.json`, `outcomes.json`, `curve.json` and `readings.json` once it has. The
    files at the top are made anew from those of the parts, so that none of them can fall behind, but for `times.json`,
    the one measurement of all variants side by side.

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

    def describe(self, about: str) -> None:
        """Keep how models are built and trained, in words, among the settings."""
        path = self.folder / "settings.json"
        if about:
            files.write_json(path, {**files.read_json(path), "about": about})

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
        self,
        attention: str,
        seed: int,
        result: dict[str, Any],
        curve: list[dict[str, Any]],
        readings: list[Any],
        evaluation: "Evaluation | None" = None,
    ) -> None:
        """Keep what came of a part; its result last, because it says that the part is whole."""
        part = self.part(attention, seed)
        files.write_json(part / "curve.json", curve)
        files.write_json(part / "readings.json", readings)
        if evaluation is not None:
            correct = evaluation.correct
            right = correct.astype(int).tolist() if correct.dtype == bool else [round(float(x), 6) for x in correct]
            files.write_json(part / "outcomes.json", {"correct": right, "groups": evaluation.groups.tolist()}, None)
        files.write_json(part / "result.json", result)
        self.checkpoint(attention, seed).unlink(missing_ok=True)

    def outcomes(self, attention: str, seed: int) -> Outcomes | None:
        """The outcome of each test item, and its group; None where they were not kept."""
        path = self.part(attention, seed) / "outcomes.json"
        if not path.exists():
            return None
        kept = files.read_json(path)
        return np.array(kept["correct"], float), np.array(kept["groups"])

    def times(self) -> dict[str, dict[str, Any]]:
        """What each variant takes, measured side by side; empty while that has not been done."""
        path = self.folder / "times.json"
        return files.read_json(path) if path.exists() else {}

    def keep_times(self, costs: "Mapping[str, Cost]", wanted: Sequence[str] = ()) -> None:
        """Keep one measurement of all variants, of which the reference is compared with each.

        Args:
            costs: by variant, from one call of `regard.costing.costs`.
            wanted: the variants that were to be measured, default those that were; without their reference, which could
                not be, times are not compared.
        """
        first = costs.get(reference(wanted or list(costs)))
        ratios = {name: None if first is None else cost.time_ratio(first) for name, cost in costs.items()}
        files.write_json(
            self.folder / "times.json",
            {
                name: {
                    "milliseconds": cost.milliseconds,
                    "milliseconds_spread": cost.spread,
                    "milliseconds_ratio": None if (ratio := ratios[name]) is None else ratio[0],
                    "milliseconds_ratio_quartiles": None if ratio is None else ratio[1:],
                    "rounds": cost.repeats,
                }
                for name, cost in costs.items()
            },
        )

    def results(self) -> list[dict[str, Any]]:
        """The results of all finished parts, by variant and seed, with their times where these are measured."""
        times = self.times()
        none = {"milliseconds": None, "milliseconds_ratio": None, "milliseconds_ratio_quartiles": None}
        parts = [self.finished(attention, seed) for attention in self.variants for seed in self.seeds]
        return [{**result, **none, **times.get(result["attention"], {})} for result in parts if result is not None]

    def comparison(self) -> list[dict[str, Any]]:
        """The paired differences to the reference."""
        return compared(self.results(), self.outcomes)

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
        files.write_json(self.folder / "comparison.json", self.comparison())


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


def reference(variants: Sequence[str]) -> str:
    """The variant that others are compared with: `none`, or else the first."""
    return "none" if "none" in variants else variants[0]


def compared(
    results: list[dict[str, Any]], outcomes: Callable[[str, int], Outcomes | None] = lambda attention, seed: None
) -> list[dict[str, Any]]:
    """Return each variant's paired difference to the reference in overall accuracy.

    Of several seeds that both have finished, the differences of the seeds are the sample: Student's interval and paired
    test. Of a single one, its test items are, as far as their outcomes are kept.

    Args:
        results: of all finished parts.
        outcomes: those of the test items of a variant and seed, where they are kept.
    """
    by_part = {(result["attention"], result["seed"]): result for result in results}
    names = list(dict.fromkeys(result["attention"] for result in results))
    if not names:
        return []
    other = reference(names)
    table: list[dict[str, Any]] = []
    for attention in names:
        seeds = [seed for name, seed in by_part if name == attention != other and (other, seed) in by_part]
        if not seeds:
            continue
        pairs = [(by_part[attention, seed], by_part[other, seed]) for seed in seeds]
        differences = [one["accuracy"]["overall"] - base["accuracy"]["overall"] for one, base in pairs]
        interval, p, paired_by = mean_interval(differences), paired_p(differences), "seeds"
        if len(seeds) == 1:
            mine, theirs = outcomes(attention, seeds[0]), outcomes(other, seeds[0])
            if mine is not None and theirs is not None and np.array_equal(mine[1], theirs[1]):
                each, paired_by = mine[0] - theirs[0], "items"
                interval, p = paired_interval(each, mine[1]), paired_item_p(each, mine[1])
        ratio = pairs[0][0].get("milliseconds_ratio")
        table.append(
            {
                "attention": attention,
                "reference": other,
                "difference": float(np.mean(differences)),
                "interval": interval,
                "differences": differences,
                "p": p,
                "paired_by": paired_by,
                "milliseconds_ratio": ratio,
                "milliseconds_ratio_quartiles": pairs[0][0].get("milliseconds_ratio_quartiles"),
                "parameters_added": pairs[0][0]["parameters"] - pairs[0][1]["parameters"],
            }
        )
    for entry, adjusted in zip(table, holm([entry["p"] for entry in table]), strict=True):
        entry["adjusted_p"] = adjusted
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
