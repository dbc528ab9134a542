"""Attention in a classifier: trained from scratch, and inserted into a trained encoder that is fine-tuned.

    python benchmarks/attention_in_classification.py                             what is not measured yet
    python benchmarks/attention_in_classification.py --parts scratch --rows none se --seeds 1
    python benchmarks/attention_in_classification.py --write                     the tables, into the docs

Data: Fashion-MNIST, read from where the Debian package `dataset-fashion-mnist` puts it. The model is a residual network
of three blocks. Everything takes about 25 minutes on one core; the result of each row and seed is written to
`benchmarks/attention_in_classification.json` when it is there, so that an interrupted run continues. Results are kept
apart by their training: a row whose training was changed is measured anew, and a trial with `--epochs 1` replaces none.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import regard
from regard import files
from regard.attention import mechanisms
from regard.costing import costs
from regard.errors import UserError
from regard.experiment.statistics import holm, mean_interval, paired_p
from regard.tasks.idx import read_labelled
from regard.watching.ablation import ablations, strengths

HERE = Path(__file__).parent
DATA = Path("/usr/share/datasets/fashion-mnist")
RESULTS = HERE / "attention_in_classification.json"
PAGE = HERE.parent / "docs" / "attention_in_classification.md"
HEAD, TAIL = "<!-- made by benchmarks/attention_in_classification.py; do not edit -->\n", "<!-- end -->\n"

CLASSES, SIDE = 10, 28
MEAN, DEVIATION = 0.286, 0.353
"""Of the training pictures, from 0 to 1."""

Part = Literal["scratch", "fine_tuning"]


@dataclass(frozen=True)
class Row:
    """A variant of the model.

    Attributes:
        attention: the name of the mechanism; empty for none.
        at: where it is inserted.
        arguments: the mechanism's arguments that are not its defaults.
        as_large_as: the row whose parameter count this one, which has no attention, reaches by wider convolutions.
    """

    attention: str = ""
    at: tuple[str, ...] = ("branch",)
    arguments: dict[str, Any] = field(default_factory=dict)
    as_large_as: str = ""


@dataclass(frozen=True)
class Training:
    """Data and training of one part.

    Attributes:
        train, test: how many pictures; as many of each class.
        epochs, batch, learning_rate, weight_decay: of AdamW.
        schedule: of the learning rate, `"one cycle"` (Smith 2018) or `"linear to zero"`.
        turned: whether the pictures are turned by a quarter, which the encoder has not seen.
        start: of the inserted attention.
        encoder: the training of the encoder, on other pictures; None for a model trained from scratch.
        width: channels of the first block; each block has twice those of the one before.
    """

    train: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    schedule: Literal["one cycle", "linear to zero"]
    start: Literal["paper", "identity"]
    turned: bool = False
    encoder: "Training | None" = None
    test: int = 10_000
    width: int = 16


ROWS = {
    "none": Row(),
    "none, wider": Row(as_large_as="cbam"),
    "se": Row("se", arguments={"reduction": 4}),
    "cbam": Row("cbam", arguments={"reduction": 4}),
    "eca": Row("eca"),
    "non_local": Row("non_local", ("stage1", "stage2")),
    "multi_head_self": Row("multi_head_self", ("stage2", "stage3"), {"heads": 4}),
}

SCRATCH = Training(5_000, 8, 64, 4e-3, 0.05, "one cycle", "paper")

Setting = tuple[Training, tuple[str, ...], int]
"""A training, its rows, and the number of seeds."""

Settings = dict[Part, Setting]

PARTS: Settings = {
    "scratch": (SCRATCH, ("none", "none, wider", "se", "cbam", "eca"), 5),
    "fine_tuning": (
        Training(
            5_000, 1, 64, 1e-3, 0.01, "linear to zero", "identity", turned=True,
            encoder=replace(SCRATCH, train=20_000, epochs=3),
        ),
        ("none", "se", "cbam", "eca", "non_local", "multi_head_self"),
        5,
    ),
}  # fmt: skip


class Block(nn.Module):
    """Two convolutions with a shortcut past both (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """A stem of stride 2 and three residual blocks.

    Args:
        width: channels of the first block; the others have twice and four times as many.
        more: channels that the middle of each block has beyond those.
    """

    def __init__(self, width: int, more: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 5, 2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stage1 = Block(width, width, 1, width + more[0])
        self.stage2 = Block(width, 2 * width, 2, 2 * width + more[1])
        self.stage3 = Block(2 * width, 4 * width, 2, 4 * width + more[2])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.stage3(self.stage2(self.stage1(self.stem(x))))).flatten(1))


