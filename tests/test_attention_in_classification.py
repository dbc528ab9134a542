"""The benchmark of attention in a classifier runs from the files to its table, resumes, and says what is missing."""

import gzip
import importlib
import json
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from regard.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, which writes its results and its page elsewhere."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("attention_in_classification")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"before\n{module.HEAD}old\n{module.TAIL}after\n")
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set in the form of the package: two pictures to train on of each class for each part, and a few others."""
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, each in (("train", 4), ("t10k", 2)):
        labels = random.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        pictures = random.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return folder


def small(data: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--pictures", "20", "--test", "20", "--epochs", "1", "--rounds", "2", *more]


def test_it_runs_from_the_files_to_the_tables_and_resumes(
    benchmark: ModuleType, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = benchmark.main(small(data, "--seeds", "1", "--write"))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    scratch = ["none", "none, wider", "se", "cbam", "eca"]
    tuned = ["none", "se", "cbam", "eca", "non_local", "multi_head_self"]
    assert [row[0].removeprefix("| ") for row in rows] == ["", "---", *scratch, "", "---", *tuned]
    assert len({len(row) for row in rows[:7]}) == len({len(row) for row in rows[7:]}) == 1
    page = benchmark.PAGE.read_text()
    assert page == f"before\n{benchmark.HEAD}\n{text}\n{benchmark.TAIL}after\n"

    results = json.loads(benchmark.RESULTS.read_text())["results"]
    assert [(one["part"], one["row"]) for one in results] == sorted(
        [*(("scratch", name) for name in scratch), *(("fine_tuning", name) for name in tuned)]
    )
    for one in results:
        assert one["tested"] == 20
        assert one["exact"] is (True if one["part"] == "fine_tuning" else None)
        assert one["accuracy"] * 20 == pytest.approx(round(one["accuracy"] * 20))
        for ablation in one.get("ablations", {}).values():
            changed = ablation["lost"] - ablation["gained"]
            assert 20 * (one["accuracy"] - ablation["accuracy"]) == pytest.approx(changed)
        assert ("ablations" in one) == (not one["row"].startswith("none"))
    assert set(results[0]["ablations"]) == {"removed", "mean", "resampled"}

    capsys.readouterr()
    assert benchmark.main(small(data, "--seeds", "1", "--rounds", "0")) == text  # nothing is measured again
    assert capsys.readouterr().out == f"\n{text}\n"
    again = benchmark.main(small(data, "--seeds", "2", "--parts", "scratch", "--rows", "se", "--rounds", "0"))
    assert "| se | 2 |" in again
    assert "| cbam | 1 |" in again
    assert len(json.loads(benchmark.RESULTS.read_text())["results"]) == 12


def test_a_trial_with_another_training_replaces_nothing(benchmark: ModuleType, data: Path) -> None:
    few = ("--parts", "scratch", "--rows", "none", "--seeds", "1")
    first = benchmark.main(small(data, *few))
    before = json.loads(benchmark.RESULTS.read_text())
    benchmark.main(small(data, *few, "--test", "10"))
    after = json.loads(benchmark.RESULTS.read_text())
    for kind, count in (("results", 1), ("timings", 5)):
        assert len(before[kind]) == count
        assert len(after[kind]) == 2 * count
        assert all(one in after[kind] for one in before[kind])
    assert benchmark.main(small(data, *few, "--rounds", "0")) == first
    benchmark.main(small(data, *few))  # the same training: timed again, in place of the first timing
    assert len(json.loads(benchmark.RESULTS.read_text())["timings"]) == 10


def test_rows_share_their_first_values_and_the_wider_one_has_as_many_parameters(benchmark: ModuleType) -> None:
    training, names, _ = benchmark.PARTS["scratch"]
    models = {name: benchmark.build(name, training, 3) for name in names}
    plain = models["none"].state_dict()
    for name in ("se", "cbam", "eca"):
        shared = {key: value for key, value in models[name].state_dict().items() if key in plain}
        assert len(shared) == len(plain)
        assert all(torch.equal(value, plain[key]) for key, value in shared.items())
    counts = {name: benchmark.parameters(model) for name, model in models.items()}
    assert abs(counts["none, wider"] - counts["cbam"]) < 100
    assert counts["cbam"] - counts["none"] > 2_000
    other = benchmark.build("none", training, 4).state_dict()
    assert not torch.equal(other["fc.weight"], plain["fc.weight"])


def test_pictures_are_drawn_by_the_seed_as_many_of_each_class_and_apart_from_the_encoders(
    benchmark: ModuleType,
) -> None:
    labels = torch.arange(10).repeat(7)
    pictures = benchmark.Pictures(torch.arange(70.0)[:, None], labels)
    first, second = benchmark.drawn(pictures, 40, 5), benchmark.drawn(pictures, 30, 5, after=40)
    assert first.labels.bincount().tolist() == [4] * 10
    assert second.labels.bincount().tolist() == [3] * 10
    assert sorted([*first.values.flatten().tolist(), *second.values.flatten().tolist()]) == list(range(70))
    assert not torch.equal(first.values, benchmark.drawn(pictures, 40, 6).values)
    with pytest.raises(UserError, match=r"has 7 training pictures of class 0, expected at least 8: .*--pictures$"):
        benchmark.drawn(pictures, 40, 5, after=40)


def test_intervals_are_those_of_student_and_p_that_of_mcnemar(benchmark: ModuleType) -> None:
    # Three values with mean 2 and standard deviation 1: t(0.975, 2) = 4.3027, half width 4.3027 / sqrt(3) = 2.4842.
    assert benchmark.signed([1.0, 2.0, 3.0]) == "+2.00 (-0.48 to +4.48)"
    assert benchmark.signed([11.0, 12.0, 13.0], bold=True) == "**+12.00** (+9.52 to +14.48)"
    assert benchmark.signed([-3.0]) == "-3.00"
    assert benchmark.share([98.0, 99.0, 100.0]) == "99.00 (96.52 to 100.00)"
    # McNemar, exact: none of 3 pictures one way, twice 1 / 8; 1 of 5, twice (1 + 5) / 32, the larger.
    assert benchmark.probability([{"lost": 3, "gained": 0}, {"lost": 4, "gained": 1}]) == pytest.approx(0.375)
    assert benchmark.probability([{"lost": 0, "gained": 0}]) == 1
    assert benchmark.probability([]) is None
    assert [benchmark.as_text(p) for p in (0.375, 1.0, 0.0009, None)] == ["0.38", "1", "< 0.001", ""]


def test_a_difference_is_shown_only_if_it_stands_among_all_rows(benchmark: ModuleType) -> None:
    # Three values with standard deviation 1 and mean m: t is m times the root of 3, and with two degrees of freedom the
    # two-sided p is 1 - t / sqrt(2 + t * t), here 0.03; twice that is not below 0.05.
    m = 3.258
    t = m * 3**0.5
    assert 1 - t / (2 + t * t) ** 0.5 == pytest.approx(0.03, abs=1e-4)
    values = [m - 1, m, m + 1]
    assert benchmark.shown({"se": values}) == {"se"}
    assert benchmark.shown({"se": values, "eca": values}) == set()
    assert benchmark.shown({"se": values, "eca": [-100.0, -101.0, -102.0]}) == {"se", "eca"}
    assert benchmark.shown({"se": values, "eca": [1.0], "cbam": [2.0, 2.0]}) == {"se"}  # no test, so no comparison

    groups = {
        "none": {seed: {"accuracy": 0.5, "parameters": 1} for seed in range(3)},
        "se": {seed: {"accuracy": 0.5 + value / 100, "parameters": 1} for seed, value in enumerate(values)},
    }
    results = [{"row": name, "seed": seed, **one} for name, group in groups.items() for seed, one in group.items()]
    assert "**+3.26** (+0.77 to +5.74)" in benchmark.table(benchmark.PARTS, "scratch", results, [])
    results += [one | {"row": "eca"} for one in results if one["row"] == "se"]
    text = benchmark.table(benchmark.PARTS, "scratch", results, [])
    assert text.count("| +3.26 (+0.77 to +5.74)") == 2
    assert "**" not in text
    assert "beyond the spread of the seeds: none of them; less: none of them." in text


def test_removal_p_are_adjusted_for_the_number_of_rows(benchmark: ModuleType) -> None:
    # One of 10 pictures the other way: p is 2 (1 + 10) / 1024 = 0.0215; of three alike Holm makes three times that.
    one = {"accuracy": 0.5, "lost": 9, "gained": 1, "changed": 0.1}
    results = [
        {"row": name, "seed": 0, "accuracy": 0.6, "parameters": 1, "ablations": {"removed": one}}
        for name in ("se", "cbam", "eca")
    ]
    assert benchmark.table(benchmark.PARTS, "scratch", results, []).count("| 0.064 |") == 3


def test_the_verdict_follows_from_the_differences(benchmark: ModuleType) -> None:
    def group(*shares: float, mean: float | None = None) -> dict[int, dict[str, object]]:
        return {
            seed: {
                "accuracy": share,
                "ablations": {} if mean is None else {"mean": {"accuracy": share + mean + seed / 1e4}},
            }
            for seed, share in enumerate(shares)
        }

    text = benchmark.verdict(
        {
            "none": group(0.80, 0.82, 0.81),
            "none, wider": group(
                0.79, 0.82, 0.80
            ),  # differences -1, 0, -1: Student's interval reaches from -2.1 to 0.8
            "se": group(0.83, 0.851, 0.84, mean=-0.05),  # +3, +3.1, +3
            "eca": group(0.83, 0.851, 0.84, mean=0.0),
            "cbam": group(0.75, 0.771, 0.76, mean=-0.0001),
        }
    )
    assert text.splitlines() == [
        "More accurate than *none* beyond the spread of the seeds: se, eca; less: cbam.",
        "Less accurate with their weights at the mean, so that what depends on the picture is used: se; not so: eca, "
        "cbam.",
        "That the gain of eca comes from weights that depend on the picture was not shown.",
    ]
    assert benchmark.verdict({"none": group(0.8), "se": group(0.9, mean=-0.1)}) == (
        "One seed a row says nothing of the spread."
    )


def test_without_the_package_it_says_which_to_install(benchmark: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: Fashion-MNIST is expected there; .* 'apt-get install dataset-f"):
        benchmark.main(["--data", str(tmp_path / "none")])


def test_the_package_holds_what_the_benchmark_reads(benchmark: ModuleType) -> None:
    if not benchmark.DATA.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    data = benchmark.read(benchmark.DATA)
    assert {part: pictures.labels.bincount().tolist() for part, pictures in data.items()} == {
        "train": [6000] * 10,
        "test": [1000] * 10,
    }
    values = data["train"].values
    assert values.shape[1:] == (1, 28, 28)
    assert values.mean().item() == pytest.approx(0, abs=0.01)
    assert values.std().item() == pytest.approx(1, abs=0.01)
