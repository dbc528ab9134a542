"""Sort-of-CLEVR: what readers of the literature reach here, what ours does, and what can be had without looking.

    python benchmarks/sort_of_clevr.py                             what lacks, row after row and seed after seed
    python benchmarks/sort_of_clevr.py --rows reader --seeds 1     one row
    python benchmarks/sort_of_clevr.py --rows --write              the table of what is measured, into the docs

Trained on the 9,800 pictures of the published rule, tested on its 200 and on 2,000 more; a picture is encoded once for
all of its questions. Every row's training stands in `ROWS`; a run that was broken off goes on from its last epoch. What
a run reached is kept in `benchmarks/sort_of_clevr.json`, so that the rows, which take from minutes to hours each, can
be measured one by one; a row whose training was changed is measured anew.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from regard import files
from regard.experiment.statistics import mean_interval, share_interval
from regard.experiment.training import Budget, Progress, train
from regard.models.vqa import Recipe
from regard.tasks.sort_of_clevr import SortOfClevr
from regard.tasks.sort_of_clevr.baselines import SAID
from regard.tasks.sort_of_clevr.generation import PER_FAMILY
from regard.tasks.sort_of_clevr.task import Batch

HERE = Path(__file__).parent
RESULTS = HERE / "sort_of_clevr.json"
PAGE = HERE.parent / "docs" / "sort_of_clevr.md"
AWAY = 1_000
"""From one seed to the one that training begins anew from."""

SIDE, BITS, ALL_BITS = 75, 11, 18
"""Of a picture, in pixels; of a question's vector, without and with ternary questions."""


@dataclass(frozen=True)
class Row:
    """A model and its training.

    Attributes:
        title: what it is, for the table.
        published: its published accuracies, non-relational and relational.
        wanted: what is to be reached of them here.
        core, arguments: of the recipe.
        image: its network of convolutions.
        epochs, batch, learning_rate, precision: of training.
        augmentation, alone, ternary: as of `SortOfClevr`.
        asked: how many questions of each family, or of one and the other where there are two, a picture is asked at a
            time, drawn afresh; all if None.
        starts_from: the row whose trained values, of the same seed, it starts from, or of another kind of model its
            convolutions alone; its own first values if empty.
        anew: after so many epochs, where there is an evaluation, with less than so much of the validation questions
            answered rightly, training begins anew from another seed; never if None.
    """

    title: str
    published: str
    wanted: str
    core: str
    epochs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    batch: int = 32
    learning_rate: float = 1e-3
    precision: str = "32-true"
    augmentation: str = "colours and mirrors"
    alone: float = 0.0
    ternary: bool = False
    asked: int | tuple[int, int] | None = None
    starts_from: str = ""
    anew: tuple[int, float] | None = None

    def task(self) -> "Varied":
        question = {"in_width": ALL_BITS if self.ternary else BITS}
        recipe = Recipe(self.core, self.arguments, "convolutions", self.image, SIDE, "vector", question)
        return Varied(
            {self.core: recipe}, questions="vector", ternary=self.ternary, augmentation=self.augmentation,
            alone=self.alone, learning_rate=self.learning_rate, batch=self.batch, asked=self.asked,
        )  # fmt: skip

    def training(self) -> dict[str, Any]:
        """All that decides what it reaches, as JSON has it."""
        facts = {name: value for name, value in asdict(self).items() if name not in _SAID}
        facts["starts_from"] = ROWS[self.starts_from].training() if self.starts_from else None
        if self.anew is None:
            del facts["anew"]  # nor have it what was measured before a training could begin anew
        return json.loads(json.dumps(facts))


_SAID = ("title", "published", "wanted")

WIDER = {"widths": [32, 64, 128, 24], "colours": [255, -128]}
"""Convolutions of the papers' form, wider before the last one, with the white ground not far from zero."""