@dataclass(frozen=True)
class Pictures:
    """Pictures as the model takes them, and their classes."""

    values: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> "Pictures":
        return Pictures(self.values[chosen], self.labels[chosen])

    def __len__(self) -> int:
        return len(self.labels)

    def turned(self) -> "Pictures":
        return Pictures(self.values.rot90(1, (2, 3)).contiguous(), self.labels)


def read(folder: Path) -> dict[str, Pictures]:
    """Return the training and the test pictures.

    Raises:
        UserError: the data set is not installed.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: Fashion-MNIST is expected there; install it with "
            "'apt-get install dataset-fashion-mnist', or give the folder of its four files with --data"
        )
    found = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        pictures, labels = read_labelled(
            folder / f"{name}-images-idx3-ubyte.gz", folder / f"{name}-labels-idx1-ubyte.gz"
        )
        values = (torch.from_numpy(pictures)[:, None].float() / 255 - MEAN) / DEVIATION
        found[part] = Pictures(values, torch.from_numpy(labels.astype(np.int64)))
    return found


def drawn(pictures: Pictures, count: int, seed: int, after: int = 0) -> Pictures:
    """Return `count` pictures drawn by the seed, as many of each class, after `after` others were drawn."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in range(CLASSES):
        among = (pictures.labels == label).nonzero()[:, 0]
        among = among[torch.randperm(len(among), generator=generator)]
        of_class = among[after // CLASSES : (after + count) // CLASSES]
        if len(of_class) < count // CLASSES:
            raise UserError(
                f"the data has {len(among)} training pictures of class {label}, expected at least "
                f"{(after + count) // CLASSES}: give the complete data set, or draw fewer with --pictures"
            )
        chosen.append(of_class)
    return pictures[torch.cat(chosen)]


def parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def build(name: str, training: Training, seed: int, encoder: nn.Module | None = None) -> nn.Module:
    """Return the model of a row: fresh, with the same first values for all that the rows share, or the encoder's copy.

    Args:
        encoder: what attention is inserted into; None for a fresh model.
    """
    row = ROWS[name]
    if row.as_large_as:
        return widened(parameters(build(row.as_large_as, training, seed)), training.width, seed)
    torch.manual_seed(seed)
    model = ResidualNetwork(training.width) if encoder is None else deepcopy(encoder)
    if row.attention:
        mechanism = partial(mechanisms[row.attention], **row.arguments)
        example = torch.zeros(2, 1, SIDE, SIDE)
        regard.insert(model, mechanism, at=row.at, start=training.start, example=example)
    return model


def widened(count: int, width: int, seed: int) -> nn.Module:
    """Return the model without attention, wider inside its blocks, whose parameter count is nearest to `count`."""
    with torch.device("meta"):
        plain, *wider = (
            parameters(ResidualNetwork(width, more)) for more in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        )
    # The count is linear in each of the three.
    sizes = {
        (a, b, c): plain + sum(n * (one - plain) for n, one in zip((a, b, c), wider, strict=True))
        for a, b, c in itertools.product(range(9), repeat=3)
    }
    nearest = min(sizes, key=lambda more: (abs(sizes[more] - count), more))
    torch.manual_seed(seed)
    return ResidualNetwork(width, nearest)


def fit(model: nn.Module, pictures: Pictures, training: Training, seed: int) -> None:
    """Train a model in place; the order of the pictures depends on the seed alone."""
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    steps = training.epochs * -(-len(pictures) // training.batch)
    rates: torch.optim.lr_scheduler.LRScheduler
    if training.schedule == "one cycle":
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=steps)
    else:
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(training.epochs):
        for chosen in torch.randperm(len(pictures), generator=generator).split(training.batch):
            batch = pictures[chosen]
            loss = F.cross_entropy(model(batch.values), batch.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rates.step()
    model.eval()


def measured(part: Part, name: str, seed: int, training: Training, data: dict[str, Pictures]) -> dict[str, Any]:
    """Train a row from one seed, and return what it reaches, as it is and with its attention ablated."""
    test = data["test"][torch.arange(min(training.test, len(data["test"])))]
    encoder, exact, before = None, None, {}
    if training.encoder is not None:
        encoder = trained_encoder(seed, training.encoder, data)
        before = {"upright": accuracy(encoder, test)}
    train = drawn(data["train"], training.train, seed, training.encoder.train if training.encoder else 0)
    if training.turned:
        train, test = train.turned(), test.turned()
    if encoder is not None:
        before["as tested"] = accuracy(encoder, test)
    model = build(name, training, seed, encoder)
    if encoder is not None:
        exact = torch.equal(logits(model, test), logits(encoder, test))
    began = time.process_time()
    fit(model, train, training, seed)
    seconds = time.process_time() - began
    found: dict[str, Any] = {
        "part": part,
        "row": name,
        "seed": seed,
        "tested": len(test),
        "training": facts(name, training),
        "parameters": parameters(model),
        "core_seconds": seconds,
        "encoder": before,
        "exact": exact,
        "accuracy": accuracy(model, test),
    }
    if ROWS[name].attention:
        batches = test.values.split(BATCH)
        answers = ablations(model, batches, lambda batch: model(batch).argmax(1), seed=seed)
        right = answers.full == test.labels
        found["ablations"] = {}
        for kind in ABLATIONS:
            predicted = getattr(answers, kind)
            if predicted is not None:
                other = predicted == test.labels
                found["ablations"][kind] = {
                    "accuracy": float(other.double().mean()),
                    "changed": float((predicted != answers.full).double().mean()),
                    "lost": int((right & ~other).sum()),
                    "gained": int((other & ~right).sum()),
                }
        found["strength"] = {path: float(value.abs().max()) for path, value in strengths(model).items()}
    return found


ABLATIONS = {"removed": "removed", "mean": "weights at their mean", "resampled": "another picture's weights"}
"""The ablations of `regard.watching.ablation`, and how the table says them."""

BATCH = 250
"""Pictures that are classified at once in a test."""


def trained_encoder(seed: int, training: Training, data: dict[str, Pictures]) -> nn.Module:
    """Return the encoder of a seed, which all rows of that seed share."""
    key = seed, training
    if key not in _encoders:
        _encoders.clear()
        _encoders[key] = build("none", training, seed)
        fit(_encoders[key], drawn(data["train"], training.train, seed), training, seed)
    return _encoders[key]


_encoders: dict[tuple[int, Training], nn.Module] = {}


@torch.inference_mode()
def logits(model: nn.Module, pictures: Pictures) -> Tensor:
    """Return what a model in evaluation mode gives for each picture."""
    model.eval()
    return torch.cat([model(batch) for batch in pictures.values.split(BATCH)])


def accuracy(model: nn.Module, pictures: Pictures) -> float:
    """Return the share of pictures whose class the model says."""
    return float((logits(model, pictures).argmax(1) == pictures.labels).double().mean())


def facts(name: str, training: Training) -> dict[str, Any]:
    """Return all that decides what a row reaches, as JSON has it."""
    rows = [ROWS[name], *([ROWS[ROWS[name].as_large_as]] if ROWS[name].as_large_as else [])]
    return json.loads(json.dumps({**asdict(training), "rows": [asdict(row) for row in rows]}))


def timed(part: Part, names: Sequence[str], training: Training, repeats: int) -> list[dict[str, Any]]:
    """Return what one forward of each row costs; the rows are timed in turn, and compared round by round."""
    encoder = ResidualNetwork(training.width) if training.encoder else None
    models = [build(name, training, 0, encoder) for name in names]
    batch = min(BATCH, training.test)
    measured = costs(models, torch.zeros(batch, 1, SIDE, SIDE), repeats=repeats)
    base = measured[names.index("none")]
    found = []
    for name, model, cost in zip(names, models, measured, strict=True):
        middle, low, high = cost.time_ratio(base)
        found.append(
            {
                "part": part,
                "row": name,
                "training": facts(name, training),
                "parameters": parameters(model),
                "macs": cost.macs / batch,
                "ratio": middle,
                "between": [low, high],
                "rounds": repeats,
            }
        )
    return found


def table(settings: Settings, part: Part, results: Sequence[dict[str, Any]], timings: Sequence[dict[str, Any]]) -> str:
    """Return what the rows of one part reach, as Markdown."""
    groups = {name: {one["seed"]: one for one in results if one["row"] == name} for name in settings[part][1]}
    groups = {name: group for name, group in groups.items() if group}
    heads = ["", "seeds", "parameters", "accuracy", "difference to none"]
    heads += [
        f"difference with attention {said}" if kind == "removed" else f"with {said}" for kind, said in ABLATIONS.items()
    ]
    heads += ["predictions that removal changes", "p of removal"]
    if part == "fine_tuning":
        heads += ["strength", "equal to the encoder at first"]
    heads += ["time of a forward"]
    lines = [heads, ["---"] * len(heads)]
    times = {one["row"]: one for one in timings}
    columns = [to_none(groups), *(by_ablation(groups, kind) for kind in ABLATIONS)]
    bold = [shown(column) for column in columns]
    removed = {
        name: [one["ablations"]["removed"] for one in group.values() if "removed" in one.get("ablations", {})]
        for name, group in groups.items()
    }
    p_values = dict(zip(removed, holm([probability(known) for known in removed.values()]), strict=True))
    for name, group in groups.items():
        ones = list(group.values())
        row = [name, str(len(ones)), f"{ones[0]['parameters']:,}", share([100 * one["accuracy"] for one in ones])]
        for column, names in zip(columns, bold, strict=True):
            row += [signed([100 * value for value in column.get(name, [])], bold=name in names)]
        row += [share([100 * one["changed"] for one in removed[name]], unit=" %"), as_text(p_values[name])]
        if part == "fine_tuning":
            sizes = [one["strength"].values() for one in ones if one.get("strength")]
            row += [f"{min(map(min, sizes)):.2f} to {max(map(max, sizes)):.2f}" if sizes else ""]
            row += ["yes" if all(one["exact"] for one in ones) else "no"]
        timing = times.get(name)
        row += [f"{timing['ratio']:.2f} ({timing['between'][0]:.2f} to {timing['between'][1]:.2f})" if timing else ""]
        lines.append(row)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\n{verdict(groups)}"


Groups = Mapping[str, Mapping[int, dict[str, Any]]]
"""The results of each row, by seed."""


def verdict(groups: Groups) -> str:
    """Return what the differences say: which rows differ from none, and whether their attention is at work."""
    if all(len(group) < 2 for group in groups.values()):
        return "One seed a row says nothing of the spread."
    differences, fixed = to_none(groups), by_ablation(groups, "mean")
    beyond, used = shown(differences), {name for name in shown(fixed) if statistics.fmean(fixed[name]) < 0}
    better = [name for name in differences if name in beyond and statistics.fmean(differences[name]) > 0]
    worse = [name for name in differences if name in beyond and name not in better]
    unused = [name for name in fixed if len(fixed[name]) > 1 and name not in used]
    lines = [
        f"More accurate than *none* beyond the spread of the seeds: {_listed(better)}; less: {_listed(worse)}.",
        "Less accurate with their weights at the mean, so that what depends on the picture is used: "
        f"{_listed([name for name in fixed if name in used])}; not so: {_listed(unused)}.",
    ]
    gains = [name for name in better if name in unused]
    if gains:
        lines.append(f"That the gain of {_listed(gains)} comes from weights that depend on the picture was not shown.")
    return "\n".join(lines)


def to_none(groups: Groups) -> dict[str, list[float]]:
    """Return how much more accurate than *none* each other row is, of each seed that both have."""
    base = groups.get("none", {})
    return {
        name: [one["accuracy"] - base[seed]["accuracy"] for seed, one in group.items() if seed in base]
        for name, group in groups.items()
        if name != "none"
    }


def by_ablation(groups: Groups, kind: str) -> dict[str, list[float]]:
    """Return how much more accurate each row with attention is under an ablation, of each seed."""
    found = {
        name: [
            one["ablations"][kind]["accuracy"] - one["accuracy"]
            for one in group.values()
            if kind in one.get("ablations", {})
        ]
        for name, group in groups.items()
    }
    return {name: values for name, values in found.items() if values}


def shown(differences: Mapping[str, Sequence[float]]) -> set[str]:
    """Return the rows whose difference is shown: its p, adjusted by Holm's method for their number, is below 0.05."""
    adjusted = holm([paired_p(values) for values in differences.values()])
    return {name for name, p in zip(differences, adjusted, strict=True) if p is not None and p < LEVEL}


LEVEL = 0.05
"""Below it an adjusted p-value counts as shown."""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none of them"


def share(values: Sequence[float], unit: str = "") -> str:
    """Return the mean of the seeds with Student's interval, in per cent."""
    if not values:
        return ""
    ends = mean_interval(values)
    between = f" ({max(ends[0], 0):.2f} to {min(ends[1], 100):.2f})" if ends else ""
    return f"{statistics.fmean(values):.2f}{unit}{between}"


def signed(values: Sequence[float], bold: bool = False) -> str:
    """Return the mean of paired differences with Student's interval, in percentage points."""
    if not values:
        return ""
    ends = mean_interval(values)
    mean = f"{statistics.fmean(values):+.2f}"
    mean = f"**{mean}**" if bold else mean
    return mean if ends is None else f"{mean} ({ends[0]:+.2f} to {ends[1]:+.2f})"


def probability(removed: Sequence[dict[str, Any]]) -> float | None:
    """Return the largest of the seeds' exact p of McNemar's test of the pictures that removal loses and gains."""
    from scipy.stats import binomtest

    sides = [(one["lost"], one["lost"] + one["gained"]) for one in removed]
    return max((float(binomtest(lost, both).pvalue) if both else 1.0 for lost, both in sides), default=None)


def as_text(p: float | None) -> str:
    """Return a p-value as the table has it."""
    if p is None:
        return ""
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def page(settings: Settings, results: Sequence[dict[str, Any]], timings: Sequence[dict[str, Any]]) -> str:
    """Return both tables with what they were measured on."""
    texts = []
    for part, (training, _, _) in settings.items():
        of_part = [one for one in results if one["part"] == part]
        if not of_part:
            continue
        about = (
            f"{training.train:,} pictures, {training.epochs} epoch{'s' * (training.epochs > 1)} of AdamW at "
            f"{training.learning_rate:g} ({training.schedule}), batches of {training.batch}, tested on "
            f"{of_part[0]['tested']:,} pictures."
        )
        if training.encoder is not None:
            before = [one["encoder"] for one in of_part if one["row"] == "none"]
            said = {name: share([100 * one[name] for one in before]) for name in before[0]} if before else {}
            about += (
                f" The encoder was trained on {training.encoder.train:,} others, upright, where it reaches "
                f"{said.get('upright')}; before fine-tuning it reaches {said.get('as tested')} on the turned ones."
            )
        texts += [
            f"### {TITLES[part]}",
            about,
            table(settings, part, of_part, [t for t in timings if t["part"] == part]),
        ]
    return "\n\n".join(texts) + "\n"


TITLES: dict[Part, str] = {"scratch": "From scratch", "fine_tuning": "Fine-tuning"}


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure what is not measured yet and print the tables, which it also returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, help="how many, 0 first (default 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder of the four files (default {DATA})")
    parser.add_argument("--pictures", type=int, help="to train on (default 5,000)")
    parser.add_argument("--test", type=int, help="pictures to test on (default 10,000)")
    parser.add_argument("--epochs", type=int, help="of each training, that of the encoder too")
    parser.add_argument("--rounds", type=int, default=20, help="in which the forwards are timed; 0 for no timing")
    parser.add_argument("--write", action="store_true", help=f"write the tables into docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    settings = {part: shortened(*PARTS[part], given) for part in given.parts}
    data = read(given.data)
    for part, (training, names, seeds) in settings.items():
        for seed in range(seeds):
            for name in names:
                if name in given.rows and not any(
                    (one["part"], one["row"], one["seed"]) == (part, name, seed) for one in known(settings)["results"]
                ):
                    found = measured(part, name, seed, training, data)
                    keep("results", found)
                    print(f"{part} {name} {seed}: {found['accuracy']:.2%}", flush=True)
    if given.rounds:
        for part, (training, names, _) in settings.items():
            for found in timed(part, names, training, given.rounds):
                keep("timings", found)
    entries = known(settings)
    text = page(settings, entries["results"], entries["timings"])
    print(f"\n{text}")
    if given.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        PAGE.write_text(f"{before}{HEAD}\n{text}\n{TAIL}{rest.partition(TAIL)[2]}", encoding="utf-8")
    return text


def shortened(training: Training, rows: tuple[str, ...], seeds: int, given: argparse.Namespace) -> Setting:
    """Return the setting of a part with what the command line says otherwise."""
    other = {"train": given.pictures, "test": given.test, "epochs": given.epochs}
    other = {name: value for name, value in other.items() if value is not None}
    encoder = training.encoder and replace(training.encoder, **other)
    return replace(training, **other, encoder=encoder), rows, seeds if given.seeds is None else given.seeds


def written() -> dict[str, list[dict[str, Any]]]:
    """Return all that was measured."""
    return files.read_json(RESULTS) if RESULTS.exists() else {"results": [], "timings": []}


def known(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Return what was measured with the training that the rows have now."""
    return {
        kind: [
            one
            for one in entries
            if one["part"] in settings and one["row"] in ROWS
            and one["training"] == facts(one["row"], settings[one["part"]][0])
        ]
        for kind, entries in written().items()
    }  # fmt: skip


def keep(kind: str, found: dict[str, Any]) -> None:
    """Write what was measured, in place of what was measured before of the same row, seed and training."""
    entries = written()  # read again: another process may have written meanwhile
    entries[kind] = [one for one in entries[kind] if _key(one) != _key(found)] + [found]
    entries[kind].sort(key=_key)
    files.write_json(RESULTS, entries)


def _key(one: dict[str, Any]) -> tuple[str, str, int, str]:
    """Return what tells a stored result or timing from others."""
    return one["part"], one["row"], one.get("seed", 0), json.dumps(one["training"], sort_keys=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
