"""A fusion beside gradient boosting, on tables that come with scikit-learn.

    python benchmarks/fusion_tables.py [--write]        about two minutes on one core

    wine            13 numbers, which of 3 vineyards            178 rows
    breast_cancer   30 numbers, malignant or benign             569 rows
    diabetes        10 numbers, progression after a year        442 rows, regression
    parcels         a picture, a text and two numbers           1,797 rows

`parcels` is made here, from scikit-learn's handwritten digits: a picture of how many things are in a parcel, a sentence
that says how many are put to it, a limit, and a weight that tells nothing; the label is whether the sum is above the
limit, so that no column can be left out. Gradient boosting is scikit-learn's histogram one as it comes; of pictures it
gets the pixels and of text the counts of words, since it takes numbers only. Both see the same rows; the score is the
accuracy or R² on a quarter that neither has seen, the mean over the seeds.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.models.fusion import fit

PAGE = Path(__file__).parents[1] / "docs/fusion.md"
HEAD, TAIL = "<!-- made by benchmarks/fusion_tables.py; do not edit -->\n", "<!-- end -->\n"

Columns = dict[str, list[Any]]

SENTENCES = ("put {} more into it", "there are {} others outside", "{} came with the next post", "add {} , please")
OTHERS = ("picture", "note", "label")
NUMBERS = ("no", "one", "two", "three", "four", "five")


def plain(name: str) -> Columns:
    """One of scikit-learn's tables of numbers."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    columns: Columns = {str(each): data.data[:, at].tolist() for at, each in enumerate(data.feature_names)}
    return {**columns, "label": data.target.tolist()}


def parcels() -> Columns:
    """Pictures, texts and numbers that tell the label together."""
    from sklearn.datasets import load_digits

    digits, random = load_digits(), np.random.default_rng(0)
    more = random.integers(0, len(NUMBERS), len(digits.target))
    limit = random.integers(3, 11, len(digits.target))
    sentences = random.choice(SENTENCES, len(digits.target))
    return {
        "picture": [(16 * image.clip(0, 15)).astype(np.uint8) for image in digits.images],
        "note": [sentence.format(NUMBERS[count]) for sentence, count in zip(sentences, more, strict=True)],
        "limit": limit.tolist(),
        "weight": random.normal(size=len(limit)).round(3).tolist(),
        "label": ["above" if above else "below" for above in digits.target + more > limit],
    }


TABLES: dict[str, Callable[[], Columns]] = {
    "wine": lambda: plain("wine"),
    "breast_cancer": lambda: plain("breast_cancer"),
    "diabetes": lambda: plain("diabetes"),
    "parcels": parcels,
}


def compared(name: str, seed: int, fusion: str = "concatenation", epochs: int = 40) -> tuple[float, float]:
    """The scores of the fusion and of gradient boosting."""
    columns = TABLES[name]()
    order = np.random.default_rng(seed).permutation(len(columns["label"]))
    cut = len(order) // 4
    train, test = (
        {key: [values[row] for row in rows] for key, values in columns.items()} for rows in (order[cut:], order[:cut])
    )
    predictor = fit(
        train, fusion=fusion, width=32, epochs=epochs, seed=seed, encoder_options=options(name), say=lambda line: None
    )
    return predictor.evaluate(test)[predictor.outcome.measure], boosted(train, test, predictor.outcome.task, seed)


def options(name: str) -> dict[str, dict[str, Any]] | None:
    """The digits are 8 pixels wide."""
    return {"picture": {"size": 16}} if name == "parcels" else None


def boosted(train: Columns, test: Columns, task: str, seed: int) -> float:
    """The score of gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer().fit(train["note"]) if "note" in train else None

    def numbers(columns: Columns) -> np.ndarray:
        parts = [np.array(values, float)[:, None] for name, values in columns.items() if name not in OTHERS]
        if words is not None:
            parts += [words.transform(columns["note"]).toarray()]
            parts += [np.stack(columns["picture"]).reshape(len(columns["picture"]), -1)]
        return np.concatenate(parts, 1)

    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    learned = kind(random_state=seed).fit(numbers(train), train["label"])
    return float(learned.score(numbers(test), test["label"]))


def main(arguments: Sequence[str] | None = None) -> str:
    """Train both on every table and print the scores, which it also gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES), metavar="NAME")
    parser.add_argument("--fusion", default="concatenation")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    given = parser.parse_args(arguments)
    lines = ["| table | fusion | gradient boosting | ratio |", "|---|---|---|---|"]
    for name in given.tables:
        scores = np.mean([compared(name, seed, given.fusion, given.epochs) for seed in range(given.seeds)], 0)
        lines.append(f"| {name} | {scores[0]:.1%} | {scores[1]:.1%} | {scores[0] / scores[1]:.3f} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    print(f"\n{text}")
    if given.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        PAGE.write_text(f"{before}{HEAD}\n{text}\n\n{TAIL}{rest.partition(TAIL)[2]}", encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
