"""ViLT and BLIP, from checkpoints of Hugging Face, by the same commands as all other models."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from regard.models.vqa import Answering, Recipe, View, build, load
from regard.tasks.vqa.source import Source
from regard.tasks.vqa.task import VisualQuestions
from small_photos import photos
from typed import interrupted, one_line, typed

OWN = ("photos", "photos/questions.csv")
SHORT = ("--size", "12", "--batch", "3", "--device", "cpu")
ANSWERS = {"red", "green", "blue", "square", "disc", "yes", "no"}

regard = partial(typed, "train", "vqa")
compare = partial(typed, "compare", "--data", "photos", "--questions", "photos/questions.csv", *SHORT)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 12, 15)


def done(command: Callable[..., Any], *words: str, **environment: str) -> str:
    """What a command said that went well, beside which it said nothing."""
    result = command(*words, **environment)
    assert result.exit_code == 0, (result.output, result.exception)
    assert not result.stderr
    return result.stdout


def weights(model: Answering) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.startswith("model.classifier.3")}


@pytest.mark.parametrize("core", ["vilt", "blip"])
def test_broken_off_it_goes_on_and_is_evaluated_asked_and_watched(core: str, checkpoints: dict[str, Path]) -> None:
    arguments = (*OWN, *SHORT, "--model", core, "--question", str(checkpoints[core]), "--epochs", "3")
    done(regard, *arguments, "--name", "whole")
    with interrupted(VisualQuestions, 8):  # in the third epoch of three batches
        assert regard(*arguments).exit_code == 130
    done(regard, *arguments)
    mine, other = load(f"runs/photos/{core}-0"), load(f"runs/whole/{core}-0")
    came = build(Recipe(core, size=12, question=str(checkpoints[core])), answers=mine.answers)
    assert set(mine.answers or ()) == ANSWERS
    for name, value in weights(mine).items():
        torch.testing.assert_close(value, weights(other)[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(value, weights(came)[name]) for name, value in weights(mine).items())

    (found,) = json.loads(Path("runs/photos/results.json").read_text())
    table = done(typed, "evaluate", "photos", "--device", "cpu")
    row = next(line for line in table.splitlines() if line.strip().startswith("overall"))
    assert f" {100 * found['accuracy']['overall']:.2f} " in row
    asked = done(typed, "ask", "photos", "photos/9.png", "is it red?", "--look", "look.png")
    assert f"{core}-0" in asked
    assert "Where it looked" in asked
    assert Path("look.png").stat().st_size > 100


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("core", ["vilt", "blip"])
def test_it_is_exported(core: str, checkpoints: dict[str, Path]) -> None:
    done(regard, *OWN, *SHORT, "--model", core, "--question", str(checkpoints[core]), "--epochs", "0")
    assert "answers.pt2 answers as" in typed("export", "photos", "answers.pt2").stdout


@pytest.mark.parametrize("core", ["vilt", "blip"])
def test_it_is_measured_as_it_came(core: str, checkpoints: dict[str, Path]) -> None:
    arguments = (*OWN, *SHORT, "--model", core, "--question", str(checkpoints[core]))
    said = done(regard, *arguments, "--epochs", "0")
    assert said.startswith(f"Measuring {core} on visual-questions: as it came, 1 seed, on cpu.")
    assert "the most frequent answer to each type of question" in said
    model = load(f"runs/photos/{core}-0")
    # ViLT's own answers; BLIP ranks those of training.
    assert set(model.answers or ()) == ({"no", "yes", "red"} if core == "vilt" else ANSWERS)
    came = build(Recipe(core, size=12, question=str(checkpoints[core])), answers=model.answers)
    assert all(torch.equal(value, came.state_dict()[name]) for name, value in model.state_dict().items())
    predicted = list(Source(Path(f"runs/photos/{core}-0/predictions.csv"), Path()).read())
    truth = {(one.image.resolve(), one.question): one.answers for one in Source(Path(OWN[1]), Path(OWN[0])).read()}  # type: ignore[union-attr]
    right = 0
    for one in predicted:
        assert isinstance(one.image, Path)
        assert one.answers[0] == model.answer(one.image, one.question).text
        right += one.answers == truth[one.image.resolve(), one.question]
    (found,) = json.loads(Path("runs/photos/results.json").read_text())
    assert found["accuracy"]["overall"] == pytest.approx(right / len(predicted))
    assert "accuracy" in Path("runs/photos/report.html").read_text()
    table = done(typed, "evaluate", "photos", "--device", "cpu")
    assert f"{100 * right / len(predicted):.2f}" in table
    others = done(typed, "evaluate", "photos", *OWN, "--device", "cpu")
    assert "On 36 questions of photos/questions.csv. " in others  # on none of which it was trained
    one_line(regard(*arguments, "--epochs", "1"), "epochs 0 there, 1 now")


def test_what_cannot_be_measured_as_it_came_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    none = (*OWN, *SHORT, "--epochs", "0")
    one_line(regard(*none), "--epochs 0", "cross_attention would know nothing", "at least 1", "vilt or blip")
    one_line(typed("compare", "--epochs", "0"), "--epochs 0", "at least 1")
    vilt = ("--model", "vilt", "--question", str(checkpoints["vilt"]))
    one_line(regard(*none, *vilt, "--seeds", "2"), "--epochs 0 --seeds 2", "leave --seeds out")
    one_line(regard(*OWN, *SHORT, "--epochs", "-1"), "--epochs -1")
    for core, other, weight in (("vilt", "masked", "classifier.0"), ("blip", "captions", "text_encoder.")):
        given = ("--model", core, "--question", str(checkpoints[other]))
        one_line(regard(*none, *given), other, "lacks", weight, "as it came", "for 1 epoch or more")
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    for file in checkpoints["vilt"].iterdir():
        (nameless / file.name).write_bytes(file.read_bytes())
    config = json.loads((nameless / "config.json").read_text())
    config["id2label"] = {number: f"LABEL_{number}" for number in range(3)}
    config["label2id"] = {f"LABEL_{number}": number for number in range(3)}
    (nameless / "config.json").write_text(json.dumps(config))
    one_line(regard(*none, "--model", "vilt", "--question", "nameless"), "LABEL_0", "id2label", "config.json")
    assert not (tmp_path / "runs").exists()


def test_weights_that_a_checkpoint_lacks_are_told_of_before_training(
    checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = (*OWN, *SHORT, "--epochs", "1", "--model")
    done(regard, *arguments, "vilt", "--question", str(checkpoints["masked"]), "--name", "vilt")
    assert not caplog.messages  # a fresh classifier, for answers of one's own, is as it should be
    done(regard, *arguments, "blip", "--question", str(checkpoints["captions"]), "--name", "blip")
    (message,) = caplog.messages
    assert "weights of the model 'blip', text_encoder." in message
    caplog.clear()
    done(regard, *arguments, "mlb", "--question", str(checkpoints["bert"]), "--name", "whole")
    assert not caplog.messages
    broken = checkpoints["bert"].parent / "broken"
    shutil.copytree(checkpoints["bert"], broken, dirs_exist_ok=True)
    weights = load_file(broken / "model.safetensors")
    save_file({name: one for name, one in weights.items() if "layer.1." not in name}, broken / "model.safetensors")
    done(regard, *arguments, "mlb", "--question", str(broken), "--name", "broken")
    (message,) = caplog.messages
    assert "weights of the model 'mlb', encoder.layer.1." in message


def test_a_checkpoint_must_be_named_and_parts_of_other_models_mean_nothing(checkpoints: dict[str, Path]) -> None:
    one_line(regard(*OWN, *SHORT, "--model", "vilt"), "'vilt' comes from a checkpoint", "--question CHECKPOINT")
    given = ("--model", "vilt", "--question", str(checkpoints["vilt"]))
    one_line(regard(*OWN, *given, "--size", "13"), "size=13 is no whole number of patches")
    one_line(regard(*OWN, *SHORT, *given, "--frozen"), "--frozen means nothing to model 'vilt'")
    mixed = ("--attention", "vilt,mlb", "--question")
    one_line(compare(*mixed, str(checkpoints["vilt"])), "--question vilt=CHECKPOINT")
    one_line(compare(*mixed, f"lstm,gru,vilt={checkpoints['vilt']}"), "lstm, gru are given")
    one_line(compare(*mixed, "vilt=a,vilt=b"), "vilt=a,vilt=b", "one checkpoint for each of vilt")
    for empty in ("vilt=a,", "vilt=,lstm"):
        one_line(compare(*mixed, empty), f"--question {empty}", "is empty")
    one_line(compare("--attention", "vilt,blip", "--question", "vilt=a"), "'blip'", "vilt=CHECKPOINT,blip=CHECKPOINT")


def test_they_are_compared_with_other_models_on_the_same_questions(checkpoints: dict[str, Path]) -> None:
    read = f"gru,vilt={checkpoints['vilt']},blip={checkpoints['blip']}"
    arguments = ("--attention", "vilt,concatenation,blip", "--question", read, "--width", "8", "--epochs", "1")
    done(compare, *arguments)
    results = json.loads(Path("runs/photos/results.json").read_text())
    names = [one["attention"] for one in results]
    assert names == ["vilt", "concatenation", "blip"]
    models = {name: load(f"runs/photos/{name}-0") for name in names}
    said = {name: list(Source(Path(f"runs/photos/{name}-0/predictions.csv"), Path()).read()) for name in names}
    first, *others = said.values()
    for other in others:
        assert [(one.image, one.question) for one in other] == [(one.image, one.question) for one in first]
    views = [View(12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.5))] * 2
    assert [models["vilt"].view, models["blip"].view] == views
    assert models["concatenation"].view not in views
    assert len({tuple(model.answers or ()) for model in models.values()}) == 1
    assert models["concatenation"].recipe.question == "gru"  # type: ignore[union-attr]
    for name, model in models.items():  # each as it sees and reads by itself
        assert [model.answer(one.image, one.question).text for one in said[name]] == [
            one.answers[0] for one in said[name]
        ]
    table = done(typed, "evaluate", "photos", "--device", "cpu", COLUMNS="200")
    row = next(line for line in table.splitlines() if line.strip().startswith("overall"))
    for one in results:
        assert f"{100 * one['accuracy']['overall']:.2f}" in row
    before = Path("runs/photos/results.json").read_text()
    done(compare, "--attention", "concatenation,blip,vilt", *arguments[2:])  # there is nothing left to do
    assert Path("runs/photos/results.json").read_text() == before
    settings = json.loads(Path("runs/photos/settings.json").read_text())
    assert settings["others"] == {"vilt": [12, "shift"], "blip": [12, "shift"]}
