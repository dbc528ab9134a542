"""Classes and numbers: how they are told apart, measured, voted on; and the fusions that give numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score

from regard.errors import UserError
from regard.models.fusion import Classes, Number, Predictor, Vote, fit, fusions, outcome
from regard.models.fusion.outcome import bootstrapped, form_of, wilson

ROWS = 60


def table(seed: int = 0) -> dict[str, list[Any]]:
    """A price that the word and the size tell together, far from zero and in a large unit."""
    random = np.random.default_rng(seed)
    glad, size = random.integers(0, 2, ROWS), random.normal(size=ROWS)
    return {
        "word": [("sad", "glad")[one] for one in glad],
        "size": size.tolist(),
        "price": (5000.5 + 300 * glad + 100 * size).tolist(),
    }


def quick(columns: Any, **options: Any) -> Predictor:
    given = {"width": 8, "epochs": 2, "batch": 8, "say": lambda line: None}
    return fit(columns, "price", {"word": "text", "size": "number"}, **{**given, **options})


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        ([1.5, 2.0, None], None, Number),
        (list(range(21)), None, Number),
        (list(range(20)), None, Classes),
        ([1.0, 0.0], None, Classes),
        ([True, False], None, Classes),
        (["a", "b"], None, Classes),
        (list(range(99)), "classification", Classes),
        ([0, 1], "regression", Number),
        (["1.5", "2"], "regression", Number),
    ],
)
def test_classes_and_numbers_are_told_apart(values: list[Any], task: str | None, expected: type) -> None:
    assert form_of("price", values, task) is expected


def test_what_is_neither_is_refused() -> None:
    for values, task, message in (
        ([1.0, None, 1.0], None, "has 1 distinct value"),
        (["a", 3], None, "holds int, str"),
        ([1, 2], "guessing", "choose one of classification, regression"),
    ):
        with pytest.raises(UserError, match=message):
            form_of("price", values, task)


def test_a_number_is_standardised_by_what_is_trained_on_and_given_in_its_unit() -> None:
    outcome = Number.learn([], [3.0, 7.0, 14.0])
    expected = (np.array([3.0, 8.0]) - 8) / np.std([3.0, 7.0, 14.0])
    np.testing.assert_allclose(outcome.target("price", [3, 8.0]).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(outcome.decode(torch.tensor(expected)[:, None]), [3.0, 8.0], rtol=1e-6)
    again = Number(**outcome.as_json())
    assert (again.mean, again.deviation) == (outcome.mean, outcome.deviation)
    with pytest.raises(UserError, match=r"row 1 .*, column 'price': holds 'dear', expected a number"):
        outcome.target("price", [2.0, "dear"])
    with pytest.raises(UserError, match="expected a finite number"):
        outcome.target("price", [np.inf])


def test_numbers_are_reported_in_the_unit_of_the_column() -> None:
    random = np.random.default_rng(3)
    truth = 40 + 7 * random.normal(size=101)
    found = truth + 2 * random.normal(size=101)
    outcome = Number(41.0, 6.0)
    target = outcome.target("price", truth.tolist())
    report = outcome.report(((torch.tensor(found) - 41) / 6)[:, None], target)
    assert report["r_squared"] == pytest.approx(r2_score(truth, found), abs=1e-6)
    assert report["mean_absolute_error"] == pytest.approx(mean_absolute_error(truth, found), rel=1e-5)
    assert report["mean_alone"] == pytest.approx(np.abs(truth - 41).mean(), rel=1e-5)
    assert report["rows"] == 101
    for measure, interval in (("r_squared", "interval"), ("mean_absolute_error", "error_interval")):
        low, high = report[interval]
        assert low < report[measure] < high
    constant = outcome.report(torch.zeros(3, 1), torch.ones(3))
    assert np.isnan(constant["r_squared"])


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = torch.from_numpy(np.random.default_rng(1).normal(size=401))
    low, high = bootstrapped(lambda rows: values[rows].mean(-1), 401)
    half = 1.96 * float(values.std()) / 401**0.5
    assert low == pytest.approx(float(values.mean()) - half, abs=0.1 * half)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.1 * half)


def test_the_interval_of_a_share_is_wilsons() -> None:
    from scipy.stats import binomtest

    for right, count in ((0, 7), (5, 11), (13, 13)):
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_vote_on_a_number_is_the_weighted_mean_of_those_that_are_there() -> None:
    fusion = Vote({"a": 3, "b": 5, "c": 2}, Number(), 4).eval()
    fusion.votes.copy_(torch.tensor([0.5, -1.0, 2.0]))
    tokens = {"a": torch.randn(2, 3), "b": torch.randn(2, 5), "c": torch.randn(2, 2)}
    there = torch.tensor([[True, True, True], [True, False, True]])
    with torch.no_grad():
        said, _ = fusion.decide(fusion.clean(tokens))
        answer = fusion(tokens, None, dict(zip(tokens, there.T, strict=True)))
    for row in range(2):
        weights = np.exp([0.5, -1.0, 2.0]) * there[row].numpy()
        assert float(answer[row, 0]) == pytest.approx(
            (weights * said[row, :, 0].numpy()).sum() / weights.sum(), rel=1e-5
        )


def test_the_weights_of_a_vote_on_a_number_make_the_squared_error_smallest() -> None:
    from regard.models.fusion.contract import Example

    fusion = Vote({"a": 1, "b": 1}, Number(), 4)
    target = torch.randn(400)
    said = torch.stack((target + 0.5 * torch.randn(400), target + torch.randn(400)), 1)
    fusion.decide = lambda modalities: (said[..., None], torch.ones(400, 2, dtype=torch.bool))  # type: ignore
    fusion.settle(lambda: [Example(target, {"a": torch.zeros(400, 1), "b": torch.zeros(400, 1)}, {}, {})])
    a, b = (said - target[:, None]).T
    best = float((b * (b - a)).mean() / (a - b).square().mean())  # of w a + (1 - w) b
    assert float(fusion.weights[0]) == pytest.approx(best, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", fusions)
def test_every_fusion_learns_to_give_a_number(name: str) -> None:
    torch.manual_seed(0)
    fusion = fusions[name]({"a": 7, "b": 5}, Number(), 8)
    tokens = {"a": torch.randn(32, 3, 7), "b": torch.randn(32, 5)}
    target = tokens["a"][..., 1].mean(1) + tokens["b"][:, 0]
    assert fusion(tokens).shape == (32, 1)
    before = fusion.loss(target, tokens).item()
    optimizer = torch.optim.Adam(fusion.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        fusion.loss(target, tokens).backward()
        optimizer.step()
    assert fusion.loss(target, tokens).item() < 0.7 * before


def test_a_number_is_predicted_from_a_table_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    columns = table()
    fitted = quick(columns, epochs=40, learning_rate=1e-2, say=said.append)
    assert said[0] == "target: price (regression)"
    assert any("r squared" in line for line in said)
    other = table(1)
    found = fitted.predict(other)
    report = fitted.evaluate(other)
    assert report["r_squared"] == pytest.approx(r2_score(other["price"], found), abs=1e-4)
    assert report["r_squared"] > 0.8
    assert report["mean_absolute_error"] < 0.5 * report["mean_alone"]
    assert fitted.robustness(other, levels=(0.0,)).curve("word", "dropped")[0.0] == pytest.approx(report["r_squared"])
    again = Predictor.load(fitted.save(tmp_path / "kept"))
    assert again.predict(other) == found
    assert isinstance(again.outcome, Number)
    with pytest.raises(UserError, match="'price' is predicted as a number, which has no probability"):
        again.predict_proba(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", fusions)
def test_every_fusion_predicts_numbers_from_a_table(name: str) -> None:
    fitted = quick(table(), fusion=name, epochs=1)
    found = fitted.predict(table(1))
    assert np.isfinite(found).all()
    assert 4000 < np.mean(found) < 6500


def test_rows_whose_number_cannot_be_read_are_named_or_left_out() -> None:
    columns = table()
    columns["price"] = [*map(str, columns["price"][:-1]), "dear"]
    with pytest.raises(UserError, match=r"row 59 .*, column 'price': holds 'dear', expected a number.*skip_bad=True"):
        quick(columns, task="regression")
    said: list[str] = []
    quick(columns, task="regression", skip_bad=True, epochs=1, say=said.append)
    assert any(line.startswith("left out 1 rows: row 59") for line in said)


def test_a_class_of_rows_that_are_not_trained_on_is_one_that_can_be_said() -> None:
    columns = {**table(), "price": ["dear", *(("cheap", "fair")[row % 2] for row in range(1, ROWS))]}
    fitted = quick(columns, rows=range(1, ROWS), epochs=1)
    assert fitted.predict_proba(columns).shape == (ROWS, 3)
    assert fitted.evaluate({name: values[:1] for name, values in columns.items()})["rows"] == 1


def test_an_interval_of_many_rows_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(13).double()
    whole = outcome.bootstrapped(lambda rows: values[rows].mean(-1), 13)
    monkeypatch.setattr(outcome, "DRAWN", 100)
    sizes: list[int] = []

    def mean(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return values[rows].mean(-1)

    assert outcome.bootstrapped(mean, 13) == pytest.approx(whole)
    assert sizes == [7] * 142 + [6]
