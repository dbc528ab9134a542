"""Feature, decision and model level on four generated modalities, whole and with one missing.

    python benchmarks/fusion.py              under five minutes on two cores
    python benchmarks/fusion.py --write      the same, with the table put into docs/fusion.md

Data: `regard.tasks.fusion`, four digits, each told by a text, a picture, a sound or a video; the label is their sum
(or, with `--rule modulo`, their sum modulo the base), so that no three of them suffice. The first row of the table is
the best that anybody could do, the second what a vote of the best possible classifiers comes to; both are counted.
Every fusion has the same rows, encoders, width, epochs and seeds; the test rows show handwritten digits and noise that
training has not. The interval is over the test rows, 95 per cent, for the mean of the seeds.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from regard.models.fusion import fit, fusions
from regard.models.fusion.outcome import wilson
from regard.tasks.fusion import RULES, bayes_accuracy, draw, vote_accuracy, write
from regard.tasks.fusion.four_digits import MODALITIES, RATE

DEFAULTS = ("concatenation", "tensor", "low_rank_tensor", "vote", "stacking", "gradient_blending", "bottleneck")

ENCODERS = {"audio": {"rate": RATE}, "video": {"frames": 4, "size": 24}}

PAGE = Path(__file__).parents[1] / "docs/fusion.md"
HEAD, TAIL = "<!-- made by benchmarks/fusion.py; do not edit -->\n", "<!-- end -->\n"


def main(arguments: Sequence[str] | None = None) -> str:
    """Train, test and print the table, which it also gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusions", nargs="+", default=DEFAULTS, choices=list(fusions), metavar="NAME")
    parser.add_argument("--rule", default="sum", choices=list(RULES))
    parser.add_argument("--base", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4000, help="to train on, with what is held out")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="fusions trained at once, each on one core")
    parser.add_argument("--robustness", type=Path, help="a folder for a curve of each fusion, as SVG")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    given = parser.parse_args(arguments)

    def counted(count: Callable[..., Fraction]) -> list[str]:
        known = [MODALITIES, *([m for m in MODALITIES if m != gone] for gone in MODALITIES)]
        return [f"{float(count(some, given.base, given.rule)):.1%}" for some in known]

    rows = [
        ["fusion", "level", "parameters", "all four", *(f"no {name}" for name in MODALITIES), "seconds"],
        ["---"] * (len(MODALITIES) + 5),
        ["the best there can be", "", "", *counted(bayes_accuracy), ""],
        ["the best vote", "", "", *counted(vote_accuracy), ""],
    ]
    with TemporaryDirectory() as place, ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        table = write(draw(given.rows, given.base, given.rule), Path(place, "training"))
        other = write(draw(given.test, given.base, given.rule, part="test"), Path(place, "test"))
        found = {
            name: [
                pool.submit(trained, name, seed, given.epochs, table, other, given.robustness if seed == 0 else None)
                for seed in range(given.seeds)
            ]
            for name in given.fusions
        }
        for name, runs in found.items():
            parameters, seconds, *shares = (
                sum(column) / given.seeds for column in zip(*(run.result() for run in runs), strict=True)
            )
            cells = [f"{share:.1%} ± {half(share, given.test):.1%}" for share in shares]
            rows.append([name, fusions[name].level, f"{parameters:,.0f}", *cells, f"{seconds:.0f}"])
            print(f"{name}: {', '.join(cells)}", flush=True)
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    about = (
        f"{given.rows:,} rows, {given.test:,} to test, {given.epochs} epochs, base {given.base}, rule {given.rule}, "
        f"{given.seeds} seed{'s' * (given.seeds > 1)}"
    )
    print(f"\n{about}\n\n{text}")
    if given.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        PAGE.write_text(f"{before}{HEAD}\n{about}:\n\n{text}\n\n{TAIL}{rest.partition(TAIL)[2]}", encoding="utf-8")
    return text


def trained(name: str, seed: int, epochs: int, table: Path, other: Path, curves: Path | None) -> list[float]:
    """Parameters of the fusion, seconds of training, and accuracies: whole, then without each modality."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    predictor = fit(
        table, fusion=name, width=32, epochs=epochs, seed=seed, encoder_options=ENCODERS, device="cpu",
        say=lambda line: print(f"{name}: {line}", flush=True),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if curves is not None:
        curves.mkdir(parents=True, exist_ok=True)
        predictor.robustness(other).plot(curves / f"{name}.svg")
    shares = [predictor.evaluate(other, without=gone)["accuracy"] for gone in ([], *([each] for each in MODALITIES))]
    return [sum(one.numel() for one in predictor.model.fusion.parameters()), seconds, *shares]


def half(share: float, count: int) -> float:
    """Half the width of the interval of a share of `count` rows."""
    low, high = wilson(share, count)
    return (high - low) / 2


if __name__ == "__main__":
    main()
