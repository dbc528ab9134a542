"""Feature, decision and model level on four generated modalities, whole and with one missing.

    python benchmarks/fusion.py

Data: `regard.tasks.fusion`, four digits, each told by a text, a picture, a sound or a video; the label is their sum
(or, with `--rule modulo`, their sum modulo the base), so that no three of them suffice. The first row of the table is
the best that anybody could do, counted. Every fusion has the same rows, encoders, width, epochs and seeds; the test
rows show handwritten digits and noise that training has not. The interval is over the test rows, 95 per cent, for the
mean of the seeds.
"""

import argparse
import time
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory

from regard.models.fusion import Predictor, fit, fusions
from regard.tasks.fusion import RULES, bayes_accuracy, draw, write
from regard.tasks.fusion.four_digits import MODALITIES, RATE

DEFAULTS = ("concatenation", "tensor", "low_rank_tensor", "vote", "stacking", "gradient_blending", "bottleneck")

ENCODERS = {"audio": {"rate": RATE}, "video": {"frames": 4, "size": 24}}


def main(arguments: Sequence[str] | None = None) -> str:
    """Train, test and print the table, which it also gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fusions", nargs="+", default=DEFAULTS, choices=list(fusions), metavar="NAME")
    parser.add_argument("--rule", default="sum", choices=list(RULES))
    parser.add_argument("--base", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2000, help="to train on, with what is held out")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--robustness", type=Path, help="a folder for a curve of each fusion, as SVG")
    given = parser.parse_args(arguments)

    best = [float(bayes_accuracy(MODALITIES, given.base, given.rule))]
    best += [float(bayes_accuracy([m for m in MODALITIES if m != gone], given.base, given.rule)) for gone in MODALITIES]
    lines = [
        "| fusion | level | parameters | all four | "
        + " | ".join(f"no {name}" for name in MODALITIES)
        + " | seconds |",
        "|---|---|---|---|" + "---|" * len(MODALITIES) + "---|",
        "| the best there can be | | | " + " | ".join(f"{value:.1%}" for value in best) + " | |",
    ]
    with TemporaryDirectory() as place:
        table = write(draw(given.rows, given.base, given.rule), Path(place, "training"))
        other = write(draw(given.test, given.base, given.rule, part="test"), Path(place, "test"))
        for name in given.fusions:
            results: list[list[float]] = []
            began = time.perf_counter()
            for seed in range(given.seeds):
                predictor = fit(
                    table,
                    fusion=name,
                    width=32,
                    epochs=given.epochs,
                    seed=seed,
                    encoder_options=ENCODERS,
                    say=lambda line, name=name: print(f"{name}: {line}", flush=True),
                )
                if seed == 0 and given.robustness is not None:
                    given.robustness.mkdir(parents=True, exist_ok=True)
                    predictor.robustness(other).plot(given.robustness / f"{name}.svg")
                results.append([accuracy(predictor, other, gone) for gone in (None, *MODALITIES)])
            seconds = (time.perf_counter() - began) / given.seeds
            means = [sum(column) / given.seeds for column in zip(*results, strict=True)]
            parameters = sum(p.numel() for p in predictor.model.fusion.parameters())  # pyright: ignore
            cells = [f"{mean:.1%} ± {interval(mean, given.test):.1%}" for mean in means]
            lines.append(
                f"| {name} | {fusions[name].level} | {parameters:,} | " + " | ".join(cells) + f" | {seconds:.0f} |"
            )
    text = "\n".join(lines)
    print(f"\n{given.rows} rows, {given.test} to test, base {given.base}, rule {given.rule}, {given.seeds} seeds")
    print(f"\n{text}")
    return text


def accuracy(predictor: Predictor, table: Path, gone: str | None) -> float:
    """On the test rows, without one modality."""
    return predictor.evaluate(table, without=[gone] if gone else [])["accuracy"]


def interval(share: float, count: int) -> float:
    """Half the width of the 95 per cent interval of a share of `count` rows, after Agresti and Coull."""
    count += 4
    share = (share * (count - 4) + 2) / count
    return 1.96 * sqrt(share * (1 - share) / count)


if __name__ == "__main__":
    main()
