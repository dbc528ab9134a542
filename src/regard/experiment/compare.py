"""The main job: train one model several times, alike in everything but its attention, and compare."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regard.errors import UserError
from regard.experiment.run import Run
from regard.experiment.settings import Settings

DIGIT_EPOCHS, PICTURE_EPOCHS = 32, 10
DIGIT_SIZE, PICTURE_SIZE = 40, 128
PICTURE_ATTENTION = ("none", "se", "eca", "cbam")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


def compare(
    attention: str | Sequence[str] | None = None,
    *,
    data: str | Path | None = None,
    seeds: int = 1,
    epochs: int | None = None,
    minutes: float | None = None,
    size: int | None = None,
    batch: int = 32,
    device: str = "auto",
    precision: str = "32-true",
    name: str | None = None,
    resume: bool = True,
    backbone: str = "resnet18",
    pretrained: bool = False,
    at: str = "block",
    start: str = "identity",
    skip_bad: bool = False,
    runs: str | Path = "runs",
) -> Run:
    """Compare attention, on digit scenes or on your own pictures; shows its progress, writes `runs/<name>/`.

        run = regard.compare(["none", "additive"], epochs=10)
        run = regard.compare("se,cbam", data="flowers", seeds=3)
        run.results()                               # as in results.json
        regard.report.write_report(run.folder)      # the page; the command line does it by itself

    Args:
        attention: names, in a list or with commas between them; default all variants of the task. On pictures `none` is
            always among them.
        data: a folder of pictures with one sub-folder a class; without it the digit scenes.
        seeds: from how many seeds each variant is trained; those of one seed share data, order and initial values.
        epochs: how long each trains; default 32 (digit scenes) or 10 (pictures).
        minutes: the same in minutes of training a variant, instead of `epochs`.
        size: side of a picture in pixels; default 40 (digit scenes) or 128 (pictures).
        batch: pictures a batch.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: Lightning's name of the arithmetic: 32-true, bf16-mixed, 16-mixed, bf16-true, 64-true.
        name: of the run; default `digit-scenes`, or that of the folder of pictures.
        resume: go on with what the run of this name has finished; False puts that aside and begins again.
        backbone: of pictures: any image model of timm.
        pretrained: of pictures: start from timm's published weights.
        at: of pictures: where attention is put, as `regard.insert` takes it.
        start: of pictures: `identity` (the network is unchanged at the start) or `paper`.
        skip_bad: of pictures: go on without those that cannot be read.
        runs: the folder of all runs.

    Raises:
        UserError: anything that the person at the keyboard can mend, in one line.
        KeyboardInterrupt: stopped; the same call goes on from the last epoch.
    """
    from regard.experiment.display import Display

    task, settings, folder = _resolve(
        attention=attention, data=data, seeds=seeds, epochs=epochs, minutes=minutes, size=size, batch=batch,
        device=device, precision=precision, name=name, backbone=backbone, pretrained=pretrained, at=at, start=start,
        skip_bad=skip_bad, runs=Path(runs),
    )  # fmt: skip
    run = Run(folder, settings, resume)
    with Display(run) as display:
        display.left_out(getattr(task, "skipped", []))
        for seed in range(settings.seeds):
            for variant in settings.attention:
                if run.finished(variant, seed) is None:
                    _train(run, task, variant, seed, display)
                    run.gather(task.examples(0))
                display.show(run.finished(variant, seed))
        run.gather(task.examples(0))
    display.finish()
    return run


def _train(run: Run, task: Any, variant: str, seed: int, display: Any) -> None:
    """Train, measure and keep one part of the run."""
    from regard.costing import cost
    from regard.experiment.checkpoint import save_weights
    from regard.experiment.statistics import share_interval
    from regard.experiment.training import Budget, accuracy, train

    settings = run.settings
    fit = train(
        task,
        variant,
        seed,
        Budget(settings.epochs, settings.minutes),
        run.checkpoint(variant, seed),
        settings.precision,
        settings.device,
        lambda progress: display.progress(variant, seed, progress),
    )
    evaluation = task.evaluate(fit.model, seed)
    price = cost(fit.model, *task.example(seed))
    kinds = [(family, evaluation.families == index) for index, family in enumerate(task.families)]
    kinds = [(family, among) for family, among in kinds if among.any()]
    kinds.append(("overall", evaluation.families >= 0))
    result = {
        "attention": variant,
        "seed": seed,
        "accuracy": accuracy(evaluation, task.families),
        "interval": {
            family: share_interval(evaluation.correct[among], evaluation.groups[among]) for family, among in kinds
        },
        "questions": {family: int(among.sum()) for family, among in kinds},
        "pointing": None if evaluation.pointed is None else float(evaluation.pointed.mean()),
        "parameters": price.parameters,
        "macs": price.macs,
        "milliseconds": price.milliseconds,
        "train_seconds": fit.progress.seconds,
    }
    part = run.part(variant, seed)
    save_weights(fit.model, part / "model.safetensors", {"attention": variant, "seed": str(seed)})
    # The report shows what the first seed's model says; another seed's may have been trained on those pictures.
    run.finish(variant, seed, result, fit.curve, task.readings(fit.model, 0) if seed == 0 else [])


def _resolve(*, runs: Path, name: str | None, data: str | Path | None, **given: Any) -> tuple[Any, Settings, Path]:
    """The task, the settings with every default filled in, and the run's folder."""
    _require(given["seeds"] >= 1, f"--seeds {given['seeds']}: at least one seed is needed")
    _require(given["size"] is None or given["size"] >= 1, f"--size {given['size']}: a picture has at least one pixel")
    _require(given["batch"] >= 2, f"--batch {given['batch']}: a batch holds at least 2 pictures")
    _require(given["epochs"] is None or given["epochs"] >= 1, f"--epochs {given['epochs']}: at least one is needed")
    minutes = given["minutes"]
    _require(minutes is None or 0 < minutes < math.inf, f"--minutes {minutes}: a number above 0 is needed")
    _require(
        given["epochs"] is None or minutes is None,
        "--epochs and --minutes both say how long to train: give one of them",
    )
    _require(
        given["precision"] in PRECISIONS,
        f"there is no precision {given['precision']!r}: choose one of {', '.join(PRECISIONS)}",
    )
    _require(
        name is None or (name not in ("", ".", "..") and Path(name).name == name),
        f"--name {name!r} is not a plain name: it becomes a folder in {runs}",
    )
    device = _device(given["device"])
    wanted = given["attention"]
    if isinstance(wanted, str):
        wanted = [part.strip() for part in wanted.split(",") if part.strip()]
    _require(wanted is None or len(wanted) > 0, "--attention names nothing: give names with commas between them")

    if data is None:
        from regard.tasks.digit_scenes import DigitScenes

        size = DIGIT_SIZE if given["size"] is None else given["size"]
        task: Any = DigitScenes(size=size, batch=given["batch"], device=device)
        names = tuple(dict.fromkeys(wanted or task.attentions))
        epochs = DIGIT_EPOCHS
    else:
        from regard.tasks.pictures import PicturesTask

        size = PICTURE_SIZE if given["size"] is None else given["size"]
        task = PicturesTask(
            Path(data), backbone=given["backbone"], pretrained=given["pretrained"], at=given["at"],
            start=given["start"], size=size, batch=given["batch"], skip_bad=given["skip_bad"], device=device,
        )  # fmt: skip
        names = tuple(dict.fromkeys(["none", *(wanted or PICTURE_ATTENTION)]))
        epochs = PICTURE_EPOCHS
    for one in names:
        task.check(one)
    own = data is not None
    settings = Settings(
        task=task.name,
        data=str(Path(data).resolve()) if data is not None else None,
        size=size,
        batch=given["batch"],
        epochs=None if minutes is not None else given["epochs"] or epochs,
        minutes=minutes,
        device=device,
        precision=given["precision"],
        backbone=given["backbone"] if own else None,
        pretrained=given["pretrained"] and own,
        at=given["at"] if own else None,
        start=given["start"] if own else None,
        skip_bad=given["skip_bad"] and own,
        attention=names,
        seeds=given["seeds"],
    )
    folder = Path(data).resolve().name if data is not None else task.name
    return task, settings, runs / (name or folder)


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise UserError(complaint)


def _device(name: str) -> str:
    """The device's name as PyTorch takes it, and that it is there."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if (":" in name and not number.isdecimal()) or (number and kind != "cuda"):
        raise UserError(f"there is no device {name!r}: cpu, cuda, cuda:NUMBER and mps are devices")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (not number or int(number) < torch.cuda.device_count()),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in there:
        raise UserError(f"there is no device {name!r}: choose auto, cpu, cuda, cuda:NUMBER or mps")
    if not there[kind]:
        raise UserError(f"this machine has no {name}: choose --device auto, which takes what there is")
    return name
