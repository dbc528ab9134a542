"""Patterns name modules by the rules of a `.gitignore`."""

import pytest

from regard.paths import lies_in, matches, nearest


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("layer1.0.bn2", "layer1.*.bn2", True),
        ("layer1.0.x.bn2", "layer1.*.bn2", False),
        ("layer1.0.x.bn2", "layer1.**.bn2", True),
        ("layer1.bn2", "layer1.**.bn2", True),
        ("layer1.0.bn2", "bn?", True),
        ("layer1.0.bn2", "layer?", False),
        ("layer1.0", "layer1.**", True),
        ("layer1", "layer1.**", False),
        ("anything.at.all", "*", True),
        ("Layer1", "layer?", False),
    ],
)
def test_matches(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


def test_a_pattern_holds_what_lies_below_it() -> None:
    assert lies_in("layer1.0.bn2", "layer?")
    assert lies_in("a.layer1.0.bn2", "layer?")
    assert not lies_in("head.bn2", "layer?")


def test_nearest() -> None:
    assert nearest("layer1.bn1", ["layer1.0.bn1", "fc"])[0] == "layer1.0.bn1"
    assert nearest("zzz", ["a", "b", "c", "d"]) == ["a", "b", "c"]
