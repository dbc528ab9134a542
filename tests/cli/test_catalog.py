"""`regard catalog`, as typed."""

import json

import pytest
from typer.testing import CliRunner, Result

from regard.attention import mechanisms
from regard.cli import build
from regard.cli.catalog import example


def regard(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(build(), list(arguments))


def test_lists_every_mechanism() -> None:
    result = regard("catalog")
    assert result.exit_code == 0
    for name, mechanism in mechanisms.items():
        assert f" {name} " in result.stdout
        assert str(mechanism.paper.year) in result.stdout


def test_json_has_the_documented_keys() -> None:
    result = regard("catalog", "--json")
    assert result.exit_code == 0
    entries = json.loads(result.stdout)
    assert [entry["name"] for entry in entries] == list(mechanisms)
    keys = ["name", "class", "contract", "family", "paper", "year", "map_axes", "growth", "deviations"]
    keys += ["aliases", "place"]
    assert all(list(entry) == keys for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", mechanisms)
def test_shows_all_about_one(name: str) -> None:
    result = regard("catalog", name)
    assert result.exit_code == 0
    mechanism = mechanisms[name]
    shown = " ".join(result.stdout.split())
    assert mechanism.__name__ in shown
    assert str(mechanism.paper.year) in shown
    for label in ("formula", "paper", "arguments", "shapes", "maps", "parameters", "growth", "deviations", "placement"):
        assert f"\n{label} " in result.stdout
    assert all(fact.label in shown for fact in mechanism.maps)


@pytest.mark.slow
@pytest.mark.parametrize("name", mechanisms)
def test_its_example_runs(name: str) -> None:
    line = example(mechanisms[name])
    assert line in regard("catalog", name).stdout
    scope: dict[str, object] = {}
    exec(line, scope)
    assert scope["output"] is not None


def test_one_as_json_is_a_list_of_one() -> None:
    entries = json.loads(regard("catalog", "se", "--json").stdout)
    assert [entry["name"] for entry in entries] == ["se"]


@pytest.mark.parametrize(
    ("asked", "name"), [("swin", "shifted_window"), ("CBAM", "cbam"), ("squeeze excitation", "se")]
)
def test_a_mechanism_is_shown_by_any_of_its_names(asked: str, name: str) -> None:
    result = regard("catalog", asked)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name}: ")
    shown = " ".join(result.stdout.split())
    assert f"also called {', '.join(mechanisms[name].aliases)}" in shown
    assert "default place branch" in shown
    assert [entry["name"] for entry in json.loads(regard("catalog", asked, "--json").stdout)] == [name]


def test_a_word_for_several_mechanisms_ends_with_one_line() -> None:
    result = regard("catalog", "psa")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: 'psa' is no one mechanism: choose among polarized (")
    assert result.stderr.count("\n") == 1


def test_an_unknown_name_ends_with_one_line() -> None:
    result = regard("catalog", "cbma")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: unknown mechanism 'cbma': did you mean 'cbam'?")
    assert result.stderr.count("\n") == 1


def test_help_and_version() -> None:
    assert "catalog" in regard("--help").stdout
    assert regard("--version").stdout.strip()
