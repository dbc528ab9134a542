"""The benchmark of fusions runs as one command and prints a row for each."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest


@pytest.mark.slow
def test_it_prints_the_table(tmp_path: Path) -> None:
    spec = spec_from_file_location("fusion_benchmark", Path(__file__).parents[3] / "benchmarks" / "fusion.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    small = ["--rows", "60", "--test", "5", "--epochs", "1", "--robustness", str(tmp_path)]
    lines = benchmark.main([*small, "--fusions", "vote", "bottleneck"]).splitlines()
    assert lines[2].startswith("| the best there can be | | | 100.0% | 50.0% | 50.0% | 50.0% | 50.0% |")
    assert [line.split(" | ")[:2] for line in lines[3:]] == [["| vote", "decision"], ["| bottleneck", "model"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bottleneck.svg", "vote.svg"]
