"""`regard train fusion`, as typed."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from regard.cli import build
from regard.errors import UserError
from regard.models.fusion import Predictor, evaluate_fusion, fusions, is_fusion, runs, train_fusions
from regard.models.fusion.columns import columns_of
from typed import one_line, typed

ROWS = 60
SMALL = ("--width", "8", "--epochs", "4", "--size", "8", "--device", "cpu")


def regard(*arguments: Any) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(build(), ["train", "fusion", *map(str, arguments)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **changed: list[Any]) -> Path:
    """A table in which the word, the picture and the number each tell the label; its price is the number thrice."""
    random = np.random.default_rng(5)
    folder.mkdir(exist_ok=True)
    label = np.arange(ROWS) % 2
    for row, one in enumerate(label):
        Image.fromarray(np.full((9, 7), 40 + 170 * one, np.uint8)).save(folder / f"{row}.png")
    size = label + 0.1 * random.normal(size=ROWS)
    columns = {
        "word": [f"{('sad', 'glad')[one]} number {row}" for row, one in enumerate(label)],
        "photo": [f"{row}.png" for row in range(ROWS)],
        "size": size.round(4).tolist(),
        "label": [("no", "yes")[one] for one in label],
        **changed,
    }
    with (folder / "things.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return folder / "things.csv"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_several_fusions_are_trained_on_the_same_rows_and_shown_side_by_side(place: Path) -> None:
    table = write(place / "data")
    found = regard(table, "--fusion", "gated,vote", *SMALL, "--robustness")
    assert found.exit_code == 0, (found.output, found.exception)
    lines = found.output.splitlines()
    assert any("target: label (classification)" in line for line in lines)
    assert any("columns: word (text), photo (image), size (number)" in line for line in lines)
    assert any("accuracy in per cent on 12 rows" in line for line in lines)
    assert any("no word" in line and "no photo" in line and "no tabular" in line for line in lines)
    results = read(place / "runs/things/results.json")
    assert [result["fusion"] for result in results] == ["gated", "vote"]
    for result in results:
        assert any(line.split()[:2] == [result["fusion"], fusions[result["fusion"]].level] for line in lines)
        assert f"{100 * result['test']['accuracy']:.1f}" in found.output
        part = place / f"runs/things/{result['fusion']}-0"
        assert sorted(path.name for path in part.iterdir()) == [
            "predictor.json",
            "readings.json",
            "result.json",
            "robustness.json",
            "robustness.svg",
            "weights.safetensors",
        ]
        curve = [point for point in read(part / "robustness.json")["points"] if point["modality"] == "photo"]
        assert curve[0]["score"] == result["test"]["accuracy"]
        assert curve[4]["score"] == result["without"]["photo"]["accuracy"]
        again = Predictor.load(part)
        assert again.evaluate(table)["rows"] == ROWS
    assert any("the most common class" in line and "50.0" in line for line in lines)
    shown = read(place / "runs/things/examples.json")
    assert len(shown) == 12
    for example, reading in zip(shown, read(place / "runs/things/vote-0/readings.json"), strict=True):
        assert example["cells"]["photo"]["picture"].startswith("data:image/png;base64,")
        # Each cell tells the label, and so does what is said of it.
        assert example["truth"] == {"sad": "no", "glad": "yes"}[example["cells"]["word"]["text"].split()[0]]
        assert reading["correct"] == (reading["answer"] == example["truth"])
        assert 0.5 <= reading["probability"] <= 1
    page = (place / "runs/things/report.html").read_text(encoding="utf-8")
    assert "runs/things/report.html" in lines[-1]
    assert page.count("<article") == 12
    assert page.count("data:image/svg+xml") == 2  # of robustness, one a fusion


def test_a_number_is_regressed_on_and_what_it_was_measured_in_is_kept(place: Path) -> None:
    price = [100 + 30 * (row % 2) + row / 10 for row in range(ROWS)]
    table = write(place / "data", price=price)
    found = regard(table, "--target", "price", "--columns", "word,size", "--fusion", "concatenation", *SMALL)
    assert found.exit_code == 0, (found.output, found.exception)
    assert "target: price (regression)" in found.output
    assert "R² in per cent" in found.output
    assert "the mean alone" in found.output
    (predicted,) = Predictor.load(place / "runs/things/concatenation-0").predict({"word": ["glad"], "size": [1.0]})
    assert 90 < predicted < 150


def test_what_is_finished_is_not_repeated_and_another_fusion_joins(place: Path) -> None:
    table = write(place / "data")
    options = ("--columns", "word,size", *SMALL)
    assert regard(table, "--fusion", "gated", *options).exit_code == 0
    before = (place / "runs/things/gated-0/weights.safetensors").stat().st_mtime_ns
    found = regard(table, "--fusion", "gated,tucker", *options)
    assert found.exit_code == 0, (found.output, found.exception)
    assert not any(line.startswith("gated: ") for line in found.output.splitlines())
    assert (place / "runs/things/gated-0/weights.safetensors").stat().st_mtime_ns == before
    assert [result["fusion"] for result in read(place / "runs/things/results.json")] == ["gated", "tucker"]
    assert regard(table, "--fusion", "gated", *options, "--no-resume").exit_code == 0
    assert (place / "runs/things-1/tucker-0").is_dir()
    assert not (place / "runs/things/tucker-0").exists()


def test_training_that_was_broken_off_goes_on_after_its_last_epoch(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regard.models.fusion import training

    table = write(place / "data")
    options = ("--fusion", "gated", "--columns", "word,size", *SMALL)
    assert regard(table, *options, "--name", "whole").exit_code == 0
    original, calls = training.keep, []

    def keep(*arguments: Any) -> None:
        original(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "keep", keep)
    stopped = regard(table, *options)
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.output
    found = regard(table, *options)
    assert found.exit_code == 0, (found.output, found.exception)
    assert "going on after epoch 2" in found.output
    whole, resumed = (read(place / f"runs/{name}/results.json") for name in ("whole", "things"))
    assert resumed == whole
    assert not (place / "runs/things/gated-0/checkpoint.safetensors").exists()


def test_a_run_is_known_and_measured_on_another_table(place: Path) -> None:
    table = write(place / "data")
    assert regard(table, "--fusion", "gated,vote", *SMALL).exit_code == 0
    run = place / "runs/things"
    assert is_fusion(run)
    assert is_fusion(run / "vote-0")
    assert not is_fusion(place / "data")
    found = evaluate_fusion(run, table, ["photo", "size"])
    assert list(found) == ["gated-0", "vote-0"]
    vote = Predictor.load(run / "vote-0")
    assert found["vote-0"]["test"] == vote.evaluate(table)
    assert found["vote-0"]["without"] == {
        ", ".join(gone): vote.evaluate(table, without=gone) for gone in (["photo"], ["size"], ["photo", "size"])
    }
    assert list(evaluate_fusion(run / "vote-0", table)) == ["vote-0"]
    assert list(evaluate_fusion(run, table, only=["vote-0"])) == ["vote-0"]
    with pytest.raises(UserError, match="no predictor 'vote': did you mean 'vote-0'"):
        evaluate_fusion(run, table, only=["vote"])
    words = {name: values for name, values in columns_of(table).items() if name in ("word", "size", "label")}
    (blind,) = evaluate_fusion(run / "vote-0", words, ["photo"]).values()
    assert blind["test"] == blind["without"]["photo"] == vote.evaluate(table, without=["photo"])
    # Of several columns a modality too is nowhere needed, and what is named twice is measured once.
    notes = {"word": columns_of(table)["word"], "label": columns_of(table)["label"]}
    (told,) = evaluate_fusion(run / "vote-0", notes, ["photo", "tabular", "photo"]).values()
    assert list(told["without"]) == ["photo", "tabular", "photo, tabular"]
    assert told["test"] == told["without"]["photo, tabular"] == vote.evaluate(table, without=["photo", "tabular"])
    with pytest.raises(UserError, match=r"without=\['foto'\]"):
        evaluate_fusion(run, notes, ["foto"])
    with pytest.raises(UserError, match="holds no fusion"):
        evaluate_fusion(place / "data", table)


def test_a_fusion_is_called_measured_on_what_it_was_trained_on(place: Path) -> None:
    table = write(place / "data")
    assert regard(table, "--fusion", "gated", "--columns", "word,size", *SMALL).exit_code == 0
    other = write(place / "other", size=[1.5 * row for row in range(ROWS)])
    Predictor.load(place / "runs/things/gated-0").save(place / "alone")
    called = ", on most of which it was trained, with its 95 % interval"
    for run, on, known in (
        ("things", table, True),
        ("runs/things/gated-0", table, True),
        ("things", other, False),
        ("alone", table, False),
    ):
        found = typed("evaluate", run, str(on))
        assert found.exit_code == 0, (found.output, found.exception)
        assert (called in " ".join(found.output.split())) == known


def test_pictures_elsewhere_are_found_and_those_that_cannot_be_read_are_counted(place: Path) -> None:
    table = write(place / "data")
    assert regard(table, "--fusion", "gated,vote", "--columns", "word,photo", *SMALL).exit_code == 0
    (place / "tables").mkdir()
    table.rename(place / "tables/things.csv")
    (place / "data/7.png").write_bytes(b"no picture")
    asked = ("evaluate", "things", "tables/things.csv", "--skip-bad")
    lost, found = typed(*asked), typed(*asked, "--folder", "data")
    for result, said in ((lost, "60 of 60 rows"), (found, "1 of 60 rows")):
        assert result.exit_code == 0, (result.output, result.exception)
        assert result.output.count(f"photo cannot be read in {said}, where it counts as missing: row") == 1
    predictor = Predictor.load(place / "runs/things/gated-0")
    report = predictor.evaluate(place / "tables/things.csv", folder=place / "data", skip_bad=True)
    (row,) = (line.split() for line in found.output.splitlines() if "gated-0" in line)
    assert row[2] == f"{100 * report['accuracy']:.1f}"
    one_line(typed("evaluate", "things", "tables/things.csv"), "row 0 (counted from 0), column 'photo': there is no")
    to_write = ("export", "things", "x.pt2", "--table", "tables/things.csv", "--model", "gated")
    one_line(typed(*to_write), "tables/0.png")
    one_line(typed(*to_write, "--folder", "data"), "row 7 (counted from 0), column 'photo': cannot identify")


def test_another_seed_tests_other_rows_of_numbers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[Any] = []
    monkeypatch.setattr(runs, "tested_on", lambda predictor, table, *others: tested.append(table["label"]) or {})
    data = {"size": [float(row % 7) for row in range(40)], "label": [0.5 + row for row in range(40)]}
    for seed in range(3):
        train_fusions(tmp_path / f"{seed}", data, ["gated"], seed=seed, width=8, epochs=1, say=lambda line: None)
    assert tested[0] != tested[1] != tested[2] != tested[0]


def test_a_fusion_is_measured_without_modalities_and_no_export_is_written_of_what_does_not_fit(place: Path) -> None:
    table = write(place / "data")
    assert regard(table, "--fusion", "gated,vote", *SMALL, "--columns", "word,size").exit_code == 0
    runner = CliRunner(env={"COLUMNS": "160"})
    asked = ["evaluate", "things", str(table), "--without", "word", "--without", "size"]
    assert "vote-0" in runner.invoke(build(), asked).output
    assert "it has gated-0, vote-0" in runner.invoke(build(), [*asked, "--model", "tensor"]).stderr
    found = runner.invoke(build(), [*asked, "--model", "gated"])
    assert found.exit_code == 0, (found.output, found.exception)
    assert "60 rows of" in found.output
    assert "vote-0" not in found.output
    predictor = Predictor.load(place / "runs/things/gated-0")
    (row,) = (line.split() for line in found.output.splitlines() if "gated-0" in line)
    shares = [
        predictor.evaluate(table, without=gone)["accuracy"] for gone in ([], ["word"], ["size"], ["word", "size"])
    ]
    assert [row[2], *row[4:]] == [f"{100 * share:.1f}" for share in shares]
    for headings in ("no word", "no size", "no word, size"):
        assert headings in found.output
    for arguments, message in (
        (["things", "x.pt2"], "runs/things is a fusion: give --table"),
        (["things", "x.pt2", "--table", str(table), "--words", "3"], "and no --words"),
        (["things", "x.pt2", "--table", str(table), "--model", "tucker"], "it has gated-0, vote-0"),
    ):
        refused = runner.invoke(build(), ["export", *arguments])
        assert refused.exit_code == 2, (refused.output, refused.exception)
        assert message in refused.stderr
    assert not (place / "x.pt2").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("kind", ["number", "category"])
def test_a_fusion_is_exported_as_typed(kind: str, place: Path) -> None:
    table = write(place / "data", size=[row % 4 for row in range(ROWS)])
    assert regard(table, "--fusion", "gated", *SMALL, "--columns", "size", "--kind", f"size={kind}").exit_code == 0
    found = CliRunner().invoke(build(), ["export", "things", "x.pt2", "--table", str(table)])
    assert found.exit_code == 0, (found.output, found.exception)
    predictor = Predictor.load(place / "runs/things/gated-0")
    program = torch.export.load(place / "x.pt2").module()
    probability = program(*predictor.tensors(table)).softmax(1).detach().numpy()
    np.testing.assert_allclose(probability, predictor.predict_proba(table), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fusion", "blend"), "there is no fusion 'blend': choose among concatenation"),
        (("--fusion", " , "), "names nothing"),
        (("--target", "mark"), "there is no column 'mark' to predict"),
        (("--columns", "word,colour"), "there is no column 'colour'"),
        (("--kind", "colour=image"), "--kind 'colour=image': expected COLUMN=KIND"),
        (("--kind", "photo=smell"), "given the kind 'smell'"),
        (("--task", "guess"), "task='guess': choose one of classification, regression"),
        (("--task", "regression"), "row 0 .*, column 'label': holds 'no', expected a number"),
        (("--held-out", "1.5"), "held_out=1.5"),
        (("--device", "tpu"), "there is no device 'tpu'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: tuple[str, ...], message: str, place: Path) -> None:
    import re

    found = regard(write(place / "data"), "--fusion", "gated", *SMALL, *arguments)
    assert found.exit_code == 2, (found.output, found.exception)
    assert re.search(message, found.stderr)
    assert len(found.stderr.splitlines()) == 1


def test_rows_that_cannot_be_read_are_an_error_or_left_out(place: Path) -> None:
    table = write(place / "data")
    (place / "data/7.png").write_bytes(b"no picture")
    refused = regard(table, "--fusion", "gated", *SMALL)
    assert refused.exit_code == 2
    assert "row 7 (counted from 0), column 'photo'" in refused.stderr
    found = regard(table, "--fusion", "gated", *SMALL, "--skip-bad", "--name", "others")
    assert found.exit_code == 0, (found.output, found.exception)
    assert "left out 1 rows: row 7" in found.output


def test_a_folder_of_another_run_is_left_alone(place: Path) -> None:
    table = write(place / "data")
    options = ("--fusion", "gated", "--columns", "word,size", *SMALL)
    assert regard(table, *options).exit_code == 0
    for change, message in ((("--seed", 1), "in which seed differed"), (("--width", 9), "in which options differed")):
        found = regard(table, *options, *change)
        assert found.exit_code == 2
        assert message in found.stderr
    write(place / "data", size=[1.5 * row for row in range(ROWS)])
    assert "in which the table differed" in regard(table, *options).stderr
    (place / "runs/mine").mkdir()
    (place / "runs/mine/notes.txt").write_text("mine")
    assert "holds what is no run of regard" in regard(table, *options, "--name", "mine").stderr
    assert [path.name for path in (place / "runs/mine").iterdir()] == ["notes.txt"]
