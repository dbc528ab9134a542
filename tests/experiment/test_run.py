"""A run's folder: whose it is, what is finished in it, and what is never done twice."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from regard import files
from regard.errors import UserError
from regard.experiment import compare
from regard.experiment.run import Run, compared
from regard.experiment.settings import Settings
from regard.experiment.training import Fit
from regard.tasks.digit_scenes import DigitScenes

SETTINGS = Settings(
    task="digit-scenes", data=None, size=40, batch=4, epochs=2, minutes=None, device="cpu", precision="32-true",
    attention=("none", "additive"), seeds=1,
)  # fmt: skip


def result(attention: str, seed: int, overall: float = 0.5, ratio: float = 1.0) -> dict[str, Any]:
    return {
        "attention": attention, "seed": seed, "accuracy": {"overall": overall}, "milliseconds_ratio": ratio,
        "parameters": 100 if attention == "none" else 130,
    }  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_settings_must_be_the_same_but_for_variants_and_seeds(tmp_path: Path) -> None:
    there = json.loads(json.dumps(SETTINGS.as_json()))
    SETTINGS.require_same(there, tmp_path)
    replace(SETTINGS, attention=("hard",), seeds=7).require_same(there, tmp_path)
    with pytest.raises(UserError) as error:
        replace(SETTINGS, size=44, epochs=None, minutes=1.5).require_same(there, tmp_path)
    said = str(error.value)
    for part in ("size 40 there, 44 now", "epochs 2 there, None now", "minutes None there, 1.5 now", "--name"):
        assert part in said
    assert "batch" not in said
    assert "\n" not in said


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    run = Run(tmp_path / "deep" / "run", SETTINGS, True)
    kept = files.read_json(run.folder / "settings.json")
    for key, value in SETTINGS.as_json().items():
        assert kept[key] == value
    assert kept["attention"] == ["none", "additive"]
    assert kept["seeds"] == [0]
    assert "torch" in kept["machine"]
    assert run.results() == []
    assert run.finished("none", 0) is None


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_where_the_folder_should_be(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / "run", SETTINGS, resume)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no run of regard"):
        Run(tmp_path / "run", SETTINGS, True)
    assert contents(tmp_path) == {"run/thesis.txt": b"mine"}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Run(tmp_path / "run", SETTINGS, True)
    assert (tmp_path / "run" / "settings.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", "{}"])
def test_settings_of_something_else_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError):
        Run(tmp_path, SETTINGS, True)
    assert contents(tmp_path) == {"settings.json": text.encode()}


def test_another_runs_folder_is_left_alone(tmp_path: Path) -> None:
    Run(tmp_path / "run", SETTINGS, True)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="batch 4 there, 8 now"):
        Run(tmp_path / "run", replace(SETTINGS, batch=8), True)
    assert contents(tmp_path) == before


def test_without_resume_the_old_run_is_put_aside(tmp_path: Path) -> None:
    for batch in (4, 8, 16):
        run = Run(tmp_path / "run", replace(SETTINGS, batch=batch), False)
        run.finish("none", 0, result("none", 0, batch / 100), [], [])
    kept = {path.name: files.read_json(path / "settings.json")["batch"] for path in tmp_path.iterdir()}
    assert kept == {"run-1": 4, "run-2": 8, "run": 16}
    assert files.read_json(tmp_path / "run-1" / "none-0" / "result.json")["accuracy"]["overall"] == 0.04


def test_files_at_the_top_are_made_of_finished_parts(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(SETTINGS, seeds=2), True)
    run.checkpoint("additive", 0).parent.mkdir(parents=True)
    run.checkpoint("additive", 0).write_bytes(b"")
    run.finish("additive", 0, result("additive", 0), [{"epoch": 1, "loss": 0.5}], ["said"])
    assert not run.checkpoint("additive", 0).exists()
    run.finish("none", 1, result("none", 1), [{"epoch": 1, "accuracy_overall": 0.25}], [])
    run.gather([{"question": "?"}])
    assert [(one["attention"], one["seed"]) for one in files.read_json(tmp_path / "results.json")] == [
        ("none", 1),
        ("additive", 0),
    ]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["attention"], row["seed"], row["loss"], row["accuracy_overall"]) for row in rows] == [
        ("none", "1", "", "0.25"),
        ("additive", "0", "0.5", ""),
    ]
    assert files.read_json(tmp_path / "readings.json") == {"additive": ["said"]}
    assert files.read_json(tmp_path / "examples.json") == [{"question": "?"}]


def test_compared_takes_differences_within_a_seed() -> None:
    none, se = [0.5, 0.7, 0.6], [0.6, 0.75, 0.66]
    results = [result("none", seed, share) for seed, share in enumerate(none)]
    results += [result("se", seed, share, 1.5) for seed, share in enumerate(se)]
    results += [result("eca", 1, 0.6), result("cbam", 9, 0.9)]
    table = {row["attention"]: row for row in compared(results)}
    assert list(table) == ["se", "eca"]  # cbam shares no seed with none
    assert table["se"]["differences"] == pytest.approx([0.1, 0.05, 0.06])
    assert table["se"]["difference"] == pytest.approx(0.07)
    low, high = table["se"]["interval"]
    assert low < 0.07 < high
    assert 0 < table["se"]["p"] < 0.1
    assert table["se"]["milliseconds_ratio"] == pytest.approx(1.5)
    assert table["se"]["parameters_added"] == 30
    assert table["eca"]["differences"] == pytest.approx([-0.1])
    assert table["eca"]["interval"] is None
    assert table["eca"]["p"] is None
    assert table["se"]["adjusted_p"] == table["se"]["p"]  # the only comparison that has one
    assert {row["reference"] for row in table.values()} == {"none"}
    assert compared([]) == []


def test_of_one_seed_the_test_items_are_the_sample() -> None:
    """Of 40 pictures se has 9 right that none has wrong, and 2 the other way round."""
    right = {"none": np.zeros(40), "se": np.zeros(40), "eca": np.zeros(40)}
    right["none"][:12], right["se"][2:21], right["eca"][:12] = 1, 1, 1
    results = [result(name, 0, float(one.mean())) for name, one in right.items()]
    se, eca = compared(results, lambda name, seed: (right[name], np.arange(40)))
    assert se["paired_by"] == "items"
    assert se["p"] == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert se["adjusted_p"] == pytest.approx(2 * se["p"])
    low, high = se["interval"]
    assert low < 7 / 40 < high
    assert (eca["p"], eca["difference"]) == (1.0, 0.0)
    assert eca["interval"][0] < 0 < eca["interval"][1]
    # Outcomes of other items cannot be paired; without `none` the first variant is the reference.
    (other,) = compared(results[:2], lambda name, seed: (right[name], np.arange(40) + (name == "se")))
    assert (other["paired_by"], other["interval"]) == ("seeds", None)
    assert [one["reference"] for one in compared(results[1:])] == ["se"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which parts were trained, by a training that does nothing on a task that is small."""
    parts: list[tuple[str, int]] = []
    task = DigitScenes(batch=4, batches_per_epoch=2, test_scenes=20)
    monkeypatch.setattr("regard.tasks.digit_scenes.DigitScenes", lambda **_: task)

    def train(task: Any, attention: str, seed: int, budget: Any, checkpoint: Path, *rest: Any) -> Fit:
        parts.append((attention, seed))
        fit = Fit(task, task.model(attention, seed), seed, budget, checkpoint, rest[-1])
        fit.progress.seconds = 1.0
        fit.curve.append({"epoch": 1, "seconds": 1.0, "accuracy_overall": 0.1})
        return fit

    monkeypatch.setattr("regard.experiment.training.train", train)
    return parts


