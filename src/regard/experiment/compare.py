"""The main job: train one model several times, alike in everything but its attention, and compare."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import UserError, in_one_line
from regard.experiment.choosing import GENERATED, Asked, Chosen, choose
from regard.experiment.run import Run
from regard.experiment.settings import Settings
from regard.extras import naming_extras

if TYPE_CHECKING:
    from regard.tasks.vqa.source import Source

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


@naming_extras()
def compare(
    attention: str | Sequence[str] | None = None,
    *,
    data: str | Path | None = None,
    questions: "str | Path | Source | None" = None,
    test: "Source | None" = None,
    seeds: int = 1,
    epochs: int | None = None,
    minutes: float | None = None,
    size: int | None = None,
    batch: int = 32,
    device: str = "auto",
    precision: str = "32-true",
    name: str | None = None,
    resume: bool = True,
    backbone: str | None = None,
    pretrained: bool = False,
    at: str | None = None,
    start: str | None = None,
    frozen: bool = False,
    question: str = "lstm",
    width: int = 512,
    options: Mapping[str, Any] | None = None,
    glove: str | Path | None = None,
    regions: str | Path | None = None,
    augmentation: str | None = None,
    minimum: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    skip_bad: bool = False,
    runs: str | Path = "runs",
) -> Run:
    """Compare attention, on drawn scenes or on your own pictures; shows its progress, writes `runs/<name>/`.

        run = regard.compare(["none", "additive"], epochs=10)
        run = regard.compare("se,cbam", data="flowers", seeds=3)
        run = regard.compare("question_only,mcan", data="photos", questions="questions.csv")
        run.results()                               # as in results.json
        regard.report.write_report(run.folder)      # the page; the command line does it by itself

    Args:
        attention: names, in a list or with commas between them; default all variants of the task, or some. On pictures
            by class `none` is always among them. On questions about pictures, cores of `regard.models.vqa`.
        data: a folder of pictures; with one sub-folder a class, or with `questions`. `"sort-of-clevr"` or
            `"digit-scenes"`, the default, draw their own.
        questions: a CSV file, or one of VQA, GQA, CLEVR, Visual Genome, TextVQA; or a `Source` with its further files.
        test: other questions to test on; default a fifth of the pictures.
        seeds: from how many seeds each variant is trained; those of one seed share data, order and initial values.
        epochs: how long each trains; default 32 (digit scenes), 20 (sort-of-CLEVR), 10 (pictures by class), or, with
            questions, 8 to 100 epochs: some 1,200 steps. With 0, `vilt` or `blip` is measured as it came, by its own
            answers, of which BLIP has none: it ranks those of the training questions.
        minutes: the same in minutes of training a variant, instead of `epochs`.
        size: side of a picture in pixels; default 40 (digit scenes), 75 (sort-of-CLEVR, the only one), 128, or, with
            questions and a network of timm, 224, or 384 for `vilt` and `blip`.
        batch: pictures a batch.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: Lightning's name of the arithmetic: 32-true, bf16-mixed, 16-mixed, bf16-true, 64-true.
        name: of the run; default that of the task, or of the folder of pictures.
        resume: go on with what the run of this name has finished; False puts that aside and begins again.
        backbone: of own pictures: any image model of timm; default `resnet18`, and with questions, unless `pretrained`,
            `convolutions`, a small network. With questions also `detector`.
        pretrained: of own pictures: start from published weights.
        at: of pictures by class: where attention is put, as `regard.insert` takes it; default where the paper of each
            mechanism puts it.
        start: of pictures by class: `identity` (the network is unchanged at the start) or `paper` (attention starts as
            published); default identity with `pretrained`, otherwise paper.
        frozen: of own pictures: the backbone stays as it is. By class, attention and the classifier are trained; with
            questions, the backbone sees every picture once.
        question: with questions: what reads them: `lstm`, `gru`, `bag`, or a checkpoint of Hugging Face or its folder;
            of `vilt` or `blip`, which are whole, their own. Beside other models, `"vilt=CHECKPOINT"`, and with a comma
            what reads for these, if not `lstm`; each sees, reads and learns as it is used to, and questions, answers,
            order and held-out pictures are the same.
        width: with questions: of what it makes of a question; 1,024 in many papers.
        options: with questions, of a single variant: its arguments, such as `{"layers": 2}`.
        glove: with questions: a file of GloVe's vectors to start from.
        regions: with questions: an HDF5 file of region features or a folder of `.npz`, in place of the pictures.
        augmentation: of own pictures, how training pictures are varied. By class: `crop` (random crops, the default),
            `crop-flip` (half of them mirrored, which is wrong for digits, text, left and right), `none`. With
            questions: `shift` moves and turns them a little, otherwise in every epoch; `none`; default `shift` where
            what sees them learns.
        minimum: with questions: how often an answer must occur to be chosen from; default 1, and 9 from 10,000 on.
        learning_rate: of own pictures: the highest of the schedule. Default by class 1e-3, and 3e-4 for published
            weights; with questions 5e-4, and 1e-4 for published weights.
        weight_decay: of pictures by class: of AdamW; default 1e-4.
        label_smoothing: of pictures by class: of the loss; default 0.1.
        skip_bad: of own pictures: go on without those that cannot be read.
        runs: the folder of all runs.

    Raises:
        UserError: anything that the person at the keyboard can mend, in one line.
        KeyboardInterrupt: stopped; the same call goes on from the last epoch.
    """
    from regard.experiment.display import Display

    runs = Path(runs)
    _check(runs, name, seeds, size, batch, epochs, minutes, precision)
    if isinstance(attention, str):
        attention = [part.strip() for part in attention.split(",") if part.strip()]
        _require(len(attention) > 0, "--attention names nothing: give names with commas between them")
    asked = Asked(
        data=_path(data), attention=None if attention is None else tuple(dict.fromkeys(attention)), size=size,
        batch=batch, device=found_device(device), backbone=backbone, pretrained=pretrained, at=at, start=start,
        skip_bad=skip_bad, questions=_source(questions, data), test=test, frozen=frozen, question=question, width=width,
        options=options or {}, glove=_path(glove), regions=_path(regions), augmentation=augmentation, minimum=minimum,
        learning_rate=learning_rate, weight_decay=weight_decay, label_smoothing=label_smoothing, epochs=epochs,
    )  # fmt: skip
    chosen = choose(asked, lambda default: runs / (name or default))
    task = chosen.task
    settings = Settings(
        task=task.name,
        data=None if task.name in GENERATED or asked.data is None else str(asked.data.resolve()),
        size=chosen.size,
        batch=batch,
        epochs=None if minutes is not None else chosen.epochs if epochs is None else epochs,
        minutes=minutes,
        device=asked.device,
        precision=precision,
        attention=chosen.attention,
        seeds=seeds,
        options=chosen.options,
    )
    folder = runs / (name or chosen.name)
    run = Run(folder, settings, resume)
    with Display(run) as display:
        display.about(about := getattr(task, "about", ""))
        run.describe(about)
        display.left_out(getattr(task, "skipped", []))
        for seed in range(settings.seeds):
            for variant in settings.attention:
                if run.finished(variant, seed) is None:
                    _train(run, chosen.task_of(variant), variant, seed, display)
                    run.gather(task.examples(0))
                display.show(run.finished(variant, seed))
        _time(run, chosen, display)
        run.gather(task.examples(0))
    display.finish()
    return run


def _time(run: Run, chosen: Chosen, display: Any) -> None:
    """Time all finished variants side by side, unless that is done: times of two moments are not comparable.

    A variant whose model cannot be had any more is named and left out.
    """
    from regard.costing import costs
    from regard.experiment.evaluate import restored
    from regard.models.vqa.parts import WHOLE

    first = {variant: seed for variant in run.variants for seed in reversed(run.seeds) if run.finished(variant, seed)}
    # Of models that see in a way of their own, what they take is known while they are asked for.
    timed = {one: seed for one, seed in first.items() if one in chosen.attention or one not in WHOLE}
    if not timed or set(timed) <= set(run.times()):
        return
    display.timing(list(timed))
    models, examples = {}, []
    for variant, seed in timed.items():
        task = chosen.task_of(variant)
        try:
            model = restored(task, variant, seed, run.part(variant, seed), run.settings.device)
            example = task.example(0)
        except Exception as error:  # whatever a broken file leads to: what was trained is to be shown all the same
            display.untimed(variant, in_one_line(error))
            continue
        models[variant] = model
        examples.append(example)
    if models:
        found = costs(list(models.values()), examples=examples)
        run.keep_times(dict(zip(models, found, strict=True)), list(timed))


def _train(run: Run, task: Any, variant: str, seed: int, display: Any) -> None:
    """Train, measure and keep one part of the run."""
    from regard.costing import count
    from regard.experiment.statistics import share_interval
    from regard.experiment.training import Budget, accuracy, train
    from regard.placing import Placed
    from regard.running import Inputs, undisturbed
    from regard.tasks.task import HasNotes, HasShortcuts
    from regard.watching.ablation import strengths

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
    with undisturbed(fit.model):
        counts = count(fit.model, Inputs(task.example(seed)))
    kinds = evaluation.kinds(task.families)
    result = {
        "attention": variant,
        "seed": seed,
        "accuracy": accuracy(evaluation, task.families),
        "interval": {
            family: share_interval(evaluation.correct[among], evaluation.groups[among])
            for family, among in kinds.items()
        },
        "questions": {family: int(among.sum()) for family, among in kinds.items()},
        "pointing": None if evaluation.pointed is None else float(evaluation.pointed.mean()),
        "parameters": sum(parameter.numel() for parameter in fit.model.parameters()),
        "macs": counts.macs,
        "train_seconds": fit.progress.seconds,
        "ablations": _ablated(task, fit.model, seed),
        "strength": _spread(value for one in strengths(fit.model).values() for value in one.tolist()),
        "places": [module.place for module in fit.model.modules() if isinstance(module, Placed)],
    }
    if isinstance(task, HasShortcuts):
        shortcuts = {name: accuracy(outcomes, task.families) for name, outcomes in task.shortcuts().items()}
        result |= {"measure": task.measure, "shortcuts": shortcuts}
    if isinstance(task, HasNotes):
        result["note"] = task.notes.get(variant)
    task.keep(fit.model, run.part(variant, seed))
    # The report shows what the first seed's model says; another seed's may have been trained on those pictures.
    readings = task.readings(fit.model, 0) if seed == 0 else []
    run.finish(variant, seed, result, fit.curve, readings, evaluation)


def _ablated(task: Any, model: Any, seed: int) -> dict[str, Any]:
    """What each ablation of a model's attention changes; None for what is not possible, as without attention."""
    from regard.experiment.statistics import paired_interval
    from regard.tasks.task import HasAblations
    from regard.watching.ablation import KINDS, attends

    empty: dict[str, Any] = dict.fromkeys(KINDS)
    if not isinstance(task, HasAblations) or not attends(model):
        return empty
    found = task.ablate(model, seed)
    for kind, outcomes in found.ablated.items():
        differences = outcomes.astype(float) - found.full.astype(float)
        empty[kind] = {
            "accuracy": float(outcomes.mean()),
            "difference": float(differences.mean()),
            "interval": paired_interval(differences, found.groups),
            "changed": found.changed[kind],
            "questions": len(outcomes),
        }
    return empty | {"left": {kind: list(lines) for kind, lines in found.left.items()}}


