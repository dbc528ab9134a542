"""The page of a run of fusions: its numbers are those of the files, and its sentence follows from them."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import Page, read, row

from regard.errors import UserError
from regard.report import write_report

GREY = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def score(value: float, low: float, high: float, regression: bool = False) -> dict[str, Any]:
    if regression:
        error = {"mean_absolute_error": 1234.5, "error_interval": [1100.0, 1400.0], "mean_alone": 2345.6}
        return {"r_squared": value, "interval": [low, high], "rows": 53, **error}
    return {"accuracy": value, "interval": [low, high], "loss": 0.3, "rows": 53, "most_common": 0.41}


def write(run: Path, scores: dict[str, tuple[float, float, float]], regression: bool = False) -> Path:
    """Each fusion's score with its interval; without the photo 0.07 less."""
    run.mkdir(parents=True)
    settings = {"task": "fusion", "target": "mood", "seed": 3, "options": {"epochs": 2}}
    (run / "settings.json").write_text(json.dumps(settings))
    results = []
    for name, (value, low, high) in scores.items():
        without = {"photo": score(value - 0.07, low, high, regression), "word": score(value, low, high, regression)}
        result = {"fusion": name, "level": "feature", "parameters": 12_347, "test": score(value, low, high, regression)}
        results.append({**result, "without": without, "seed": 3})
        part = run / f"{name}-3"
        part.mkdir()
        epochs = [{"loss": 0.9, "held_out_loss": 0.8, "held_out_score": 0.5}, {"loss": 0.4, "held_out_loss": 0.5}]
        (part / "predictor.json").write_text(json.dumps({"history": {"epochs": epochs, "best": [1], "lowest": [0.5]}}))
        said = {"answer": "glad" if not regression else "11.5", "probability": None if regression else 0.87}
        (part / "readings.json").write_text(json.dumps([{**said, "correct": None if regression else name == "gated"}]))
    (run / "results.json").write_text(json.dumps(results))
    cells = {"photo": {"picture": GREY}, "word": {"text": "a <b>word</b>"}}
    (run / "examples.json").write_text(json.dumps([{"cells": cells, "truth": "glad"}]))
    return run


def test_the_table_the_curves_and_the_examples_are_those_of_the_files(tmp_path: Path) -> None:
    run = write(tmp_path / "run", {"gated": (0.83, 0.71, 0.91), "tensor": (0.77, 0.64, 0.86)})
    page = read(run)
    for name, value, interval in (("gated", "0.830", "0.710–0.910"), ("tensor", "0.770", "0.640–0.860")):
        cells = row(page, name)
        assert cells[1].startswith(value)
        assert interval in cells[1]
        assert cells[2].startswith(f"{float(value) - 0.07:.3f}")
        assert cells[2].endswith("−0.070")
        assert cells[3].endswith("0.000")
        assert cells[4] == "12,347"
    assert row(page, "the most common class alone")[1] == "0.410"
    assert len([one for one in page.all("path") if one.get("class") == "line"]) == 3 * 2  # of curves, each of both
    assert page.all("img")[0]["src"] == GREY
    assert "a <b>word</b>" in page.text
    assert "✓ right" in page.text
    assert "✗ wrong" in page.text
    assert "0.87" in page.text
    assert "2 of gated" in page.text
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/")), (tag, attributes)


def test_a_number_has_its_error_in_its_unit(tmp_path: Path) -> None:
    page = read(write(tmp_path / "run", {"gated": (0.83, 0.71, 0.91)}, regression=True))
    cells = row(page, "gated")
    assert cells[1].startswith("0.830")
    assert cells[2] == "1,2341,100–1,400"  # the error and, below it, its interval
    assert row(page, "the mean alone")[1:3] == ["0.000", "2,346"]
    assert "R² of 0.830 (95 % interval 0.710 to 0.910)" in page.text
    assert "mean absolute error is 1,234; the mean alone has 2,346" in page.text
    assert "11.5" in page.text
    assert "✗" not in page.text


@pytest.mark.parametrize(
    ("scores", "says", "not_said"),
    [
        ({"gated": (0.83, 0.71, 0.91), "vote": (0.6, 0.5, 0.7)}, "against always saying the most common", "chance"),
        ({"gated": (0.83, 0.71, 0.91), "vote": (0.8, 0.7, 0.9)}, "their order may be chance", "not shown"),
        ({"gated": (0.83, 0.71, 0.91), "vote": (0.83, 0.71, 0.91)}, "vote reaches the same", "follows"),
        ({"gated": (0.5, 0.37, 0.63)}, "which is not shown to be better than always saying", "follows"),
        ({"gated": (0.41, 0.3, 0.5)}, "No fusion predicts mood better than always saying", "not shown"),
        ({"gated": (0.2, 0.1, 0.3), "vote": (0.3, 0.2, 0.4)}, "the best, vote reaches an accuracy of 30.0", "against"),
    ],
)
def test_the_sentence_follows_from_the_numbers(tmp_path: Path, scores: Any, says: str, not_said: str) -> None:
    page = read(write(tmp_path / "run", scores))
    lead = page.text.partition("Run run")[0].replace("\N{NO-BREAK SPACE}", " ")
    assert says in lead
    assert not_said not in lead


def test_what_is_not_there_yet_is_left_out(tmp_path: Path) -> None:
    run = write(tmp_path / "run", {"gated": (0.83, 0.71, 0.91)})
    for path in (run / "examples.json", run / "gated-3" / "predictor.json"):
        path.unlink()
    page = read(run)
    assert row(page, "gated")[1].startswith("0.830")
    assert not page.all("article")
    assert "Learning curves" not in page.text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("results.json", "[]", "no result"),
        ("results.json", '[{"fusion": "gated"}]', "lacks 'test'"),
        ("examples.json", '[{"cells": {"photo": {"picture": "http://x/y.png"}}, "truth": "a"}]', "data URL"),
        ("gated-3/predictor.json", "{}", "lacks 'history'"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    run = write(tmp_path / "run", {"gated": (0.83, 0.71, 0.91)})
    (run / name).write_text(content)
    with pytest.raises(UserError) as error:
        write_report(run)
    assert str(run / name) in str(error.value)
    assert says in str(error.value)
    assert not (run / "report.html").exists()


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = write(tmp_path / "run", {"gated": (0.83, 0.71, 0.91)})
    bad = "<script>alert(1)</script>"
    settings = json.loads((run / "settings.json").read_text()) | {"target": bad}
    (run / "settings.json").write_text(json.dumps(settings))
    (run / "gated-3" / "robustness.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{bad}</svg>")
    page: Page = read(run)
    assert len(page.all("script")) == 1
    assert bad in page.text
