"""Models of questions as files that run without regard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from vqa_small import SMALL

from regard.errors import UserError
from regard.models.vqa import Answering, Recipe, Regions, WordVocabulary, build, cores
from regard.models.vqa.exporting import export

ANSWERS = ["yes", "no", "red", "two"]
VOCABULARY = WordVocabulary.of(["what color is the cat", "is it red"])

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def small(core: str = "concatenation", **changes: Any) -> Answering:
    """A model that has learned nothing but what batch normalisation notes; pictures of 12 by 12 are 3 by 3 cells."""
    arguments = SMALL.get(core, {})
    recipe: dict[str, Any] = {
        "arguments": arguments | {"cells": 9} if "cells" in arguments else arguments,
        "image": "convolutions",
        "image_arguments": {"widths": [5, 7]},
        "size": 12,
        "question_arguments": {"width": 10, "embedding_width": 3},
    }
    return build(Recipe(core, **{**recipe, **changes}), VOCABULARY, ANSWERS).eval()


def asked(pictures: int, questions: int, words: int) -> Tensor:
    """Of differing lengths, filled up with 0."""
    numbers = torch.randint(1, len(VOCABULARY), (pictures, questions, words))
    return numbers * (torch.arange(words) < torch.randint(1, words + 1, (pictures, questions, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("core", list(cores)[::4])
def test_a_core_answers_alike_in_a_file_of_pytorch(core: str, tmp_path: Path) -> None:
    """Of some cores: it holds the program from which the file for ONNX is made, which is tested of all."""
    model = small(core)
    about = export(model, tmp_path / "model.pt2", words=5)
    assert about["inputs"] == {"pictures": ["pictures", 3, 12, 12], "questions": ["pictures", "questions", 5]}
    with (tmp_path / "model.pt2").open("rb") as file:
        program = torch.export.load(file).module()
    for pictures, questions in ((5, 2), (1, 4), (1, 1)):
        inputs = torch.randn(pictures, 3, 12, 12), asked(pictures, questions, 5)
        torch.testing.assert_close(program(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("core", cores)
def test_every_core_answers_alike_in_onnx(core: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small(core)
    about = export(model, tmp_path / "model.onnx", words=5)
    assert about["compared"]
    assert about["inputs"] == {"pictures": ["pictures", 3, 12, 12], "questions": ["pictures", "questions", 5]}
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.json"}  # the weights are in it
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for pictures, questions in ((5, 2), (1, 4), (1, 1)):
        seen, words = torch.randn(pictures, 3, 12, 12), asked(pictures, questions, 5)
        (logits,) = session.run(["logits"], {"pictures": seen.numpy(), "questions": words.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(seen, words), rtol=1e-4, atol=1e-5)


OTHERS: dict[str, tuple[dict[str, Any], dict[str, list[int | str]]]] = {
    "a bag": (
        {"question": "bag", "question_arguments": {"width": 10}},
        {"pictures": ["pictures", 3, 12, 12], "questions": ["pictures", "questions", "words"]},
    ),
    "placed words": (
        {"question": "placed", "question_arguments": {"length": 6, "width": 10}},
        {"pictures": ["pictures", 3, 12, 12], "questions": ["pictures", "questions", "words"]},
    ),
    "regions": (
        {"core": "mlb", "arguments": SMALL["mlb"], "image": "regions", "image_arguments": {"features": 11}},
        {
            "features": ["pictures", "regions", 11],
            "mask": ["pictures", "regions"],
            "boxes": ["pictures", "regions", 4],
            "questions": ["pictures", "questions", 14],
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_what_else_can_be_exported_says_which_sizes_are_free(case: str, tmp_path: Path) -> None:
    changes, inputs = OTHERS[case]
    assert export(small(**changes), tmp_path / "model.pt2")["inputs"] == inputs


@pytest.mark.slow
@pytest.mark.parametrize("core", ["vilt", "blip"])
def test_a_whole_model_of_hugging_face_is_exported_for_one_question_at_a_time(
    core: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = build(Recipe(core, size=12, question=str(checkpoints[core])), answers=["no", "yes", "red"])
    about = export(model, tmp_path / "model.pt2", words=5)
    assert about["inputs"] == {"pictures": [1, 3, 12, 12], "questions": [1, 1, "words"]}
    assert about["longest"] == 9


@pytest.mark.slow
def test_the_two_files_are_enough_to_answer_without_regard(tmp_path: Path) -> None:
    model = small("top_down_product")
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    export(model, tmp_path / "model.pt2")
    about = json.loads((tmp_path / "model.json").read_text())
    known, view = about["words"]["words"], about["view"]
    numbers = [known.index(word) for word in ("what", "color", "is", "it")]
    whole = Image.fromarray(pixels)
    whole = whole.resize((12, 22), Image.Resampling.BICUBIC, reducing_gap=3)
    square = np.asarray(whole.resize((view["size"],) * 2, Image.Resampling.BICUBIC), np.float32) / 255
    seen = (torch.from_numpy(square).movedim(2, 0) - torch.tensor(view["mean"])[:, None, None]) / torch.tensor(
        view["deviation"]
    )[:, None, None]
    length = about["inputs"]["questions"][2]
    words = torch.tensor([[numbers + [0] * (length - len(numbers))]])
    with (tmp_path / "model.pt2").open("rb") as file:
        logits = torch.export.load(file).module()(seen[None], words)[0, 0]
    shares = logits.sigmoid() if about["each_alone"] else logits.softmax(0)
    expected = model.answer(tmp_path / "photo.png", "What color is it?")
    assert dict(zip(about["answers"], shares.tolist(), strict=True)) == pytest.approx(expected.probabilities)


class Fickle(nn.Module):
    """Says something else whenever it is asked by itself, and not as a part of a file."""

    def forward(self, joint: Tensor) -> Tensor:
        return joint if torch.compiler.is_compiling() else joint + 1


class Careless(nn.Module):
    """Takes what fills up for words or regions, as a part of a file alone."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, *given: Any) -> Any:
        if not torch.compiler.is_compiling():
            return self.whole(*given)
        if isinstance(given[0], Regions):
            return self.whole(given[0]._replace(mask=None))
        return self.whole(given[0].clamp(min=1), *given[1:])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["words", "sight"])
