"""`regard export`, as typed."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.models.vqa import Recipe, WordVocabulary, build, load, save
from typed import one_line, typed

ANSWERS = ["yes", "no", "red"]


regard = partial(typed, "export", COLUMNS="80")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run of two models."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "photos"
    run.mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    parts: dict[str, Any] = {"image": "convolutions", "image_arguments": {"widths": [3, 5]}, "size": 12}
    for core in ("concatenation", "product"):
        recipe = Recipe(core, question="bag", question_arguments={"width": 6}, **parts)
        save(build(recipe, WordVocabulary.of(["what color is the cat"]), ANSWERS), run / f"{core}-0")
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_model_of_a_run_is_written_with_all_that_it_needs(here: Path) -> None:
    result = regard("photos", "cat.pt2", "--model", "product", "--words", "4")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "pictures: pictures × 3 × 12 × 12" in result.stdout
    assert "questions: pictures × questions × words" in result.stdout
    assert "logits: pictures × questions × 3" in result.stdout
    assert "cat.pt2 answers as product-0 does" in result.stdout
    assert json.loads(Path("cat.json").read_text())["answers"] == ANSWERS
    seen, asked = torch.rand(3, 3, 12, 12), torch.tensor([[[2, 3]], [[4, 0]], [[1, 5]]])
    with Path("cat.pt2").open("rb") as file:
        logits = torch.export.load(file).module()(seen, asked)
    torch.testing.assert_close(logits, load("runs/photos/product-0")(seen, asked))


BAD = {
    "which model": (("photos", "cat.pt2"), ["concatenation-0, product-0", "--model NAME"]),
    "model": (("photos", "cat.pt2", "--model", "mcan"), ["no model 'mcan'"]),
    "kind": (("photos", "cat.keras", "--model", "product"), ["cat.keras", ".pt2 or .onnx"]),
    "words": (("photos", "cat.pt2", "--model", "product", "--words", "0"), ["words=0"]),
    "folder": (("photos", "cat.pt2", "--folder", "x"), ["no fusion: leave --table and --folder out"]),
    "run": (("fotos", "cat.pt2"), ["no run 'fotos'", "photos"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str, here: Path) -> None:
    arguments, parts = BAD[case]
    one_line(regard(*arguments), *parts)
    assert [path.name for path in here.iterdir()] == ["runs"]
