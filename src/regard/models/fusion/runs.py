"""Several fusions trained on the same rows of a table and tested on the same others, in a folder that grows."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from regard import files
from regard.commands import command
from regard.errors import UserError, nearest
from regard.models.fusion.columns import columns_of, folder_of
from regard.models.fusion.fitting import fit, labels_of, refuse
from regard.models.fusion.outcome import form_of
from regard.models.fusion.predictor import Predictor
from regard.models.fusion.showing import examples, readings, some_rows
from regard.models.fusion.splitting import split
from regard.models.fusion.table import fusions

Result = dict[str, Any]
"""What `train_fusions` gives for each fusion."""


def train_fusions(
    place: Path,
    table: Any,
    names: Sequence[str],
    *,
    target: str = "label",
    task: str | None = None,
    folder: str | Path | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    skip_bad: bool = False,
    robustness: bool = False,
    say: Callable[[str], object] = print,
    **options: Any,  # those of `fit`, which refuses what it does not know
) -> list[Result]:
    """Train each fusion on the same rows, and test it on the same others, whole and without each modality.

    The folder gets `settings.json`, `results.json`, `examples.json`, some rows of the test, and a folder `NAME-SEED`
    for each fusion, which `Predictor.load` reads, with its `result.json`, its answers to those rows in `readings.json`
    and, if wanted, `robustness.svg` and `robustness.json`. What is finished there is not repeated, and training that
    was broken off goes on after its last epoch.

    Args:
        place: the folder.
        table, target, task, folder, seed, skip_bad, say: as of `fit`.
        names: keys of `fusions`.
        test_share: share of the rows that nothing but the test sees.
        robustness: whether the curves of `Predictor.robustness` are drawn.
        options: further arguments of `fit`.

    Returns:
        For each of the names its `fusion`, `level`, `seed`, `parameters` of the fusion, `test` and `without`, by
        modality: reports as of `Predictor.evaluate`.

    Raises:
        UserError: as of `fit`; or the folder holds something else, or a run of other data or settings.
    """
    if strange := [name for name in names if name not in fusions]:
        raise UserError(f"there is no fusion {strange[0]!r}: choose among {', '.join(fusions)}")
    folder = folder_of(table, folder)
    columns = columns_of(table)
    if target not in columns:
        raise UserError(
            f"there is no column {target!r} to predict: the table has {', '.join(columns)}; choose one as the target"
        )
    form = form_of(target, columns[target], task)
    labels, problems = labels_of(target, columns[target], form)
    unknown = refuse(problems, skip_bad, lambda line: None)  # `fit` will say it
    known = [row for row in range(len(labels)) if row not in unknown]
    training, test, _ = split(known, form.strata(labels), (test_share, 0.0), seed)
    tested = {name: [values[row] for row in test] for name, values in columns.items()}
    settings = {"target": target, "outcome": form.task, "folder": str(folder), "test_share": test_share, "seed": seed}
    settings |= {"skip_bad": skip_bad, "options": {name: value for name, value in options.items() if name != "device"}}
    claim(place, {"task": "fusion", "data": fingerprint(columns), **settings})
    results = []
    for name in names:
        part = place / f"{name}-{seed}"
        if not (part / "result.json").exists():
            checkpoint = part / "checkpoint.safetensors"
            predictor = fit(
                columns, target, fusion=name, task=form.task, rows=sorted(training), folder=folder, seed=seed,
                skip_bad=skip_bad, checkpoint=checkpoint, say=lambda line, name=name: say(f"{name}: {line}"), **options,
            )  # fmt: skip
            predictor.save(part)
            alone = [[gone] for gone in predictor.modalities if len(predictor.modalities) > 1]
            result = tested_on(predictor, tested, folder, alone, skip_bad, say)
            shown = some_rows(tested)
            if not (place / "examples.json").exists():
                files.write_json(place / "examples.json", examples(shown, predictor.kinds, target, folder))
            files.write_json(part / "readings.json", readings(predictor, shown, folder, skip_bad))
            files.write_json(part / "result.json", {**result, "seed": seed})
            checkpoint.unlink(missing_ok=True)
        if robustness and not (part / "robustness.json").exists():
            curves = Predictor.load(part, options.get("device")).robustness(tested, folder=folder, skip_bad=skip_bad)
            curves.plot(part / "robustness.svg")
            files.write_json(part / "robustness.json", asdict(curves))
        results.append(files.read_json(part / "result.json"))
        done = sorted(place.glob("*/result.json"))
        files.write_json(place / "results.json", [files.read_json(path) for path in done])
    return results


def tested_on(
    predictor: Predictor,
    table: Any,
    folder: Path,
    withouts: Sequence[Sequence[str]],
    skip_bad: bool,
    say: Callable[[str], object],
) -> Result:
    """How well a predictor does, whole and without each of these lists of columns or modalities."""
    fusion = predictor.model.fusion
    whole, *others = predictor.evaluate_each(table, [[], *withouts], folder=folder, skip_bad=skip_bad, say=say)
    return {
        "fusion": fusion.name,
        "level": fusion.level,
        "parameters": sum(parameter.numel() for parameter in fusion.parameters()),
        "test": whole,
        "without": {", ".join(gone): report for gone, report in zip(withouts, others, strict=True)},
    }


def claim(place: Path, settings: dict[str, Any]) -> None:
    """Make the folder that of a run with these settings.

    Raises:
        UserError: it is that of something else.
    """
    path = place / "settings.json"
    settings = json.loads(json.dumps(settings))
    if path.exists():
        known = files.read_json(path)
        known = known if isinstance(known, dict) else {}
        if differing := [key for key in settings if known.get(key) != settings[key]]:
            what = "the table" if differing == ["data"] else ", ".join(differing)
            raise UserError(f"{place} is of a run in which {what} differed: repeat that, or choose another name for it")
    elif place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place} holds what is no run of regard: choose another name")
    files.write_json(path, settings)


def fingerprint(columns: dict[str, list[Any]]) -> str:
    """Tells one table from another; of what is no text or number, its size alone."""
    return sha256(json.dumps(columns, default=lambda value: str(getattr(value, "size", value))).encode()).hexdigest()


def is_fusion(folder: str | Path) -> bool:
    """Whether the folder is what `Predictor.save` or `train_fusions` wrote."""
    return bool(predictors_in(Path(folder)))


def predictors_in(folder: Path) -> dict[str, Path]:
    """The predictors of a run, by the names of their folders; of a folder of one predictor, that one."""
    if (folder / "predictor.json").is_file():
        return {folder.name: folder}
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/predictor.json"))}


def trained_on(place: str | Path, columns: dict[str, list[Any]]) -> bool:
    """Whether these columns, as `columns_of` gives them, are those of the run that the folder holds or lies in."""
    place = Path(place).resolve()
    run = place.parent if (place / "predictor.json").is_file() else place
    try:
        return files.read_json(run / "settings.json")["data"] == fingerprint(columns)
    except (UserError, KeyError, TypeError):  # of a predictor that is not of a run
        return False


def evaluate_fusion(
    place: str | Path,
    table: Any,
    without: Sequence[str] = (),
    *,
    only: Collection[str] | None = None,
    folder: str | Path | None = None,
    skip_bad: bool = False,
    device: str | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Result]:
    """How well each predictor of a run does on a table that has its target, whole and as modalities are dropped.

    Args:
        place: the folder of a run, or of one predictor.
        table, folder: as of `fit`.
        without: columns or modalities to drop: each alone and, of several, all together. The table needs none of them;
            one that it does not have is missing in the whole as well.
        only: the names of the predictors' folders to measure, such as `gated-0`; default all.
        skip_bad: whether what cannot be read counts as missing, instead of being an error.
        device: as PyTorch names it; default a GPU if there is one.
        say: is given a line for each modality of which something counts as missing by `skip_bad`.

    Returns:
        By the name of each predictor's folder what `train_fusions` gives.

    Raises:
        UserError: there is no predictor, or the table does not fit.
    """
    if not (found := predictors_in(Path(place))):
        raise UserError(
            f"{place} holds no fusion: give a folder that `{command('train', 'fusion')}` or Predictor.save has written"
        )
    if unknown := set(only or ()) - set(found):
        raise UserError(f"{place} has no predictor {min(unknown)!r}: {nearest(min(unknown), found)}")
    folder, columns, once = folder_of(table, folder), columns_of(table), cache(say)
    without = list(dict.fromkeys(without))
    withouts = [[gone] for gone in without] + ([without] if len(without) > 1 else [])
    results = {}
    for name, path in found.items():
        if only is not None and name not in only:
            continue
        predictor = Predictor.load(path, device)
        given = predictor.blanked(columns, without) | columns
        results[name] = tested_on(predictor, given, folder, withouts, skip_bad, once)
    return results