def untimed(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results without what comes from the timing of all variants together."""
    return [{key: value for key, value in one.items() if "milliseconds" not in key} for one in results]


def go(tmp_path: Path, attention: str, **more: Any) -> Run:
    return compare(attention, runs=tmp_path, batch=4, epochs=1, device="cpu", **more)


def test_nothing_finished_is_trained_again_and_more_can_be_added(
    tmp_path: Path, trained: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = untimed(go(tmp_path, "none,additive").results())
    assert trained == [("none", 0), ("additive", 0)]
    once = (tmp_path / "digit-scenes" / "times.json").read_text()
    assert untimed(go(tmp_path, "none,additive").results()) == first
    assert len(trained) == 2
    assert (tmp_path / "digit-scenes" / "times.json").read_text() == once  # what is timed is not timed again
    go(tmp_path, "additive,hard", seeds=2)
    assert trained[2:] == [("hard", 0), ("additive", 1), ("hard", 1)]
    times = files.read_json(tmp_path / "digit-scenes" / "times.json")
    assert list(times) == ["none", "additive", "hard"]  # all of them together, also those that had been timed
    assert {len({one["rounds"] for one in times.values()}), times["none"]["milliseconds_ratio"]} == {1}
    run = go(tmp_path, "none")
    assert len(trained) == 5
    assert [(one["attention"], one["seed"]) for one in run.results()] == [
        ("none", 0), ("additive", 0), ("additive", 1), ("hard", 0), ("hard", 1),
    ]  # fmt: skip
    assert files.read_json(run.folder / "settings.json")["seeds"] == [0, 1]
    assert untimed([one for one in run.results() if one["seed"] == 0][:2]) == first
    go(tmp_path, "none", resume=False)
    assert trained[5:] == [("none", 0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digit-scenes", "digit-scenes-1"]
    assert "Traceback" not in capsys.readouterr().out


def test_a_model_that_cannot_be_read_is_left_out_of_the_timing_alone(
    tmp_path: Path, trained: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = go(tmp_path, "none,additive").folder
    for broken, kept in (("additive", "none"), ("none", "additive")):
        weights = (folder / f"{broken}-0" / "model.safetensors").read_bytes()
        (folder / f"{broken}-0" / "model.safetensors").write_bytes(b"broken")
        (folder / "times.json").unlink()
        capsys.readouterr()
        results = {one["attention"]: one for one in go(tmp_path, "none,additive").results()}
        said = capsys.readouterr().out
        (line,) = (line for line in said.splitlines() if "could not be measured" in line)
        assert line.startswith(f"The time of {broken} could not be measured: ")
        assert f"{broken}-0/model.safetensors" in line
        assert "accuracy, and what the attention does" in said
        assert list(files.read_json(folder / "times.json")) == [kept]
        assert results[broken]["milliseconds"] is None
        assert results[kept]["milliseconds"] > 0
        assert results[kept]["milliseconds_ratio"] == (1 if kept == "none" else None)  # to the reference, or to nothing
        (folder / f"{broken}-0" / "model.safetensors").write_bytes(weights)
    assert len(trained) == 2


def test_a_disk_that_fills_up_loses_nothing_finished(
    tmp_path: Path, trained: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish: Callable[..., None] = Run.finish

    def failing(self: Run, attention: str, *rest: Any) -> None:
        if attention == "additive":
            raise UserError("the disk is full")
        finish(self, attention, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", failing)
        with pytest.raises(UserError, match="disk is full"):
            go(tmp_path, "none,additive")
    assert [one["attention"] for one in files.read_json(tmp_path / "digit-scenes" / "results.json")] == ["none"]
    go(tmp_path, "none,additive")
    assert trained == [("none", 0), ("additive", 0), ("additive", 0)]


def test_a_result_has_all_that_is_promised(tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    none, additive = go(tmp_path, ["none", "additive"]).results()  # type: ignore[arg-type]
    for one in (none, additive):
        assert set(one["accuracy"]) == {"attribute", "relation", "count", "overall"} == set(one["interval"])
        for family, share in one["accuracy"].items():
            low, high = one["interval"][family]
            assert 0 <= low <= share + 1e-9 <= high + 2e-9 <= 1 + 1e-8
        families = [family for family in one["questions"] if family != "overall"]
        total = sum(one["questions"][family] for family in families)
        assert one["questions"]["overall"] == total
        weighted = sum(one["accuracy"][family] * one["questions"][family] for family in families)
        assert one["accuracy"]["overall"] == pytest.approx(weighted / total, abs=1e-5)
        assert one["macs"] > 0
        assert one["milliseconds"] > 0
        assert np.isfinite(one["train_seconds"])
    assert none["pointing"] is None
    assert 0 <= additive["pointing"] <= 1
    assert additive["parameters"] > none["parameters"]
    assert "Bahdanau" in additive["note"]
    assert {"attribute", "relation", "count", "overall"} == set(
        none["shortcuts"]["the most frequent answer to a question"]
    )
    low, high = additive["milliseconds_ratio_quartiles"]
    assert low <= additive["milliseconds_ratio"] <= high
    assert (none["milliseconds_ratio"], none["milliseconds_ratio_quartiles"]) == (1, [1, 1])
    assert {none["ablations"][kind] for kind in ("removed", "mean", "resampled")} == {None}
    removed = additive["ablations"]["removed"]
    assert removed["accuracy"] - additive["accuracy"]["overall"] == pytest.approx(removed["difference"], abs=1e-6)
    assert removed["interval"][0] <= removed["difference"] + 0.01
    assert 0 <= removed["changed"] <= 1
    assert additive["strength"] is None
    kept = files.read_json(tmp_path / "digit-scenes" / "additive-0" / "outcomes.json")
    assert np.mean(kept["correct"]) == pytest.approx(additive["accuracy"]["overall"])
    assert len(set(kept["groups"])) == 20
    (entry,) = files.read_json(tmp_path / "digit-scenes" / "comparison.json")
    assert (entry["attention"], entry["reference"], entry["paired_by"]) == ("additive", "none", "items")


def test_notes_stand_in_terminal_and_report_and_an_earlier_run_is_not_taken_up(
    tmp_path: Path, trained: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    from regard.report import write_report

    run = go(tmp_path, "none,find_then_move")
    told = "it is told, before it learns, that left, right, above, below ask to look beside it"
    said = capsys.readouterr().out
    page = write_report(run.folder).read_text(encoding="utf-8")
    for shown in (said, page):
        assert shown.count(told) == 1
        assert "no attention: every question gets the mean of the picture's cells" in shown.replace("&#39;", "'")
    assert "Baseline: the most frequent answer to a question: attribute 0." in said
    # What was compared before questions changed has other settings.
    kept = files.read_json(run.folder / "settings.json")
    files.write_json(run.folder / "settings.json", {**kept, "families": [*kept["families"], "comparison"]})
    with pytest.raises(UserError, match="families"):
        go(tmp_path, "none,find_then_move")


def test_settings_fill_in_every_default(tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    run = compare("none", runs=tmp_path, device="cpu", name="mine", minutes=0.5)
    assert run.folder == tmp_path / "mine"
    kept = files.read_json(run.folder / "settings.json")
    assert kept["minutes"] == 0.5
    assert kept["epochs"] is None
    assert kept["size"] == 40
    assert "backbone" not in kept  # which belongs to pictures
