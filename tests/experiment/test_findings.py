"""What is said of results: each rule on numbers that were made up for it."""

from typing import Any

import pytest

from regard.experiment import findings
from regard.experiment.run import compared

KINDS = ("removed", "mean", "resampled")


def result(name: str, accuracy: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "attention": name, "seed": seed, "accuracy": {"overall": accuracy}, "parameters": 1_000,
        "interval": {"overall": [accuracy - 0.02, accuracy + 0.02]}, **more,
    }  # fmt: skip


def ablated(accuracy: float, removed: float, changed: float) -> dict[str, Any]:
    """Ablations of a model with this accuracy."""
    one = {"accuracy": removed, "difference": removed - accuracy, "interval": None, "changed": changed}
    return {"removed": one, "mean": None, "resampled": None}


def entry(name: str, difference: float, interval: tuple[float, float], p: float, **more: Any) -> dict[str, Any]:
    return {
        "attention": name, "reference": "none", "difference": difference, "interval": interval, "p": p,
        "adjusted_p": p, "differences": [difference] * 5, "paired_by": "seeds", **more,
    }  # fmt: skip


def say(
    results: list[dict[str, Any]], comparison: list[dict[str, Any]], task: str = "pictures", asked: int | None = None
) -> list[str]:
    table = findings.rows(results, comparison)
    return findings.sentences(task, table, findings.baselines(results), asked)


def test_worse_than_guessing_is_said_first() -> None:
    shortcuts = {"shortcuts": {"the most frequent class": {"overall": 0.4}}}
    results = [result("none", 0.3, **shortcuts), result("se", 0.41, **shortcuts), result("eca", 0.6, **shortcuts)]
    said = say(results, [])
    assert said[0] == (
        "Worse than guessing: none (30.0\N{NO-BREAK SPACE}%) of the test pictures right, against "
        "40.0\N{NO-BREAK SPACE}% for the most frequent class."
    )
    assert said[1].startswith("Not shown to be better than guessing (the most frequent class, 40.0")
    assert said[1].endswith(": se.")
    assert said[-1] == "Baseline: the most frequent class, 40.0\N{NO-BREAK SPACE}%."
    assert not any("guessing" in line for line in say([result("none", 0.6, **shortcuts)], []))


def test_one_model_alone_is_not_compared() -> None:
    (said,) = say([result("mcan", 0.5)], [], "visual-questions")
    assert said == "mcan gets 50.0\N{NO-BREAK SPACE}% (95 % interval 48.0 to 52.0) of the test questions right."
    (waiting,) = say([result("mcan", 0.5)], [], "visual-questions", asked=3)
    assert waiting.endswith("No other variant has finished yet.")
    assert say([], []) == ["No variant has finished yet, so there is nothing to compare."]


def test_a_difference_that_chance_can_make_is_no_finding() -> None:
    results = [result("none", 0.6), result("cbam", 0.6)]
    said = " ".join(say(results, [entry("cbam", 0.0, (-0.03, 0.03), 1.0)]))
    assert "No difference to no attention could be shown (cbam differs by 0.0 percentage points" in said
    assert "95 % interval \N{MINUS SIGN}3.0 to +3.0, 5 paired seeds, p = 1.000" in said
    assert "A difference below about 3.0 points could not be seen here." in said


def test_one_seed_says_what_its_sample_is() -> None:
    results = [result("none", 0.6), result("cbam", 0.63)]
    said = " ".join(say(results, [entry("cbam", 0.03, (-0.01, 0.07), 0.2, differences=[0.03], paired_by="items")]))
    assert "paired test items of one seed" in said
    assert "This is one seed" in said
    assert "--seeds 5" in said


def test_one_seed_is_said_of_those_alone_that_have_one() -> None:
    results = [*(result(name, 0.6, seed) for name in ("none", "se") for seed in range(5)), result("cbam", 0.63)]
    items = entry("cbam", 0.03, (-0.01, 0.07), 0.2, differences=[0.03], paired_by="items")
    said = [line for line in say(results, [entry("se", 0.0, (-0.03, 0.03), 1.0), items]) if "one seed, whose" in line]
    assert said == [
        "Of cbam this is one seed, whose intervals come from the test pictures alone: what another seed would change "
        "is not in them, and --seeds 5 would show it."
    ]


