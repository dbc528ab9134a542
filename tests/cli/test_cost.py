"""`regard cost`, as typed."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
from typer.testing import CliRunner, Result

from regard.attention import mechanisms
from regard.cli import build
from regard.cli.cost import _mechanism, _Priced, _show
from regard.costing import Cost, Counts, Growth, cost
from regard.placing import insert
from regard.running import Inputs, undisturbed

QUICK = ("--size", "32", "--repeats", "1")


def regard(*arguments: str, columns: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(build(), ["cost", *arguments])


def found(*arguments: str) -> dict[str, Any]:
    result = regard(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def one_line(result: Result, *parts: str) -> None:
    """It ended as bad input does: exit code 2, one line that says so, no traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    for part in parts:
        assert part in result.stderr


COUNTS = ("parameters", "trainable_parameters", "macs", "bytes_moved", "activation_bytes")


def test_a_model_alone() -> None:
    price = cost(timm.create_model("test_resnet"), (2, 3, 32, 32), repeats=1).as_dict()
    given = found("test_resnet", *QUICK, "--batch", "2")
    assert {name: given["cost"][name] for name in COUNTS} == {name: price[name] for name in COUNTS}
    assert given["name"] == "timm:test_resnet"
    assert given["inputs"] == [[2, 3, 32, 32]]
    assert given["device"] == "cpu"
    assert given["attention"] == []
    printed = regard("test_resnet", *QUICK, "--batch", "2").stdout
    for text in ("timm:test_resnet on 2×3×32×32", "MACs", "bytes moved", "kept for backward", "latency", " ms"):
        assert text in printed


@pytest.mark.slow
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_attention_in_a_model_is_the_difference_that_insertion_makes(start: Any) -> None:
    plain = timm.create_model("test_resnet")
    before = cost(plain, (1, 3, 32, 32), repeats=1).as_dict()
    attended = insert(plain, ["se", "simam"], ["branch", "stage4"], start=start, example=(1, 3, 32, 32))
    after = cost(attended, (1, 3, 32, 32), repeats=1).as_dict()
    arguments = ("--attention", "se+simam", "--at", "branch, stage4", "--start", start)
    (variant,) = found("test_resnet", *arguments, *QUICK)["attention"]
    for name in COUNTS:
        assert variant["cost"][name] == after[name]
        assert variant["difference"][name] == after[name] - before[name]
        assert variant["ratio"][name] == pytest.approx(after[name] / before[name])
    assert variant["modules"] == sum(
        isinstance(module, (mechanisms["se"], mechanisms["simam"])) for module in attended.modules()
    )
    assert set(variant) == {"name", "at", "modules", "cost", "difference", "ratio"}


def test_before_and_after_are_printed_side_by_side() -> None:
    printed = regard("test_resnet", "--attention", "cbam", "--at", "branch", *QUICK).stdout
    heading = next(line for line in printed.splitlines() if "before" in line)
    assert heading.split() == ["before", "with", "cbam", "difference", "ratio"]
    given = found("test_resnet", "--attention", "cbam", "--at", "branch", *QUICK)
    ratio = given["attention"][0]["ratio"]["parameters"]
    line = next(line for line in printed.splitlines() if line.strip().startswith("parameters"))
    assert line.split()[-1] == f"×{ratio:.3f}"
    assert " +" in line
    assert f"cbam: {given['attention'][0]['modules']} modules at branch" in printed