READER = Row(
    "our reader", "none better than 99.8 / 95.6", "99.9 / 98", "cross_attention", 48, {"mixing": 1},
    {
        "widths": [32, 64, 128, 128], "strides": [2, 2, 2, 1], "normalization": "group", "normalize_first": True,
        "positions": "sines", "colours": [255, -128],
    },
    precision="bf16-mixed", alone=0.02, ternary=True,
)  # fmt: skip
"""Four reads of pre-norm cross-attention from 10 by 10 cells, which have seen each other once."""

ROWS = {
    "cnn_mlp": Row("CNN + MLP, no attention", "94+ / 63", "within 3", "flattened", 60, augmentation="none"),
    "cnn_mlp_heard": Row(
        "CNN + MLP, its question heard, wider convolutions", "", "94 / 63", "flattened", 30,
        {"f_widths": [512, 256], "question_scale": 40.0}, WIDER, augmentation="none", alone=0.1,
    ),
    "relation_network": Row(
        "relation network, two layers of 128 in g", "99 / 94 to 95.6", "99 / 94", "relation_network", 150,
        {"g_widths": [128, 128], "dropout": 0.0}, {"widths": [32, 64, 128, 256]},
        learning_rate=5e-4, precision="bf16-mixed", alone=0.1, asked=2,
    ),
    "relation_network_heard": Row(
        "relation network, its objects have heard the question, convolutions of that CNN + MLP", "", "99 / 94",
        "relation_network", 50,
        {
            "g_widths": [128, 128], "dropout": 0.0, "unary_widths": [256, 128], "question_scale": 2.0,
            "normalized": True, "initialization": "he",
        },
        WIDER, precision="bf16-mixed", alone=0.06, asked=(1, 4), starts_from="cnn_mlp_heard",
    ),
    "entity_stream": Row("soft entity stream", "99 / 95", "99 / 95", "entity_stream", 100),
    "entity_stream_zero": Row(
        "soft entity stream, from zeros", "", "99 / 95", "entity_stream", 100, {"learned_states": False}
    ),
    "entity_stream_wide": Row(
        "soft entity stream, from zeros, 64 wide, wider convolutions", "", "99 / 95", "entity_stream", 70,
        {"width": 64, "sharpness": 2.0, "learned_states": False}, WIDER, anew=(18, 0.8),
    ),
    "hard_entity_stream": Row(
        "hard entity stream, from zeros, 32 wide", "99 / 93", "99 / 93", "hard_entity_stream", 60,
        {"width": 32, "learned_states": False}, starts_from="entity_stream_zero",
    ),
    "hard_entity_stream_wide": Row(
        "hard entity stream, from zeros, 64 wide, wider convolutions, nothing read twice", "", "99 / 93",
        "hard_entity_stream", 25, {"distinct": True, "learned_states": False}, WIDER,
        starts_from="entity_stream_wide",
    ),
    "reader": READER,
    "reader_plain": replace(
        READER, title="our reader, half as long", published="", wanted="", augmentation="none", epochs=24
    ),
}  # fmt: skip


class Varied(SortOfClevr):
    """The task, with two more ways to train than the library has.

    Args:
        asked: as of `Row`.
        given: as of `SortOfClevr`.

    Attributes:
        values: those that were trained before, which models start from; their own first values if None. Of another
            kind of model they start from its convolutions.
    """

    values: Mapping[str, Tensor] | None = None

    def __init__(self, *given: Any, asked: int | tuple[int, int] | None, **named: Any) -> None:
        super().__init__(*given, **named)
        self.asked = asked

    def batches(self, seed: int, epoch: int, progress: float) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        for batch in super().batches(seed, epoch, progress):
            yield batch if self.asked is None else _some(batch, self.asked, draw)

    def model(self, attention: str, seed: int) -> nn.Module:
        model = super().model(attention, seed)
        if self.values is None:
            return model
        alike = self.values.keys() == model.state_dict().keys()
        part, prefix = (model, "") if alike else (model.get_submodule("sight"), "sight.")
        part.load_state_dict(
            {name.removeprefix(prefix): value for name, value in self.values.items() if name.startswith(prefix)}
        )
        return model