def both(removed: tuple[float, float, float], mean: tuple[float, float, float]) -> dict[str, Any]:
    """Removal and weights at their mean, each as a difference with its interval."""
    kinds = {
        kind: {"accuracy": 0.6 + middle, "difference": middle, "interval": [low, high], "changed": 0.2}
        for kind, (middle, low, high) in (("removed", removed), ("mean", mean))
    }
    return {**kinds, "resampled": None}


@pytest.mark.parametrize(
    ("removed", "mean", "is_fixed"),
    [
        ((-0.05, -0.07, -0.03), (0.0, -0.01, 0.01), True),
        ((0.05, 0.03, 0.07), (0.0, -0.01, 0.01), True),  # worse with it, but all the same fixed
        ((-0.05, -0.07, -0.03), (-0.04, -0.06, -0.02), False),  # what it computes from each picture is used
        ((-0.05, -0.07, -0.03), (-0.005, -0.009, -0.001), False),  # a little, but shown
        ((-0.05, -0.07, -0.03), (-0.03, -0.07, 0.01), False),  # not shown, but far from nothing
        ((-0.01, -0.03, 0.01), (0.0, -0.01, 0.01), False),  # removal is not shown to change anything
    ],
)
def test_attention_that_is_as_good_with_its_mean_weights_is_a_fixed_rescaling(
    removed: tuple[float, float, float], mean: tuple[float, float, float], is_fixed: bool
) -> None:
    results = [result("none", 0.6), result("cbam", 0.6, ablations=both(removed, mean))]
    said = [line for line in say(results, [entry("cbam", 0.0, (-0.03, 0.03), 1.0)]) if "fixed" in line]
    assert bool(said) == is_fixed
    if is_fixed and removed[0] < 0:
        assert said == [
            "Attention that acts as a fixed rescaling, not as attention to content: cbam. Removing it changes accuracy "
            "by \N{MINUS SIGN}5.0 percentage points, and replacing its weights by their mean over the test set by 0.0 "
            "percentage points: that they depend on the picture is not used."
        ]


def test_a_shown_difference_says_once_that_the_weights_are_fixed() -> None:
    ablations = both((-0.05, -0.07, -0.03), (0.0, -0.01, 0.01))
    results = [result("none", 0.6), result("cbam", 0.65, ablations=ablations)]
    said = say(results, [entry("cbam", 0.05, (0.03, 0.07), 0.004)])
    assert sum("at their mean" in line for line in said) == 1
    assert not any("fixed" in line for line in said)
    (alone,) = (line for line in say([result("mcan", 0.6, ablations=ablations)], [], "questions") if "fixed" in line)
    assert "acts as a fixed weighting" in alone
    assert "that they depend on the picture and question is not used" in alone


def test_what_could_not_be_ablated_is_listed_by_reason() -> None:
    why = "its weights do not sum to one"
    left = {"removed": [f"a{at} scale: {why}" for at in range(5)], "resampled": ["a batch holds a single item"]}
    results = [
        result("cbam", 0.6, seed, ablations={"removed": None, "left": found})
        for seed, found in enumerate((left, {"removed": ["a0 scale: " + why, "b map: it is fixed"]}))
    ]
    assert findings.not_ablated(findings.rows([result("none", 0.6), *results], [])) == [
        f"Left out of the ablation 'removed' of cbam: a0 scale, a1 scale, a2 scale and 2 more ({why}).",
        "Left out of the ablation 'removed' of cbam: b map (it is fixed).",
        "Left out of the ablation 'resampled' of cbam: all of it (a batch holds a single item).",
    ]


@pytest.mark.parametrize(
    ("difference", "removed", "changed", "says", "not_said"),
    [
        (0.05, 0.60, 0.21, "It goes with the attention: removing it changes 21.0", "does not come from"),
        (0.05, 0.65, 0.002, "The difference does not come from what the attention computes at test time", "goes with"),
        (0.05, 0.64, 0.15, "The difference does not come from", "goes with"),  # a fifth of it is undone
        (-0.05, 0.60, 0.21, "It goes with the attention", "does not come from"),
        (-0.05, 0.50, 0.21, "Removing what the attention computes at test time does not undo that", "goes with"),
    ],
)
def test_a_shown_difference_is_called_what_it_is(
    difference: float, removed: float, changed: float, says: str, not_said: str
) -> None:
    accuracy = 0.6 + difference
    results = [result("none", 0.6), result("cbam", accuracy, ablations=ablated(accuracy, removed, changed))]
    interval = (difference - 0.02, difference + 0.02)
    said = " ".join(say(results, [entry("cbam", difference, interval, 0.004)]))
    side = "above" if difference > 0 else "below"
    assert f"cbam is 5.0 percentage points {side} no attention (95 % interval" in said
    assert says in said
    assert not_said not in said
    assert ("hardly used: cbam" in said) == (changed < 0.01)


