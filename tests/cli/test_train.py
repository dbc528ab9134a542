"""`regard train vqa`, as typed."""

import json
import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.cli.train import parsed
from regard.errors import UserError
from regard.models.vqa import load
from regard.tasks.vqa.task import VisualQuestions
from small_photos import photos, table
from typed import interrupted, one_line, typed

SHORT = ("--size", "15", "--width", "8", "--batch", "3", "--device", "cpu")


regard = partial(typed, "train", "vqa")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 7, 15)


OWN = ("photos", "photos/questions.csv")
BAD: dict[str, tuple[list[str], list[str]]] = {
    "no pictures": (["nowhere", "photos/questions.csv"], ["no folder nowhere"]),
    "no questions file": (["photos", "nowhere.csv"], ["no file nowhere.csv"]),
    "no questions": (["photos"], ["no questions about the pictures in photos", "sort-of-clevr"]),
    "test pictures alone": ([*OWN, "--test-pictures", "photos"], ["photos belongs to other questions to test on"]),
    "what is called by its other name": (["sort-of-clevr", "--backbone", "resnet18"], ["--backbone resnet18"]),
    "answers alone": (["photos", "--annotations", "a.json"], ["a.json belongs to questions"]),
    "a model that is none": ([*OWN, "--model", "mcam"], ["'mcam'", "did you mean 'mcan'?"]),
    "an image that is none": ([*OWN, "--image", "resnet81"], ["'resnet81'", "did you mean"]),
    "an option that is none": ([*OWN, "--model", "mcan", "--option", "layer=2"], ["'layer'", "did you mean 'layers'?"]),
    "an option without value": ([*OWN, "--option", "layers"], ["--option 'layers'", "NAME=VALUE"]),
    "an option of the wrong kind": ([*OWN, "--model", "mcan", "--option", "layers=two"], ["layers='two'"]),
    "options of several": ([*OWN, "--model", "mcan,mlb", "--option", "width=2"], ["options of one model"]),
    "files for scenes that need none": (["sort-of-clevr", "photos/questions.csv"], ["--questions", "sort-of-CLEVR"]),
    "what scenes do not take": (["digit-scenes", "--model", "none", "--frozen"], ["--frozen", "digit scenes"]),
    "both budgets": ([*OWN, "--epochs", "1", "--minutes", "1"], ["--epochs and --minutes"]),
    "no weights": ([*OWN, "--image", "convolutions", "--pretrained"], ["pretrained"]),
    "a word vector file that is none": ([*OWN, "--glove", "nowhere.txt"], ["nowhere.txt"]),
    "regions that are none": ([*OWN, "--regions", "nowhere.h5"], ["nowhere.h5"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_with_nothing_written(tmp_path: Path, case: str) -> None:
    arguments, parts = BAD[case]
    one_line(regard(*arguments), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_unreadable_pictures_and_rows_are_refused_by_name_or_left_out(tmp_path: Path, trained: list[str]) -> None:
    (tmp_path / "photos" / "2.png").write_bytes(b"")
    table(tmp_path / "more.csv", [("2.png", "what?", "red"), ("99.png", "what?", "red"), ("0.png", "what?", "")])
    rows = (tmp_path / "photos" / "questions.csv").read_text() + (tmp_path / "more.csv").read_text().partition("\n")[2]
    (tmp_path / "all.csv").write_text(rows)
    one_line(regard("photos", "all.csv", *SHORT), "99.png", "it has no answer")
    one_line(regard("photos", "photos/questions.csv", *SHORT), "2.png", "cannot be read")
    result = regard("photos", "all.csv", *SHORT, "--epochs", "1", "--skip-bad")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Left out" in result.stdout
    assert trained == ["cross_attention"]


@pytest.mark.parametrize("arguments", [OWN, ["sort-of-clevr"], ["digit-scenes"]])
def test_one_model_is_trained_where_none_is_named(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def compare(attention: Any, **given: Any) -> Any:
        asked.append((attention, given["data"]))
        raise UserError("enough")

    monkeypatch.setattr("regard.experiment.compare", compare)
    one_line(regard(*arguments), "enough")
    assert asked == [({"digit-scenes": "find_then_move"}.get(arguments[0], "cross_attention"), arguments[0])]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which models were trained, by a training that does nothing."""
    from regard.experiment.training import Fit

    names: list[str] = []

    def train(task: Any, attention: str, seed: int, budget: Any, checkpoint: Path, *rest: Any) -> Fit:
        names.append(attention)
        fit = Fit(task, task.model(attention, seed), seed, budget, checkpoint, rest[-1])
        fit.curve.append({"epoch": 1, "seconds": 1.0, "accuracy_overall": 0.1})
        return fit

    monkeypatch.setattr("regard.experiment.training.train", train)
    return names


def test_it_ends_with_the_measure_the_shortcut_the_report_and_how_to_ask(tmp_path: Path, trained: list[str]) -> None:
    result = regard(*OWN, *SHORT, "--model", "mlb")
    assert result.exit_code == 0, (result.output, result.exception)
    assert trained == ["mlb"]
    shortcut = "the most frequent answer to each type of question, without looking"
    assert f"Accuracy is exact match.\nShortcut: {shortcut}: other 0." in result.stdout
    *_, report, ask = result.stdout.strip().splitlines()
    assert report == f"Report: {Path('runs/photos/report.html')}"
    command = shlex.split(ask.partition(": ")[2])
    assert command[:3] == ["regard", "ask", "runs/photos"]
    answer = load(Path(command[2]) / "mlb-0").answer(command[3], command[4])
    assert answer.text in ("red", "green", "blue", "square", "disc", "yes", "no")
    (found,) = json.loads((tmp_path / "runs" / "photos" / "results.json").read_text())
    assert set(found["accuracy"]) == {"other", "yes/no", "overall"} == set(found["shortcuts"][shortcut])
    page = (tmp_path / "runs" / "photos" / "report.html").read_text()
    assert "Answers to questions about pictures" in page
    assert f"Shortcut: {shortcut}, " in page
    assert "Accuracy on the test set, which is exact match" in page
    settings = json.loads((tmp_path / "runs" / "photos" / "settings.json").read_text())
    assert (settings["epochs"], settings["size"], settings["width"]) == (100, 15, 8)


@pytest.mark.slow
def test_another_model_joins_the_run_and_other_settings_are_refused(tmp_path: Path, trained: list[str]) -> None:
    for model in ("question_only", "mlb", "question_only"):
        assert regard(*OWN, *SHORT, "--model", model).exit_code == 0
    assert trained == ["question_only", "mlb"]
    found = json.loads((tmp_path / "runs" / "photos" / "results.json").read_text())
    assert [one["attention"] for one in found] == ["question_only", "mlb"]
    one_line(regard(*OWN, *SHORT, "--minimum", "2"), "minimum None there, 2 now", "--name")
    one_line(
        regard(*OWN, *SHORT, "--model", "mlb", "--option", "joint_width=7"), "options {} there, {'joint_width': 7} now"
    )


@pytest.mark.slow
def test_scenes_that_need_no_files_are_asked_about_a_picture_of_theirs(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from regard.tasks.digit_scenes import DigitScenes

    monkeypatch.setattr(
        "regard.tasks.digit_scenes.DigitScenes",
        lambda **given: DigitScenes(batches_per_epoch=2, test_scenes=20, **given),
    )
    result = regard("digit-scenes", "--model", "additive", "--epochs", "1", "--device", "cpu")
    assert result.exit_code == 0, (result.output, result.exception)
    command = shlex.split(result.stdout.strip().splitlines()[-1].partition(": ")[2])
    assert Path(command[3]) == Path("runs/digit-scenes/example.png")
    assert load("runs/digit-scenes/additive-0").answer(command[3], command[4]).text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_a_model_is_kept_in_32_bits_however_it_was_trained(precision: str) -> None:
    more = ("--epochs", "1", "--precision", precision, "--model", "stacked_attention")
    result = regard(*OWN, *SHORT, *more)
    assert result.exit_code == 0, (result.output, result.exception)
    assert {value.dtype for value in load("runs/photos/stacked_attention-0").parameters()} == {torch.float32}
    assert regard(*OWN, *SHORT, *more).exit_code == 0


def test_options_are_json_or_texts() -> None:
    assert parsed(["layers=2", "dropout=0.5", "stem=linear", "widths=[1, 2]", "a=b=c", "mean=true"]) == {
        "layers": 2, "dropout": 0.5, "stem": "linear", "widths": [1, 2], "a": "b=c", "mean": True,
    }  # fmt: skip
    with pytest.raises(UserError, match="NAME=VALUE"):
        parsed(["=2"])


def test_help_reads_like_a_manual() -> None:
    result = regard("--help")
    assert result.exit_code == 0
    options = (
        "--model --image --pretrained --frozen --question --glove --regions --option --annotations --epochs --minutes "
        "--size --device --precision --name --resume --skip-bad --learning-rate"
    )
    for option in options.split():
        assert option in result.stdout


@pytest.mark.slow
def test_broken_off_it_goes_on_as_if_it_had_not_been() -> None:
    arguments = (*OWN, *SHORT, "--model", "mlb", "--option", "joint_width=7", "--epochs", "4")
    assert regard(*arguments, "--name", "whole").exit_code == 0
    with interrupted(VisualQuestions, 6):  # in the third epoch of two batches
        result = regard(*arguments)
    assert result.exit_code == 130, (result.output, result.exception)
    assert len(result.stderr.strip().splitlines()) == 1
    assert regard(*arguments).exit_code == 0
    same("runs/photos/mlb-0", "runs/whole/mlb-0")


@pytest.mark.slow
def test_killed_it_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    arguments = [*OWN, *SHORT, "--model", "mlb", "--option", "joint_width=7", "--epochs", "4"]
    script = (
        "import os, signal, sys, torch\n"
        "from regard.experiment import compare\n"
        "from regard.experiment.display import Display\n"
        "torch.set_num_threads(1)\n"
        "kill = lambda self, name, seed, now: now.epoch == 2 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "Display.progress = kill\n"
        "compare('mlb', data='photos', questions='photos/questions.csv', size=15, width=8, batch=3, device='cpu',"
        " options={'joint_width': 7}, epochs=4)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "runs" / "photos" / "mlb-0" / "checkpoint.safetensors").exists()
    assert regard(*arguments).exit_code == 0
    assert regard(*arguments, "--name", "whole").exit_code == 0
    same("runs/photos/mlb-0", "runs/whole/mlb-0")


def same(one: str, other: str) -> None:
    mine, theirs = load(one).state_dict(), load(other).state_dict()
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)
    assert Path(one, "predictions.csv").read_text() == Path(other, "predictions.csv").read_text()