def _some(batch: Batch, asked: int | tuple[int, int], draw: torch.Generator) -> Batch:
    """A batch with so many questions of each family, which stand in order, ten each.

    Of a pair, a family that is asked alone is asked as many as both would be.
    """
    pictures, questions = batch.answers.shape
    families = questions // PER_FAMILY
    each = [asked] * families if isinstance(asked, int) else asked if families == 2 else [sum(asked)]
    if len(each) != families:
        raise ValueError(f"asked={asked} of {families} families: give one number, as a pair is for two")
    order = torch.rand(pictures, families, PER_FAMILY, generator=draw).argsort(2)
    chosen = torch.cat([order[:, at, :some] + PER_FAMILY * at for at, some in enumerate(each)], 1)  # (B, asked)
    rows = torch.arange(pictures)[:, None]
    drawn = (column[rows, chosen] for column in (batch.questions, batch.answers, batch.kinds))
    return Batch(batch.pictures, *drawn)


def folder(name: str, seed: int, runs: Path) -> Path:
    """Where a row's training from one seed is kept; another one's of the same name is never taken up for it."""
    training = json.dumps(ROWS[name].training(), sort_keys=True)
    return runs / f"{name}-{seed}-{sha256(training.encode()).hexdigest()[:8]}"


def result(name: str, seed: int, runs: Path, kept: bool = False) -> dict[str, Any]:
    """What a row reached from one seed: as it stands in the file, or measured now and written there.

    Args:
        kept: measure it anew, too, where its trained values are not in `runs`, as in a fresh clone.
    """
    for one in known():
        if _same(one, name, seed) and (not kept or (folder(name, seed, runs) / "model.safetensors").exists()):
            return one
    found = measured(name, seed, runs)
    # Read again: another process may have written meanwhile.
    rest = [one for one in written() if not _same(one, name, seed)]
    files.write_json(RESULTS, sorted([*rest, found], key=lambda one: (one["row"], one["seed"])))
    print(f"{name} {seed}: {found['more']['accuracy']}", flush=True)
    return found


