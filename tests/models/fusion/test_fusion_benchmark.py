"""The benchmarks of fusions run as one command each and print a row for each fusion or table."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

pytestmark = pytest.mark.slow


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module(name)


def test_the_four_digits_print_a_row_for_each_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("fusion", monkeypatch)
    (tmp_path / "page.md").write_text(f"before\n{benchmark.HEAD}old\n{benchmark.TAIL}after\n")
    monkeypatch.setattr(benchmark, "PAGE", tmp_path / "page.md")
    small = ["--rows", "60", "--test", "5", "--epochs", "1", "--robustness", str(tmp_path / "curves"), "--write"]
    text = benchmark.main([*small, "--fusions", "vote", "bottleneck"])
    lines = text.splitlines()
    assert lines[2].startswith("| the best there can be |  |  | 100.0% | 50.0% | 50.0% | 50.0% | 50.0% |")
    assert lines[3].startswith("| the best vote |  |  | 37.5% | 43.8% | 43.8% | 43.8% | 43.8% |")
    assert [line.split(" | ")[:2] for line in lines[4:]] == [["| vote", "decision"], ["| bottleneck", "model"]]
    assert sorted(path.name for path in (tmp_path / "curves").iterdir()) == ["bottleneck.svg", "vote.svg"]
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n<!-- made by")
    assert page.endswith("<!-- end -->\nafter\n")
    assert text in page
    assert "old" not in page


@pytest.mark.parametrize(
    ("table", "floor", "beside"), [("wine", 0.9, 0.95), ("breast_cancer", 0.92, 0.97), ("diabetes", 0.3, 0.9)]
)
def test_a_fusion_of_numbers_alone_keeps_up_with_gradient_boosting(
    table: str, floor: float, beside: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion, boosted = load("fusion_tables", monkeypatch).compared(table, 0)
    assert fusion > floor
    assert fusion > beside * boosted


def test_a_fusion_learns_from_pictures_texts_and_numbers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = load("fusion_tables", monkeypatch)
    fusion, boosted = tables.compared("parcels", 0)
    assert fusion > 0.85
    assert fusion > 0.95 * boosted
    columns = tables.parcels()
    told = [tables.NUMBERS.index(next(w for w in note.split() if w in tables.NUMBERS)) for note in columns["note"]]
    from sklearn.datasets import load_digits

    above = load_digits().target + told > columns["limit"]
    assert [label == "above" for label in columns["label"]] == above.tolist()