def test_a_file_that_reads_what_fills_up_is_not_written(part: str, tmp_path: Path) -> None:
    bag = {"question": "bag", "question_arguments": {"width": 10}}
    model = small(**bag, image="regions", image_arguments={"features": 11})
    assert export(model, tmp_path / "model.pt2")["compared"]
    setattr(model, part, Careless(getattr(model, part)))
    with pytest.raises(UserError, match="not close"):
        export(model, tmp_path / "careless.pt2")
    assert not (tmp_path / "careless.pt2").exists()


class Elsewhere(Tensor):
    """A tensor that says it lies on another device, where there is none."""

    device = torch.device("cuda", 7)

    def cpu(self, *_: Any) -> Tensor:
        return self.as_subclass(Tensor)


class Remote(nn.Module):
    def forward(self, joint: Tensor) -> Tensor:
        return joint if torch.compiler.is_compiling() else joint.as_subclass(Elsewhere)


@pytest.mark.slow
def test_a_model_on_another_device_than_its_file_answers_on_is_compared_with_it(tmp_path: Path) -> None:
    model: Any = small(question="bag", question_arguments={"width": 10})
    model.classifier = nn.Sequential(model.classifier, Remote())
    assert export(model, tmp_path / "model.pt2")["compared"]
    model.classifier.append(Fickle())
    with pytest.raises(UserError, match="not close"):
        export(model, tmp_path / "model.pt2")


@pytest.mark.slow
def test_a_file_that_says_something_else_is_not_written(tmp_path: Path) -> None:
    model: Any = small(question="bag", question_arguments={"width": 10})
    model.classifier = nn.Sequential(model.classifier, Fickle())
    (tmp_path / "model.pt2").write_text("what stood here before")
    with pytest.raises(UserError, match=r"'concatenation' cannot be exported as \.pt2: .*not close"):
        export(model, tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "what stood here before"


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    placed = small(question="placed", question_arguments={"length": 6, "width": 10})
    with pytest.raises(UserError, match=r"model\.tflite is of no kind that is known: end its name in \.pt2 or \.onnx"):
        export(placed, tmp_path / "model.tflite")
    for words in (0, 7):
        with pytest.raises(UserError, match=f"words={words}: expected at least 1, and no more than the model reads, 6"):
            export(placed, tmp_path / "model.pt2", words)
    detected = small()
    detected.recipe = Recipe("concatenation", image="detector")
    with pytest.raises(UserError, match="a model with a detector cannot be exported"):
        export(detected, tmp_path / "model.pt2")
    detected.recipe = None
    with pytest.raises(UserError, match="without recipe has no export"):
        export(detected, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
