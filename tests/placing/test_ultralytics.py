"""The recipe of the documentation trains a YOLO with inserted attention. Skipped where ultralytics is not installed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import regard
from regard.watching import NoMapError

ultralytics = pytest.importorskip("ultralytics")

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"


def trainer() -> type:
    """The trainer that the page defines."""
    page = RECIPES.read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "get_model" in code]
    names: dict[str, Any] = {}
    exec(block.partition("\n\n\nmodel = ")[0], names)
    return names["AttendedTrainer"]


def inserted(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if "regard" in name.split(".")]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Four pictures with one object each, and one short epoch over them."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.3\n")
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images\nval: images\nnames: [thing]\n")
    small = {"epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "device": "cpu"}
    quiet = {"plots": False, "val": False, "amp": False, "verbose": False}
    return {"data": str(data), "project": str(tmp_path / "runs"), **small, **quiet}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_keeps_the_attention_through_training_and_files(options: dict[str, Any]) -> None:
    model = ultralytics.YOLO("yolov8n.yaml")
    model.train(trainer=trainer(), **options)
    names = inserted(model.model)
    assert names
    regard.watch(model.model)
    loaded = ultralytics.YOLO(str(model.trainer.last))
    assert inserted(loaded.model) == names
    with regard.watch(loaded.model) as seen:
        loaded.model.float()(torch.rand(1, 3, 64, 64))
    assert {one.mechanism for one in seen.maps} == {"cbam"}
    # Trained further, it begins with the attention that it had.
    start = trainer()(overrides={**options, "model": str(model.trainer.last)}).get_model(
        model.trainer.data.get("yaml", "yolov8n.yaml"), loaded.model, verbose=False
    )
    found, expected = dict(start.named_parameters()), dict(loaded.model.float().named_parameters())
    assert all(torch.equal(found[name], expected[name]) for name in names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_the_recipe_the_documented_check_tells_of_the_loss(options: dict[str, Any]) -> None:
    model = ultralytics.YOLO("yolov8n.yaml")
    regard.insert(model.model, "cbam", ["model.4", "model.6"], example=(1, 3, 64, 64))
    regard.watch(model.model)
    model.train(**options)
    with pytest.raises(NoMapError, match="none of them is a mechanism of regard"):
        regard.watch(model.model)