def _spread(strengths: Iterable[float]) -> dict[str, float] | None:
    """The mean size of strengths, the lowest and the highest; None where attention has none."""
    values = list(strengths)
    if not values:
        return None
    return {"mean": sum(map(abs, values)) / len(values), "lowest": min(values), "highest": max(values)}


def _check(
    runs: Path,
    name: str | None,
    seeds: int,
    size: int | None,
    batch: int,
    epochs: int | None,
    minutes: float | None,
    precision: str,
) -> None:
    """Refuse what no task can do."""
    _require(seeds >= 1, f"--seeds {seeds}: at least one seed is needed")
    _require(size is None or size >= 1, f"--size {size}: a picture has at least one pixel")
    _require(batch >= 2, f"--batch {batch}: a batch holds at least 2 pictures")
    _require(epochs is None or epochs >= 0, f"--epochs {epochs}: at least one is needed")
    _require(
        epochs != 0 or seeds == 1, f"--epochs 0 --seeds {seeds}: a model as it came has no seed; leave --seeds out"
    )
    _require(minutes is None or 0 < minutes < math.inf, f"--minutes {minutes}: a number above 0 is needed")
    _require(epochs is None or minutes is None, "--epochs and --minutes both say how long to train: give one of them")
    _require(precision in PRECISIONS, f"there is no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    _require(
        name is None or (name not in ("", ".", "..") and Path(name).name == name),
        f"--name {name!r} is not a plain name: it becomes a folder in {runs}",
    )


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _source(questions: "str | Path | Source | None", pictures: str | Path | None) -> "Source | None":
    from regard.tasks.vqa.source import Source

    if isinstance(questions, Source) or questions is None:
        return questions
    _require(pictures is not None, "questions need the folder of their pictures: give it as data")
    return Source(Path(questions), Path(pictures or ""))


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise UserError(complaint)


def found_device(name: str) -> str:
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
