"""`regard evaluate`, as typed."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from regard import files
from regard.errors import UserError
from regard.experiment.choosing import Asked, choose
from regard.experiment.run import Run, find_run
from regard.experiment.settings import Settings
from regard.models.vqa import Answering, load
from regard.tasks.vqa.accuracy import vqa_accuracy
from regard.tasks.vqa.source import Source
from small_photos import official, photos, table
from typed import one_line, typed

regard = partial(typed, "evaluate", "--device", "cpu")


def shades(folder: Path, greys: dict[str, int], numbers: Iterable[int] = range(5)) -> None:
    """Pictures of one grey each, in a folder a class."""
    for name, grey in greys.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            Image.new("RGB", (33, 33), (grey + 5 * number,) * 3).save(folder / name / f"{number}.png")


def untrained(folder: Path, asked: Asked) -> Run:
    """A run as it is when every model is finished, but that nothing was trained."""
    chosen = choose(asked, lambda _: folder)
    data = None if asked.data is None or not asked.data.is_dir() else str(asked.data.resolve())
    settings = Settings(
        chosen.task.name, data, chosen.size, asked.batch, 1, None, "cpu", "32-true", chosen.attention, 1, chosen.options
    )
    run = Run(folder, settings, True)
    for name in chosen.attention:
        chosen.task.keep(chosen.task.model(name, 0), run.part(name, 0))
        run.finish(name, 0, {"attention": name, "seed": 0}, [], [])
    return run


ASKED = Asked(Path("photos"), ("question_only", "concatenation"), 15, 4, width=8)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Two models of questions in VQA's format, in a folder that has the pictures' name."""
    monkeypatch.chdir(tmp_path)
    rows = photos(tmp_path / "photos", 11, 15)
    source = Source(
        *official(tmp_path / "photos", rows)[:1], tmp_path / "photos", tmp_path / "photos" / "answered.json"
    )
    return untrained(tmp_path / "runs" / "photos", replace(ASKED, questions=source))


def test_a_run_is_found_by_its_name_beside_a_folder_of_pictures_of_that_name(run: Run) -> None:
    assert find_run("photos") == Path("runs/photos")
    assert find_run("runs/photos/concatenation-0") == Path("runs/photos/concatenation-0")


def test_what_was_held_out_is_measured_officially_by_type_beside_the_prior(run: Run) -> None:
    result = regard("photos")
    assert result.exit_code == 0, (result.output, result.exception)
    for part in ("VQA accuracy (official)", "question_only-0", "concatenation-0", "most frequent answer"):
        assert part in result.stdout
    source = Source.from_json(files.read_json(run.folder / "settings.json")["questions"])
    held_out = {(str(q.image), q.question): q for q in source.read()}
    said = Source(run.folder / "concatenation-0" / "predictions.csv", Path()).read()
    right = [vqa_accuracy(q.answers[0], held_out[str(q.image), q.question].answers) for q in said]
    row = next(line for line in result.stdout.splitlines() if line.strip().startswith("overall"))
    assert f"{100 * np.mean(right):.2f}" in row
    assert [f"by {what}" in result.stdout for what in ("answer type", "question type", "kind")] == [True, True, False]
    assert "what color" in result.stdout
    alone = regard("runs/photos", "--model", "concatenation", "--clean")
    assert "VQA accuracy, clean" in alone.stdout
    assert "question_only-0" not in alone.stdout


def test_models_that_have_no_room_beside_each_other_stand_below_each_other_under_one_heading(run: Run) -> None:
    result = regard("photos", COLUMNS="60", FORCE_COLOR="1")
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout.count("overall") == 3
    assert result.stdout.count("95 % interval") == 1


