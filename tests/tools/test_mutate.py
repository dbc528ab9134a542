"""Each operator makes exactly the defect that it stands for, and a defect that a test can see is reported as caught."""

from pathlib import Path

import pytest

from defects import DEFECTS, mutants
from mutate import Project, examine, passed, sample, summary

CLASS = """class Gate:
    def __init__(self, width, scale):
        {made}
    def forward(self, x, y, mask):
        return {given}
"""
MADE = "self.gain = nn.Parameter(zeros)"


def changes(defect, text):
    return [mutant.text for mutant in mutants(text, [defect])]


@pytest.mark.parametrize(
    ("defect", "before", "after"),
    [
        ("other_axis", "x.softmax(-1)", ["x.softmax(-2)"]),
        ("other_axis", "x.mean(dim=2)", ["x.mean(dim=1)"]),
        ("other_axis", "masked_softmax(x, mask)", ["masked_softmax(x, mask, dim=-2)"]),
        ("missing_transpose", "(x + y).transpose(1, 2)", ["(x + y)"]),
        ("missing_transpose", "x.mT @ y", ["x @ y"]),
        ("fixed_size", "y.view(x.shape[2:])", ["y.view((14, 14))"]),
        ("inverted_mask", "x.masked_fill(~mask, 0)", ["x.masked_fill(mask, 0)"]),
        ("inverted_mask", "f(x, mask)", ["f(x, None if mask is None else ~mask)"]),
        ("inverted_mask", "None if mask is None else mask.any(1)", ["None if mask is None else ~mask.any(1)"]),
        ("ignored_mask", "f(x, mask=mask)", ["f(x, mask=None)"]),
        ("ignored_mask", "x.masked_fill(~mask, 0)", ["x"]),
        ("late_mask", "masked_softmax(x, mask)", ["(masked_softmax(x, None) * (1 if mask is None else mask))"]),
        ("late_mask", "x.masked_fill(~mask, low).softmax(1)", ["x.softmax(1).masked_fill(~mask, 0.0)"]),
        ("detached_parameter", "x * self.gain", ["x * self.gain.detach()"]),
        ("changed_constant", "x + 0.5", ["x + 1.0"]),
        ("changed_constant", "x / (y + 1e-5)", ["x / (y + 0.0)"]),
        ("dropped_branch", "f(x) + f(y)", ["f(x)", "f(y)"]),
        ("dropped_branch", "f(x) * (a - z)", ["f(x)", "(a - z)", "f(x) * (a)"]),
        ("missing_residual", "x + f(y)", ["f(y)"]),
        ("missing_scale", "f(x) * scale", ["f(x) * 1"]),
        ("missing_scale", "f(x) * len(y) ** -0.5", ["f(x) * 1.0"]),
        ("flipped_sign", "(α + y) * (1 - x)", ["(α - y) * (1 - x)", "(α + y) * (1 + x)"]),
        ("swapped_gate", "f(x).sigmoid()", ["f(x).relu()", "f(x).tanh()"]),
        ("swapped_gate", "F.relu(x)", ["(x)"]),
        ("missing_softmax", "x.softmax(-1) @ y", ["x @ y"]),
        ("other_pooling", "x.amax(1)", ["x.mean(1)"]),
        ("other_pooling", "F.adaptive_avg_pool2d(x, 1)", ["F.adaptive_max_pool2d(x, 1)"]),
        ("ignored_argument", "x if y else z", ["x", "z"]),
        ("written_into_input", "x * f(y)", ["x.mul_(f(y))"]),
    ],
)
def test_an_expression_of_a_forward_is_broken(defect, before, after):
    found = changes(defect, CLASS.format(made=MADE, given=before))
    assert sorted(found) == sorted(CLASS.format(made=MADE, given=given) for given in after)


@pytest.mark.parametrize(
    ("defect", "before", "after"),
    [
        ("unregistered", "self.layers = nn.ModuleList([a, b])", "self.layers = list([a, b])"),
        ("unregistered", "self.gain = nn.Parameter(zeros)", "self.gain = zeros"),
        ("unregistered", "self.register_buffer('n', zeros)", "self.n = zeros"),
        ("other_bias", "self.mix = nn.Linear(1, 2)", "self.mix = nn.Linear(1, 2, bias=False)"),
        ("other_bias", "self.mix = nn.Conv2d(1, 2, 3, bias=False)", "self.mix = nn.Conv2d(1, 2, 3, bias=True)"),
        ("changed_constant", "self.mix = nn.Conv2d(1, 2, 3, dilation=4)", "self.mix = nn.Conv2d(1, 2, 3, dilation=5)"),
    ],
)
def test_a_constructor_is_broken(defect, before, after):
    assert changes(defect, CLASS.format(made=before, given="x")) == [CLASS.format(made=after, given="x")]


def test_every_defect_is_explained():
    assert all(find.__doc__ for find in DEFECTS.values())


def test_messages_types_and_what_stays_the_same_are_no_mutants():
    text = 'def f(x: "a + b") -> "c + d":\n    """e + f"""\n    raise ValueError(f"{x + 1}" + "y")\n'
    assert mutants(text) == []


def test_a_sample_is_the_same_each_time_and_has_many_defects():
    found = mutants(CLASS.format(made=MADE, given="(x + f(y).sigmoid() * 0.5).softmax(-1).transpose(1, 2)"))
    chosen = sample(found, 5, "gate")
    assert chosen == sample(found, 5, "gate")
    assert len({mutant.defect for mutant in chosen}) == 5


GATE = """class Gate:
    name: ClassVar[str] = "gate"

    def forward(self, x: float) -> float:
        return x + max(x, 0) * 0.5
"""
TESTS = """from regard.attention.channel.gate import Gate

def test_gate():
    assert Gate().forward({value}) == {expected}
"""


def project(folder: Path, value: float, expected: float) -> Path:
    source, tests = folder / "src/regard/attention/channel", folder / "tests/attention"
    for made in (source, tests, source.parents[1] / "functional"):
        made.mkdir(parents=True)
    for package in (source, source.parent, source.parents[1]):
        package.joinpath("__init__.py").touch()
    source.joinpath("gate.py").write_text("from typing import ClassVar\n\n\n" + GATE)
    tests.joinpath("test_gate.py").write_text(TESTS.format(value=value, expected=expected))
    return folder


@pytest.mark.slow
def test_an_obvious_defect_is_caught(tmp_path):
    root = project(tmp_path, 2.0, 3.0)
    (result,) = examine(root, Project(root).targets(), jobs=1, count=2, limit=30, forking=False)
    assert (len(result.caught), result.survived, result.remark) == (2, [], "")
    assert passed([result])
    assert summary([result]).endswith("2 / 2 caught")


@pytest.mark.slow
def test_what_no_test_sees_survives_and_is_named(tmp_path, capsys):
    root = project(tmp_path, 0.0, 0.0)
    before = (root / "src/regard/attention/channel/gate.py").read_text()
    (result,) = examine(root, Project(root).targets(), jobs=1, count=2, limit=30, forking=False)
    assert len(result.survived) == 2
    assert not passed([result])
    assert "src/regard/attention/channel/gate.py:8" in summary([result])
    assert (root / "src/regard/attention/channel/gate.py").read_text() == before
