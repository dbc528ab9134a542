"""`regard compare`, as typed."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.experiment.run import Run
from regard.experiment.settings import Settings
from regard.tasks.digit_scenes import DigitScenes
from regard.tasks.digit_scenes.task import VARIANTS
from small_photos import photos
from typed import interrupted, one_line, typed

regard = partial(typed, "compare")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("regard.tasks.digit_scenes.DigitScenes", small)


def small(**given: Any) -> DigitScenes:
    return DigitScenes(batches_per_epoch=2, test_scenes=20, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD: dict[str, tuple[list[str], list[str]]] = {
    "attention": (["--attention", "none,aditive"], ["'aditive'", "did you mean 'additive'?", *VARIANTS]),
    "refine": (["--attention", "se"], ["'se'", "--data"]),
    "no attention": (["--attention", " , "], ["--attention"]),
    "both budgets": (["--epochs", "1", "--minutes", "1"], ["--epochs", "--minutes"]),
    "epochs": (["--epochs", "0"], ["--epochs 0"]),
    "minutes": (["--minutes", "0"], ["--minutes"]),
    "minutes nan": (["--minutes", "nan"], ["--minutes"]),
    "seeds": (["--seeds", "0"], ["--seeds 0"]),
    "batch": (["--batch", "1"], ["--batch 1"]),
    "device": (["--device", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
    "device number": (["--device", "cuda:one"], ["cuda:one"]),
    "cpu number": (["--device", "cpu:0", "--attention", "none", "--epochs", "1", "--batch", "2"], ["cpu:0"]),
    "precision": (["--precision", "8"], ["'8'", "32-true", "bf16-mixed"]),
    "name with folders": (["--name", "a/b"], ["'a/b'", "--name"]),
    "name above": (["--name", ".."], ["--name"]),
    "empty name": (["--name", ""], ["--name"]),
    "size too small": (["--size", "30"], ["30", "40"]),
    "size no multiple": (["--size", "42"], ["42", "4"]),
    "size zero": (["--size", "0"], ["0"]),
    "no data": (["--data", "missing"], ["missing", "sub-folder"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line_with_nothing_written(tmp_path: Path, case: str) -> None:
    arguments, parts = BAD[case]
    result = regard(*arguments)
    one_line(result, *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_cuda_number_that_is_none_on_a_machine_with_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("cuda:one", "cuda:7"):
        one_line(regard("--device", device), device)
    assert list(tmp_path.iterdir()) == []


def test_no_cuda_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    one_line(regard("--device", "cuda"), "no cuda", "--device auto")


def test_a_data_folder_without_classes(tmp_path: Path) -> None:
    folder = tmp_path / "flowers"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"")
    one_line(regard("--data", str(folder)), "flowers", "no class sub-folders")
    assert [path.name for path in tmp_path.iterdir()] == ["flowers"]


def test_other_settings_and_other_folders_are_refused(tmp_path: Path) -> None:
    settings = Settings(
        task="digit-scenes", data=None, size=40, batch=4, epochs=1, minutes=None, device="cpu", precision="32-true",
        attention=("none",), seeds=1,
    )  # fmt: skip
    Run(tmp_path / "runs" / "digit-scenes", settings, True)
    (tmp_path / "runs" / "thesis").mkdir()
    (tmp_path / "runs" / "thesis" / "a.txt").write_text("mine")
    (tmp_path / "runs" / "file").write_text("mine")
    before = contents(tmp_path)
    same = ("--attention", "none", "--epochs", "1", "--device", "cpu")
    one_line(regard(*same, "--batch", "8"), "batch 4 there, 8 now", "--name", "--no-resume")
    one_line(regard(*same, "--batch", "4", "--name", "thesis"), "thesis", "no run of regard")
    one_line(regard(*same, "--batch", "4", "--name", "file"), "is a file")
    assert contents(tmp_path) == before


def test_questions_need_pictures_and_what_belongs_to_another_task_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 5, 15)
    own = ("--data", "photos", "--questions", "photos/questions.csv")
    one_line(regard("--questions", "photos/questions.csv"), "--questions", "digit scenes")
    one_line(regard("--data", "photos", "--frozen"), "--frozen", "pictures in folders")
    one_line(regard("--data", "sort-of-clevr", "--glove", "a.txt"), "--glove a.txt", "sort-of-CLEVR")
    one_line(regard("--data", "sort-of-clevr", "--size", "64"), "--size 64", "75")
    one_line(regard("--data", "digit-scenes", "--backbone", "resnet18"), "--backbone resnet18", "digit scenes")
    one_line(regard(*own, "--at", "stage"), "--at stage", "questions about pictures")
    one_line(regard(*own, "--attention", "se"), "unknown model 'se'")
    one_line(regard(*own, "--attention", "film", "--regions", "photos"), "'film' convolves")
    one_line(regard(*own, "--regions", "photos"), "no regions of photos/0.png")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.slow
def test_models_are_compared_on_questions_about_own_pictures(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 9, 15)
    result = regard(
        "--data", "photos", "--questions", "photos/questions.csv", "--attention", "question_only,stacked_attention",
        "--seeds", "2", "--epochs", "1", "--size", "15", "--width", "8", "--batch", "3", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads((tmp_path / "runs" / "photos" / "results.json").read_text())
    parts = [("question_only", 0), ("question_only", 1), ("stacked_attention", 0), ("stacked_attention", 1)]
    assert [(one["attention"], one["seed"]) for one in found] == parts
    assert len({one["questions"]["overall"] for one in found}) == 1
    assert (tmp_path / "runs" / "photos" / "stacked_attention-1" / "recipe.json").exists()
    assert "stacked_attention" in (tmp_path / "runs" / "photos" / "report.html").read_text()


KEYS = {"attention", "seed", "accuracy", "pointing", "parameters", "macs", "milliseconds", "train_seconds"}


@pytest.mark.slow
def test_a_whole_comparison(tmp_path: Path) -> None:
    arguments = ("--attention", "none,additive", "--epochs", "1", "--batch", "4", "--device", "cpu", "--name", "small")
    result = regard(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "runs" / "small"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    found = json.loads((folder / "results.json").read_text())
    assert [(one["attention"], one["seed"]) for one in found] == [("none", 0), ("additive", 0)]
    for one in found:
        assert set(one) >= KEYS
        assert set(one["accuracy"]) == {"attribute", "relation", "count", "overall"}
        assert one["train_seconds"] > 0
        assert (folder / f"{one['attention']}-0" / "model.safetensors").stat().st_size > 1000
        assert not (folder / f"{one['attention']}-0" / "checkpoint.safetensors").exists()
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("attention,seed,epoch")
    assert [line.split(",")[0] for line in lines[1:]] == ["none", "additive"]
    assert json.loads((folder / "settings.json").read_text())["attention"] == ["none", "additive"]
    page = (folder / "report.html").read_text()
    assert "additive" in page
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]
    assert "report.html" in result.stdout

    before = contents(folder)
    again = regard(*arguments)
    assert again.exit_code == 0
    after = contents(folder)
    assert {name: after[name] for name in ("results.json", "metrics.csv")} == {
        name: before[name] for name in ("results.json", "metrics.csv")
    }


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_and_goes_on(tmp_path: Path) -> None:
    arguments = ("--attention", "none", "--epochs", "3", "--batch", "4", "--device", "cpu")
    with interrupted(DigitScenes, 4) as calls:
        result = regard(*arguments)
        assert result.exit_code == 130, (result.output, result.exception)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert "Traceback" not in result.output
        checkpoint = tmp_path / "runs" / "digit-scenes" / "none-0" / "checkpoint.safetensors"
        assert checkpoint.exists()
        calls.clear()
        calls.extend([1] * 10)
        assert regard(*arguments).exit_code == 0
        assert len(calls) - 10 == 4  # the two epochs of two batches that were left
        assert not checkpoint.exists()


def test_help_reads_like_a_manual() -> None:
    result = regard("--help")
    assert result.exit_code == 0
    options = (
        "--attention --data --seeds --epochs --minutes --size --batch --device --precision --name --resume --backbone "
        "--pretrained --at --skip-bad"
    )
    for option in options.split():
        assert option in result.stdout
    for attention in VARIANTS:
        assert attention in result.stdout