def test_without_an_ablation_nothing_is_said_of_the_cause() -> None:
    results = [result("none", 0.6), result("cbam", 0.65)]
    said = " ".join(say(results, [entry("cbam", 0.05, (0.03, 0.07), 0.004)]))
    assert "cbam is 5.0 percentage points above" in said
    assert "goes with" not in said
    assert "does not come" not in said


def test_many_comparisons_are_counted() -> None:
    """Differences that would each be shown alone: of twenty variants without an effect one has p < 0.05."""
    names = [f"a{number}" for number in range(20)]
    results = [result("none", 0.6, seed) for seed in range(3)]
    results += [result(name, 0.6 + 0.001 * at, seed) for at, name in enumerate(names) for seed in range(3)]
    comparison = [entry(name, 0.01, (0.001, 0.02), 0.03, adjusted_p=0.6) for name in names]
    said = " ".join(say(results, comparison))
    assert "No difference to no attention could be shown (largest: " in said
    assert "p = 0.600 adjusted for 20 comparisons" in said


def test_differences_beyond_three_are_left_to_the_table() -> None:
    names = [f"a{number}" for number in range(5)]
    results = [result("none", 0.6), *(result(name, 0.7) for name in names)]
    said = say(results, [entry(name, 0.1, (0.05, 0.15), 0.001) for name in names])
    assert sum("percentage points above" in line for line in said) == 3
    assert "Differences are shown of 2 more variants, see the table." in said


def test_cells_are_empty_where_there_is_nothing_to_measure() -> None:
    results = [
        result("none", 0.6, ablations=dict.fromkeys(KINDS), strength=None, milliseconds_ratio=1.0,
               milliseconds_ratio_quartiles=[1.0, 1.0]),
        result("cbam", 0.65, ablations=ablated(0.65, 0.6, 0.25), milliseconds_ratio=1.25,
               milliseconds_ratio_quartiles=[1.2, 1.31],
               strength={"mean": 0.02, "lowest": -0.03, "highest": 0.05}),
    ]  # fmt: skip
    none, cbam = (row.cells() for row in findings.rows(results, [entry("cbam", 0.05, (0.03, 0.07), 0.004)]))
    assert none == ["none", "0.600 ± 0.020", "", "", "", "", "", "", "× 1.00 (1.00 to 1.00)", "1,000"]
    assert cbam == [
        "cbam", "0.650 ± 0.020", "+5.0 (+3.0 to +7.0)", "0.600", "", "", "25.0\N{NO-BREAK SPACE}%",
        "0.020 (\N{MINUS SIGN}0.030 to 0.050)", "× 1.25 (1.20 to 1.31)", "1,000",
    ]  # fmt: skip
    assert len(none) == len(cbam) == len(findings.HEADINGS)


def test_seeds_are_averaged() -> None:
    results = [
        result("cbam", accuracy, seed, ablations=ablated(accuracy, accuracy - 0.1 * (seed + 1), 0.1 * (seed + 1)))
        for seed, accuracy in enumerate((0.6, 0.7))
    ]
    (row,) = findings.rows(results, [])
    assert row.accuracy == pytest.approx(0.65)
    removed = row.ablations["removed"]
    assert removed is not None
    assert (removed.accuracy, removed.difference, removed.changed) == pytest.approx((0.5, -0.15, 0.15))
    assert removed.interval is not None
    assert removed.interval[0] < -0.15 < removed.interval[1]


def test_results_of_an_older_version_have_rows_too() -> None:
    old = {"attention": "se", "seed": 0, "accuracy": {"overall": 0.5}}
    (row,) = findings.rows([old], [])
    assert row.cells()[:3] == ["se", "0.500", ""]
    assert findings.rows([{**old, "accuracy": {"overall": float("nan")}}], []) == []
    assert compared([old]) == []
