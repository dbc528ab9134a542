"""`regard ask`, as typed."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regard.models.vqa import Recipe, WordVocabulary, build, save
from typed import one_line, typed

ANSWERS = ["yes", "no", "red", "two", "blue", "green"]


regard = partial(typed, "ask", COLUMNS="80")


def keep(folder: Path, core: str, seed: int = 0, **changes: Any) -> None:
    torch.manual_seed(seed)
    recipe: dict[str, Any] = {"image": "convolutions", "image_arguments": {"widths": [3, 5]}, "size": 12}
    vocabulary = WordVocabulary.of(["what color is the cat"])
    model = build(Recipe(core, question_arguments={"width": 6}, **{**recipe, **changes}), vocabulary, ANSWERS)
    save(model, folder / f"{core}-{seed}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, and with a run of two readers, one of them from two seeds, and of one that is blind."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "photos"
    run.mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    for core, seed in (("stacked_attention", 0), ("stacked_attention", 1), ("top_down", 0), ("product", 0)):
        keep(run, core, seed)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 40, 3), np.uint8)).save("cat.jpg")
    return tmp_path


def test_every_model_of_a_run_answers_with_its_probabilities_and_says_what_it_never_saw(here: Path) -> None:
    from regard.models.vqa import load

    result = regard("photos", "cat.jpg", "what color is the dog or fox?")
    assert result.exit_code == 0, (result.output, result.exception)
    for name in ("stacked_attention-0", "stacked_attention-1", "top_down-0", "product-0"):
        said = load(here / "runs" / "photos" / name).answer("cat.jpg", "what color is the dog or fox?")
        first = next(line for line in result.stdout.splitlines() if line.split()[:1] == [name])
        assert first.split()[1:3] == [said.text, f"{said.probabilities[said.text]:.3f}"]
        assert len(said.probabilities) == 5
    assert len(re.findall(r"0\.\d{3}", result.stdout)) == 4 * 5
    assert "the model never saw the words: dog, or, fox" in result.stdout
    assert "no attention to places of the picture: product-0" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_one_model_is_asked_by_its_name_by_its_seed_or_by_its_folder(here: Path) -> None:
    for arguments, names in (
        (("photos", "--model", "stacked_attention"), {"stacked_attention-0", "stacked_attention-1"}),
        (("photos", "--model", "stacked_attention-1"), {"stacked_attention-1"}),
        (("runs/photos/top_down-0",), {"top_down-0"}),
        ((str(here / "runs" / "photos"), "--model", "top_down"), {"top_down-0"}),
    ):
        run, *rest = arguments
        printed = regard(run, "cat.jpg", "what color is it?", *rest).stdout
        assert set(re.findall(r"[a-z_]+-\d", printed)) == names


def test_where_it_looked_is_drawn_in_colours_in_shades_and_as_a_picture(here: Path) -> None:
    shaded = regard("photos", "cat.jpg", "what color?", "--model", "top_down").stdout
    rows = [line for line in shaded.splitlines() if re.fullmatch(r"[ ░▒▓█]{6} *", line) and line.strip()]
    assert len(rows) == 3  # cells, each two characters wide
    coloured = regard(
        "photos",
        "cat.jpg",
        "what?",
        "--model",
        "top_down",
        "--look",
        "look.png",
        FORCE_COLOR="1",
        COLORTERM="truecolor",
    ).stdout
    assert coloured.count("▀") == 24 * 9  # 24 wide, and 31 / 40 as high
    with Image.open("look.png") as drawn:
        assert drawn.width > 2 * 384  # the original and, beside it, where it looked
        assert drawn.height > 384 * 31 / 40 + 60  # above and below it the question, the answer and the scale
    result = regard("photos", "cat.jpg", "what?", "--look", "several.png")
    assert result.exit_code == 0, (result.output, result.exception)
    with Image.open("several.png") as drawn:
        assert drawn.width > 4 * 384


def test_a_model_that_reads_regions_is_given_them(here: Path) -> None:
    keep(here / "runs" / "photos", "mlb", image="regions", image_arguments={"features": 11})
    one_line(regard("photos", "cat.jpg", "what?", "--model", "mlb"), "mlb-0 reads regions", "--regions FILE.npz")
    boxes = np.array([[0, 0, 20, 15], [10, 5, 40, 31]])
    np.savez("cat.npz", x=np.random.default_rng(0).random((2, 11)), bbox=boxes, image_w=40, image_h=31)
    seen = regard("photos", "cat.jpg", "what?", "--regions", "cat.npz", "--model", "product")
    one_line(seen, "--regions cat.npz means nothing to product-0, which sees pictures")
    given = ("photos", "cat.jpg", "what color?", "--model", "mlb", "--regions", "cat.npz", "--look", "look.png")
    plain, coloured = regard(*given), regard(*given, FORCE_COLOR="1", COLORTERM="truecolor")
    assert plain.exit_code == 0, (plain.output, plain.exception)
    assert len(re.findall(r"region \d: 0\.\d\d", plain.stdout)) == 2
    assert "▀" in coloured.stdout
    assert Path("look.png").exists()
    assert regard(*given[:-3], ".", *given[-2:]).stdout == plain.stdout  # the folder that has those of this picture


BAD = {
    "run": (("fotos", "cat.jpg", "what?"), ["no run 'fotos'", "photos"]),
    "model": (("photos", "cat.jpg", "what?", "--model", "mcan"), ["no model 'mcan'", "top_down-0"]),
    "picture": (("photos", "dog.jpg", "what?"), ["dog.jpg cannot be read", "No such file"]),
    "question": (("photos", "cat.jpg", "?!"), ["'?!' has no word"]),
    "device": (("photos", "cat.jpg", "what?", "--device", "tpu9"), ["no device 'tpu9'", "auto"]),
    "kind of picture": (
        ("photos", "cat.jpg", "what?", "--look", "look.txt"),
        ["look.txt", ".txt is no kind of picture"],
    ),
    "no attention": (("photos", "cat.jpg", "what?", "--model", "product", "--look", "l.png"), ["has no attention"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str, here: Path) -> None:
    arguments, parts = BAD[case]
    one_line(regard(*arguments), *parts)
    assert sorted(path.name for path in here.iterdir()) == ["cat.jpg", "runs"]


def test_a_run_without_models_that_answer_says_so(here: Path) -> None:
    (here / "runs" / "cats").mkdir()
    (here / "runs" / "cats" / "settings.json").write_text("{}")
    one_line(regard("cats", "cat.jpg", "what?"), "holds no models that answer questions", "regard train vqa")
