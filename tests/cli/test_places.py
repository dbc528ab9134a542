"""`regard places`, as typed."""

import json
from pathlib import Path

import pytest
import timm
from typer.testing import CliRunner, Result

from regard.cli import build
from regard.cli.places import numbers
from regard.errors import UserError
from regard.placing import places


def regard(*arguments: str, columns: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(build(), ["places", *arguments])


def one_line(result: Result, *parts: str) -> None:
    """It ended as bad input does: exit code 2, one line that says so, no traceback."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    for part in parts:
        assert part in result.stderr


def rows(result: Result) -> list[list[str]]:
    """The cells of the printed table, under its headings."""
    assert result.exit_code == 0, (result.output, result.exception)
    lines = result.stdout.splitlines()
    rule = next(number for number, line in enumerate(lines) if "───" in line)
    return [line.split() for line in lines[rule + 1 :] if line.startswith("  ") and line.strip()]


def test_one_row_for_each_place_with_a_role() -> None:
    table = places(timm.create_model("test_resnet"))
    printed = rows(regard("test_resnet"))
    assert len(printed) == sum(place.role is not None for place in table) > 5
    for place, cells in zip([place for place in table if place.role], printed, strict=True):
        shape = "×".join(map(str, place.shape))
        assert " ".join(cells).startswith(f"{place} {place.role} {place.layout} {shape} {place.channels}")
        assert cells[-1] == str(place.calls)


def test_all_shows_the_other_modules_too() -> None:
    result = regard("test_resnet", "--all")
    assert len(rows(result)) == len(places(timm.create_model("test_resnet")))
    assert " conv1 " in result.stdout
    assert "--all" not in result.stdout
    assert "more modules by path: --all" in regard("test_resnet").stdout


def test_json_has_the_documented_keys() -> None:
    found = json.loads(regard("test_resnet", "--json", "--size", "64").stdout)
    table = places(timm.create_model("test_resnet"), (1, 3, 64, 64))
    assert [(one["path"], one["role"], tuple(one["shape"])) for one in found] == [
        (place.path, place.role, place.shape) for place in table if place.role
    ]
    assert set(found[0]) == {"path", "side", "role", "shape", "layout", "channels", "resolution", "calls"}


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    result = regard("test_vit", "--all", columns=columns)
    assert max(len(line) for line in result.stdout.splitlines()) <= columns
    assert ("1×101×64" in result.stdout) == (columns >= 100)


def test_a_shape_stands_for_any_one_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_for_places.py").write_text(
        "from torch import nn\n"
        "def video():\n    return nn.Sequential(nn.Conv3d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv3d(5, 7, 1))\n"
    )
    result = regard("net_for_places:video", "--shape", "2,3,4,8,8", "--all", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert [2, 5, 4, 8, 8] in [one["shape"] for one in json.loads(result.stdout)]
    one_line(regard("net_for_places:video"), "Sequential is not known", "--shape")
    one_line(regard("net_for_places:video", "--shape", "2,4,4,8,8"), "does not run on 2×4×4×8×8", "4 channels")


def test_a_shape_is_written_with_commas() -> None:
    assert numbers("1,3,16,112,112") == (1, 3, 16, 112, 112)
    assert numbers(" 1, 3,224x224") == (1, 3, 224, 224)
    for wrong in ("", "1,,3", "1,-3", "a,b", "1.5,2", "0,3"):
        with pytest.raises(UserError, match="--shape"):
            numbers(wrong)


BAD: dict[str, tuple[list[str], list[str]]] = {
    "name": (["resnet5O"], ["'resnet5O'", "resnet50"]),
    "module": (["nowhere_at_all:build"], ["nowhere_at_all"]),
    "size": (["test_resnet", "--size", "0"], ["--size 0"]),
    "shape": (["test_resnet", "--shape", "1,3,x"], ["--shape", "1,3,16,112,112"]),
    "shape and size": (["test_resnet", "--shape", "1,3,64,64", "--size", "64"], ["--size", "--shape"]),
    "channels": (["test_resnet", "--shape", "1,5,64,64"], ["timm:test_resnet does not run on 1×5×64×64"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str) -> None:
    arguments, parts = BAD[case]
    one_line(regard(*arguments), *parts)


def test_help_shows_examples() -> None:
    result = regard("--help", columns=160)
    assert result.exit_code == 0
    for part in ("--size", "--shape", "--all", "--json", "regard places resnet50", "package.module:function"):
        assert part in result.stdout