def test_other_questions_are_answered_and_written_as_the_server_takes_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []

    def noted(folder: Path, *rest: str) -> Answering:
        loaded.append(folder)
        return load(folder, *rest)

    monkeypatch.setattr("regard.models.vqa.load", noted)
    files_of = ("photos", "photos/asked.json", "--annotations", "photos/answered.json")
    result = regard("photos", *files_of, "--model", "concatenation", "--predictions", "server.json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "33 questions of photos/asked.json, on most of which it was trained." in result.stdout
    assert loaded == [Path("runs/photos/concatenation-0")]
    assert "33" in result.stdout
    written = json.loads((tmp_path / "server.json").read_text())
    asked = json.loads((tmp_path / "photos" / "asked.json").read_text())["questions"]
    assert [one["question_id"] for one in written] == [one["question_id"] for one in asked]
    model = load(run.part("concatenation", 0))
    for one, question in list(zip(written, asked, strict=True))[::7]:
        picture = tmp_path / "photos" / "train2014" / f"COCO_train2014_{question['image_id']:012d}.jpg"
        assert one["answer"] == model.answer(picture, question["question"]).text
    unanswered = regard("photos", *files_of[:2], "--model", "concatenation", "--predictions", "again.json")
    assert "nothing to measure" in unanswered.stdout
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "server.json").read_bytes()


def test_what_cannot_be_evaluated_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    one_line(regard("nowhere"), "no run 'nowhere'", "photos")
    one_line(regard("photos", "photos"), "photos alone", "questions")
    one_line(regard("photos", "--model", "mcan"), "no model 'mcan'", "concatenation-0")
    one_line(regard("photos", "--predictions", "p.json"), "--model")
    one_line(regard("photos", "photos", "nowhere.csv"), "nowhere.csv")
    one_line(regard("photos", "--regions", "photos"), "--regions photos belongs to other questions")
    files_of = ("photos", "photos/asked.json", "--regions", "photos")
    one_line(regard("photos", *files_of), "--regions photos means nothing to concatenation-0, which sees pictures")
    one_line(regard("photos", "--skip-bad"), "--skip-bad")
    one_line(regard("runs/photos/concatenation-0", "--model", "question_only"), "no model 'question_only'")
    table(tmp_path / "bad.csv", [("0.png", "what?", "red"), ("nowhere.png", "what?", "red")])
    one_line(regard("photos", "photos", "bad.csv"), "nowhere.png")
    assert regard("photos", "photos", "bad.csv", "--skip-bad").exit_code == 0
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "empty" / "settings.json").write_text("{}")
    one_line(regard("empty"), "no finished model")


def test_a_run_whose_questions_have_changed_is_measured_on_files_alone(run: Run, tmp_path: Path) -> None:
    asked, answered = tmp_path / "photos" / "asked.json", tmp_path / "photos" / "answered.json"
    before = {path: path.read_text() for path in (asked, answered)}
    for path, one, other in ((answered, '"red"', '"purple"'), (asked, "what color", "which color")):
        path.write_text(before[path].replace(one, other))
        one_line(regard("photos"), "runs/photos has changed since it was trained (33 questions", "train anew")
        path.write_text(before[path])
    result = regard("photos")
    assert result.exit_code == 0, (result.output, result.exception)
    content = json.loads(before[asked])
    del content["questions"][-3:]  # all about one picture: the others are parted anew
    asked.write_text(json.dumps(content))
    one_line(regard("photos"), "(33 questions", "then, 30 questions", "give the files")
    with pytest.raises(UserError, match=r"contents '33 questions [0-9a-f]+' there, '30 questions"):
        untrained(run.folder, replace(ASKED, questions=Source(asked, tmp_path / "photos", answered)))
    elsewhere = regard("photos", "photos", "photos/asked.json", "--annotations", "photos/answered.json")
    assert elsewhere.exit_code == 0, (elsewhere.output, elsewhere.exception)


def test_the_same_questions_in_other_words_for_their_folder_are_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert regard("../runs/photos").exit_code == 0


def test_digit_scenes_are_measured_on_their_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.tasks.digit_scenes import DigitScenes

    monkeypatch.chdir(tmp_path)
    small = DigitScenes(batches_per_epoch=2, test_scenes=20)
    monkeypatch.setattr("regard.tasks.digit_scenes.DigitScenes", lambda **_: small)
    untrained(tmp_path / "runs" / "digits", Asked(attention=("additive",)))
    result = regard("digits")
    assert result.exit_code == 0, (result.output, result.exception)
    evaluation = small.evaluate(load(tmp_path / "runs" / "digits" / "additive-0"), 0)
    assert f"{100 * evaluation.correct.mean():.2f}" in result.stdout
    assert evaluation.pointed is not None
    assert f"{100 * evaluation.pointed.mean():.2f}" in result.stdout
    one_line(regard("digits", "--clean"), "--clean")
    refused = regard("digits", "--predictions", "p.json")
    one_line(refused, "p.json", "no questions from files")
    assert not refused.stdout  # before anything is measured