def priced(name: str, large: bool, declared: list[str]) -> _Priced:
    """With numbers as long as they get, or as short."""
    number = 1_234_567_890_123 if large else 0
    counts = Counts(number, number, number)
    price = Cost(number, number, number, number, number, (1234.5, 1357.9) if large else (0.001, 0.001))
    return _Priced(name, 16, declared, price, Growth({(1120, 1120): counts, (2240, 2240): counts}))


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("variants", [0, 1, 3])
def test_no_line_is_wider_than_the_terminal(
    columns: int, variants: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    others = [priced("multi_scale_convolutional", True, ["N", "N^2"]), *[priced("se", False, ["N"])] * 2][:variants]
    _show("timm:a_model on 1×3×224×224, cpu", "branch", [priced("timm:vit_base_patch16_224", True, []), *others])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 8
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    assert any("1,296 ± 62 ms" in line or "1,296 ± 62" in line for line in lines)


def test_several_variants_have_a_row_each() -> None:
    printed = regard("test_resnet", "--attention", "se,eca", *QUICK).stdout.splitlines()
    starts = [line.split()[0] for line in printed if line.startswith("  ") and line.strip()]
    assert [word for word in starts if word in ("without", "se", "eca")] == ["without", "se", "eca"]


@pytest.mark.slow
def test_growth_of_the_model_and_of_attention_alone() -> None:
    given = found("test_resnet", "--attention", "multi_head_self", "--at", "stage1", "--growth", *QUICK)
    whole, alone = given["growth"], given["attention"][0]["growth"]
    assert [one["size"] for one in alone["sizes"]] == [[16, 16], [32, 32], [48, 48], [64, 64]]
    assert whole["fit"]["macs"]["exponent"] == pytest.approx(1, abs=0.1)
    assert alone["declared"] == ["N^2"]
    assert 1 < alone["fit"]["macs"]["exponent"] < 2
    difference = given["attention"][0]["difference"]
    assert alone["sizes"][1]["macs"] == difference["macs"]
    assert alone["sizes"][1]["activation_bytes"] == difference["activation_bytes"]
    printed = regard("test_resnet", "--attention", "multi_head_self", "--at", "stage1", "--growth", *QUICK).stdout
    assert "multi_head_self alone" in printed
    assert "N^2" in printed


@pytest.mark.slow
def test_a_model_for_one_size_is_built_for_each() -> None:
    given = found("vit_tiny_patch16_224", "--size", "32", "--repeats", "1", "--growth")
    assert len(given["growth"]["sizes"]) == 4
    assert given["growth"]["refused"] == []


def test_a_size_that_is_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_for_cost.py").write_text(
        "from torch import nn\n"
        "def build():\n    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(2), nn.Linear(64, 7))\n"
    )
    printed = regard("net_for_cost:build", "--size", "8", "--repeats", "1", "--growth").stdout
    for size in ("4×4", "12×12", "16×16"):
        assert f"does not run at {size}: " in printed


def test_a_mechanism_alone_whose_growth_is_what_it_declares() -> None:
    given = found("non_local", "--channels", "8", "--size", "24", "--repeats", "1", "--growth")
    assert given["name"] == "non_local"
    assert given["inputs"] == [[1, 8, 24, 24]]
    assert given["growth"]["declared"] == ["N^2"]
    assert given["growth"]["fit"]["macs"]["exponent"] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("name", mechanisms)
def test_every_mechanism_runs_on_its_own_inputs(name: str) -> None:
    named = _mechanism(name, 64)
    module = named.build(7)
    inputs = Inputs(named.example(module, 7, 2))
    assert all(len(tensor) == 2 for tensor in inputs.tensors())
    with undisturbed(module):
        inputs.run(module)


def test_mechanisms_are_found_by_any_of_their_names() -> None:
    given = found("test_resnet", *QUICK, "--attention", "CBAM,squeeze excitation+Eca,cbam", "--at", "stage4")
    assert [one["name"] for one in given["attention"]] == ["cbam", "se+eca"]
    assert found("CBAM", "--size", "7", "--repeats", "1")["name"] == "cbam"
    one_line(regard("CBAM Module", "--attention", "se"), "'cbam' is a mechanism")


BAD: dict[str, tuple[list[str], list[str]]] = {
    "name": (["resnet5O"], ["'resnet5O'", "resnet50"]),
    "mechanism's name": (["cbma"], ["did you mean cbam"]),
    "attention": (["test_resnet", "--attention", "cbma"], ["'cbma'", "'cbam'"]),
    "no attention": (["test_resnet", "--attention", " , "], ["--attention"]),
    "place": (["test_resnet", "--attention", "se", "--at", "layer9", *QUICK], ["'layer9'", "layer4"]),
    "no place": (["test_resnet", "--attention", "se", "--at", ","], ["--at"]),
    "start": (["test_resnet", "--attention", "se", "--start", "now", *QUICK], ["'now'", "paper"]),
    "attention into a mechanism": (["cbam", "--attention", "se"], ["'cbam' is a mechanism"]),
    "channels": (["cbam", "--channels", "0"], ["--channels 0"]),
    "repeats": (["test_resnet", "--repeats", "0"], ["--repeats 0"]),
    "size": (["test_resnet", "--size", "-5"], ["--size -5"]),
    "batch": (["test_resnet", "--batch", "0"], ["--batch 0"]),
    "shape and batch": (["test_resnet", "--shape", "1,3,64,64", "--batch", "2"], ["--batch", "--shape"]),
    "device": (["test_resnet", "--device", "tpu9"], ["--device tpu9"]),
    "shape": (["test_resnet", "--shape", "1,5,64,64"], ["does not run on 1×5×64×64"]),
    "mechanism's width": (["multi_head_self", "--channels", "7"], ["multi_head_self cannot be built", "7"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str) -> None:
    arguments, parts = BAD[case]
    one_line(regard(*arguments), *parts)


def test_help_reads_like_a_manual() -> None:
    result = regard("--help", columns=160)
    assert result.exit_code == 0
    options = "--attention --at --start --channels --size --batch --shape --growth --repeats --device --json"
    for part in (*options.split(), "two FLOPs", "regard cost cbam"):
        assert part in result.stdout