def measured(name: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train one row from one seed, and what it reached."""
    row = ROWS[name]
    task = row.task()
    minutes = 0.0
    if row.starts_from:
        minutes = result(row.starts_from, seed, runs, kept=True)["core_minutes"]
        task.values = load_file(folder(row.starts_from, seed, runs) / "model.safetensors")
    where = folder(name, seed, runs)
    where.mkdir(parents=True, exist_ok=True)
    for attempt in count():
        try:
            fit = train(
                task, row.core, seed + AWAY * attempt, Budget(row.epochs), where / f"checkpoint-{attempt}.safetensors",
                row.precision, "cpu", Reporter(f"{name} {seed}", row.anew),
            )  # fmt: skip
        except Lost as lost:
            minutes += lost.seconds / 60 * torch.get_num_threads()
        else:
            break
    task.keep(fit.model, where)
    return {
        "row": name,
        "seed": seed,
        "began_from": seed + AWAY * attempt,
        "threads": torch.get_num_threads(),
        "training": row.training(),
        "parameters": sum(one.numel() for one in fit.model.parameters()),
        "core_minutes": minutes + fit.progress.seconds / 60 * torch.get_num_threads(),
        **reached(task, fit.model),
    }


class Lost(Exception):
    """A training that is given up, after so many seconds of it."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Reporter:
    """Prints how training goes once a minute, and gives it up where it does not."""

    def __init__(self, title: str, anew: tuple[int, float] | None) -> None:
        self.title, self.anew = title, anew
        self._shown = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        if self.anew is not None and progress.epoch == self.anew[0] and progress.accuracy < self.anew[1]:
            print(f"{self.title}: given up with {progress.accuracy:.2%} of validation", flush=True)
            raise Lost(progress.seconds)
        if time.perf_counter() - self._shown > 60:
            self._shown = time.perf_counter()
            print(
                f"{self.title}: {progress.share:4.0%}, {progress.seconds / 60:.1f} min, loss {progress.loss:.4f}, "
                f"validation {progress.accuracy:.2%}",
                flush=True,
            )


def reached(task: SortOfClevr, model: nn.Module) -> dict[str, Any]:
    """What a model reaches on both parts."""
    found = {}
    for part in ("rule", "more"):
        evaluation, results = task.tested(model, part)
        families = {family: evaluation.families // 3 == at for at, family in enumerate(_FAMILIES)}
        found[part] = {
            "accuracy": results.accuracy,
            "interval": {
                family: share_interval(evaluation.correct[among], evaluation.groups[among])
                for family, among in families.items()
                if among.any()
            },
            "pointing": results.pointing,
            "baselines": results.baselines,
        }
    return found


_FAMILIES = ("non-relational", "relational", "ternary")


def page(results: Sequence[dict[str, Any]]) -> str:
    """The measured rows as Markdown."""
    groups = {name: [one for one in results if one["row"] == name] for name in ROWS}
    groups = {name: sorted(group, key=lambda one: one["seed"]) for name, group in groups.items() if group}
    lines = [
        "| | published | to reach | seeds | non-relational | relational | ternary | on the 200 of the rule |"
        " augmentation | core minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        row = ROWS[name]
        cells = [_share(group, "more", family) for family in _FAMILIES]
        rule = " / ".join(_mean(group, "rule", family) for family in _FAMILIES[: 2 + row.ternary])
        minutes = sum(one["core_minutes"] for one in group) / len(group)
        lines.append(
            f"| {row.title} | {row.published} | {row.wanted} | {_seeds(group, results)} | " + " | ".join(cells)
            + f" | {rule} | {row.augmentation} | {minutes:.0f} |"
        )  # fmt: skip
    baselines = next(iter(groups.values()))[0]["more"]["baselines"] if groups else {}
    ternary = [one for group in groups.values() for one in group if "ternary" in one["more"]["accuracy"]]
    baselines = ternary[0]["more"]["baselines"] if ternary else baselines
    for name, shares in baselines.items():
        cells = [f"{100 * shares[family]:.1f}" if family in shares else "" for family in _FAMILIES]
        lines.append(f"| *{SAID[name]}* | | | | " + " | ".join(cells) + " | | | |")
    lines += ["", "| kind of question | " + " | ".join(_titles(groups, results)) + " |", "|---|" + "---|" * len(groups)]
    kinds = dict.fromkeys(kind for group in groups.values() for kind in group[0]["more"]["accuracy"])
    for kind in kinds:
        if kind not in _FAMILIES:
            lines.append(f"| {kind} | " + " | ".join(_mean(group, "more", kind) for group in groups.values()) + " |")
    pointing = {name: group for name, group in groups.items() if group[0]["more"]["pointing"]}
    lines += [
        "",
        "| the largest weight lies | " + " | ".join(_titles(pointing, results)) + " |",
        "|---|" + "---|" * len(pointing),
    ]
    for where, family, said in _POINTS:
        cells = [_pointed(group, where, family) for group in pointing.values()]
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_POINTS = (
    ("asked", "non-relational", "on the object asked about, non-relational questions"),
    ("asked", "relational", "on the object asked about, relational questions"),
    ("found", "relational", "on the closest or furthest object, relational questions"),
)


def _titles(groups: Mapping[str, Sequence[dict[str, Any]]], results: Sequence[dict[str, Any]]) -> list[str]:
    """The columns' titles, with what makes a row's figures other than those of plain seeds."""
    titles = []
    for name, group in groups.items():
        again = _restarted(group, results)
        titles.append(
            ROWS[name].title
            + (", no augmentation" if ROWS[name].augmentation == "none" else "")
            + (f", {_named(again)} restarted" if again else "")
        )
    return titles


def _seeds(group: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> str:
    """How many seeds a row has, and which of its figures come from a run that was restarted."""
    row, again = group[0], _restarted(group, results)
    anew = _threshold(row["training"])
    if anew is None:
        return str(len(group))
    epochs, share = anew
    rule = f"below {100 * share:.0f} % of the validation questions after {epochs} epochs"
    if not again:
        return f"{len(group)}; none was {rule}, where a run is restarted"
    whose = "" if row["training"].get("anew") else " in the row that it starts from"
    return f"{len(group)}; {_named(again)} restarted from another seed{whose}, being {rule}"


def _restarted(group: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> list[int]:
    """The seeds whose training, or the training of what it starts from, began anew from another seed."""
    by_run = {(one["row"], one["seed"]): one for one in results}

    def anew(run: dict[str, Any]) -> bool:
        if run["training"].get("anew"):
            return run["began_from"] != run["seed"]
        if _threshold(run["training"]) is None:
            return False
        return anew(by_run[ROWS[run["row"]].starts_from, run["seed"]])

    return [one["seed"] for one in group if anew(one)]


def _threshold(training: Mapping[str, Any]) -> tuple[int, float] | None:
    """The rule of restarts of a training, or of the one that it starts from; None if neither has one."""
    if training.get("anew"):
        epochs, share = training["anew"]
        return epochs, share
    return _threshold(training["starts_from"]) if training["starts_from"] else None


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _values(group: Sequence[dict[str, Any]], part: str, kind: str) -> list[float]:
    return [100 * one[part]["accuracy"][kind] for one in group if kind in one[part]["accuracy"]]


def _mean(group: Sequence[dict[str, Any]], part: str, kind: str) -> str:
    values = _values(group, part, kind)
    return f"{sum(values) / len(values):.2f}" if values else ""


def _share(group: Sequence[dict[str, Any]], part: str, family: str) -> str:
    """The mean of the seeds with Student's interval; of a single seed, that of its questions."""
    values = _values(group, part, family)
    if not values:
        return ""
    low, high = mean_interval(values) or (100 * end for end in group[0][part]["interval"][family])
    return f"**{sum(values) / len(values):.2f}** ({max(low, 0):.2f} to {min(high, 100):.2f})"


def _pointed(group: Sequence[dict[str, Any]], where: str, family: str) -> str:
    """Of the mean of all looks, and of the look that points there most often."""
    looks = [[100 * look[family] for look in one["more"]["pointing"][where]] for one in group]
    mean = sum(look[0] for look in looks) / len(looks)
    if len(looks[0]) == 1:
        return f"{mean:.1f}"
    means = [sum(each) / len(looks) for each in zip(*(look[1:] for look in looks), strict=True)]
    return f"{mean:.1f}, look {means.index(max(means)) + 1}: {max(means):.1f}"


HEAD, TAIL = "<!-- made by benchmarks/sort_of_clevr.py; do not edit -->\n", "<!-- end -->\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, default=3, help="how many, 0 first (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="begin with this one")
    parser.add_argument("--threads", type=int, default=2, help="default 2; runs side by side are faster with 1 each")
    parser.add_argument("--runs", type=Path, default=Path("runs", "benchmark-sort-of-clevr"))
    parser.add_argument("--write", action="store_true", help=f"write the table into docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    for name in given.rows:
        for seed in range(given.first_seed, given.seeds):
            result(name, seed, given.runs)
    text = page(known())
    print(text)
    if given.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        PAGE.write_text(before + HEAD + "\n" + text + "\n" + TAIL + rest.partition(TAIL)[2], encoding="utf-8")
    return 0


def written() -> list[dict[str, Any]]:
    """All that was measured."""
    return files.read_json(RESULTS) if RESULTS.exists() else []


def known() -> list[dict[str, Any]]:
    """What was measured with the training that the rows have now."""
    return [one for one in written() if one["row"] in ROWS and one["training"] == ROWS[one["row"]].training()]


def _same(one: dict[str, Any], name: str, seed: int) -> bool:
    return (one["row"], one["seed"]) == (name, seed)


if __name__ == "__main__":
    raise SystemExit(main())