def test_pictures_by_class_are_measured_on_what_was_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shades(tmp_path / "shades", {"dark": 0, "light": 200})
    untrained(tmp_path / "runs" / "shades", Asked(Path("shades"), ("se",), 32, 4, backbone="resnet10t"))
    result = regard("runs/shades")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "se-0" in result.stdout
    assert "light" in result.stdout
    weights = tmp_path / "runs" / "shades" / "se-0" / "model.safetensors"
    weights.write_bytes(b"")
    one_line(regard("runs/shades"), "model.safetensors", "train it anew")
    shades(tmp_path / "shades", {"dark": 0}, range(5, 6))
    one_line(regard("runs/shades"), "(10 pictures", "then, 11 pictures", "train anew")


def test_pictures_by_class_are_measured_on_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shades(tmp_path / "shades", {"dark": 0, "grey": 100, "light": 200})
    run = untrained(tmp_path / "runs" / "shades", Asked(Path("shades"), ("se",), 32, 4, backbone="test_resnet"))
    weights = load_file(run.part("se", 0) / "model.safetensors")
    assert "shades, on most of which it was trained." in regard("runs/shades", "shades", "--model", "se").stdout
    always_light = {"fc.weight": torch.zeros_like(weights["fc.weight"]), "fc.bias": torch.tensor([0.0, 0.0, 1.0])}
    save_file({**weights, **always_light}, run.part("se", 0) / "model.safetensors")
    shutil.rmtree(tmp_path / "shades")  # what it was trained on is not needed
    shades(tmp_path / "others", {"grey": 90}, range(3))
    shades(tmp_path / "others", {"light": 210}, range(2))
    result = regard("runs/shades", "others", "--model", "se")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "On the pictures in others." in result.stdout
    rows = {line.split()[0]: line.split()[1:3] for line in result.stdout.splitlines() if len(line.split()) == 4}
    assert rows == {"overall": ["5", "40.00"], "grey": ["3", "0.00"], "light": ["2", "100.00"]}
    one_line(regard("runs/shades", "others", "--clean"), "--clean")
    one_line(regard("runs/shades", "others", "--folder", "x"), "--folder x is of fusions")
    one_line(regard("runs/shades", "others", "--without", "word"), "--without word is of fusions")
    shades(tmp_path / "others", {"pale": 230})
    one_line(regard("runs/shades", "others"), "others/pale", "dark, grey, light")
    one_line(regard("runs/shades", "nowhere"), "no folder nowhere")


def test_a_fusion_is_measured_on_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from regard.models.fusion import Predictor, fit

    monkeypatch.chdir(tmp_path)
    rows = [(str(number), "low" if number < 10 else "high") for number in range(20)]
    table(tmp_path / "numbers.csv", rows, "size,label")
    fit(tmp_path / "numbers.csv", epochs=1, batch=5, say=lambda _: None).save("runs/numbers")
    result = regard("runs/numbers", "numbers.csv")
    assert result.exit_code == 0, (result.output, result.exception)
    report = Predictor.load("runs/numbers", "cpu").evaluate(tmp_path / "numbers.csv")
    assert f"{100 * report['accuracy']:.1f}" in result.stdout
    assert "20" in result.stdout
    one_line(regard("runs/numbers"), "is a fusion", "table")


@pytest.mark.slow
def test_sort_of_clevr_is_measured_on_both_parts_beside_its_shortcuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    untrained(tmp_path / "runs" / "scenes", Asked(Path("sort-of-clevr"), ("stacked_attention",)))
    result = regard("scenes")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "sort-of-CLEVR, rule: 200 scenes" in result.stdout
    assert "sort-of-CLEVR, more: 2,000 scenes" in result.stdout
    assert "counting" in result.stdout
