"""Files that are always whole, checkpoints, and how sure a number is."""

import errno
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from regard import files
from regard.errors import UserError
from regard.experiment.checkpoint import SafetensorsCheckpoints
from regard.experiment.statistics import (
    holm,
    mean_interval,
    paired_interval,
    paired_item_p,
    paired_p,
    share_interval,
)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_replaces_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    files.write_text(path, "one")
    files.write_text(path, "zwei · 二")
    assert path.read_text(encoding="utf-8") == "zwei · 二"
    assert list(path.parent.iterdir()) == [path]
    files.write_json(path, {"a": [1, None, "é"]})
    assert files.read_json(path) == {"a": [1, None, "é"]}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("x"), OSError(errno.EACCES, "n")]
)
def test_a_failed_write_leaves_what_stood_there(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def fill(partial: Path) -> None:
        partial.write_text("half")
        raise error

    with pytest.raises(UserError if isinstance(error, OSError) else RuntimeError):
        files.write(path, fill)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    for broken in ("regard.files.os.replace", "pathlib.Path.write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full_disk)
            with pytest.raises(UserError, match="the disk is full") as error:
                files.write_json(path, [1])
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_safetensors_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Safetensors reports it as an error of its own, not as an OSError."""
    from safetensors import SafetensorError

    def save_file(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", save_file)
    with pytest.raises(UserError, match="the disk is full"):
        SafetensorsCheckpoints().save_checkpoint({"a": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(UserError, match="the disk is full"):
        files.save_weights(torch.nn.Linear(2, 2), tmp_path / "w", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    def fill(partial: Path) -> None:
        partial.write_text("half")
        with open("/dev/full", "w") as full:
            full.write("x")

    with pytest.raises(UserError, match="the disk is full"):
        files.write(tmp_path / "file", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        files.write_text(tmp_path / "file", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_broken_json_file_is_told_by_name(tmp_path: Path) -> None:
    for content in (b"{", b"\xff\xfe", b""):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json cannot be read"):
            files.read_json(tmp_path / "a.json")


def alike(one: Any, other: Any) -> None:
    if isinstance(other, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(other, dict):
        assert list(one) == list(other)
        for key in other:
            alike(one[key], other[key])
    elif isinstance(other, (list, tuple)):
        assert isinstance(one, list)
        for a, b in zip(one, other, strict=True):
            alike(a, b)
    else:
        assert type(one) is type(other)
        assert one == other or (math.isnan(one) and math.isnan(other))


def test_checkpoints_round_trip(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    checkpoint = {
        "state": {0: {"step": torch.tensor(3.0), "exp": weight.t()}, 17: {"x": None}},
        "list": [1, 2.5, True, None, "text · é", [], {}],
        "tuple": (0.9, 0.999),
        "floats": [0.1 + 0.2, 1e-300, math.inf, math.nan, -0.0],
        "kinds": [torch.zeros(0), torch.tensor(True), torch.arange(3), torch.randn(2).bfloat16(), weight[:, 1]],
        "shared": [weight, weight],
        "empty": {},
        "big": 2**60,
    }
    path = tmp_path / "c.safetensors"
    SafetensorsCheckpoints().save_checkpoint(checkpoint, path)
    alike(SafetensorsCheckpoints().load_checkpoint(path), checkpoint)
    assert list(tmp_path.iterdir()) == [path]
    SafetensorsCheckpoints().remove_checkpoint(path)
    SafetensorsCheckpoints().remove_checkpoint(path)
    assert not path.exists()


def test_an_optimizer_round_trips(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    SafetensorsCheckpoints().save_checkpoint({"optimizer": optimizer.state_dict()}, tmp_path / "c")
    other = torch.optim.AdamW(layer.parameters())
    other.load_state_dict(SafetensorsCheckpoints().load_checkpoint(tmp_path / "c")["optimizer"])
    alike(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_what_no_checkpoint_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex"):
        SafetensorsCheckpoints().save_checkpoint({"a": 1j}, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_checkpoint_is_told_by_path(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    SafetensorsCheckpoints().save_checkpoint({"a": torch.randn(50)}, path)
    whole = path.read_bytes()
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    for content in (b"", b"nonsense", whole[:-40], whole[:20], b"\xff" * 100, (tmp_path / "foreign").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"c\.safetensors cannot be read"):
            SafetensorsCheckpoints().load_checkpoint(path)


def test_weights_are_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    layer = torch.nn.Linear(3, 2)
    files.save_weights(layer, tmp_path / "m.safetensors", {"attention": "none"})
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert file.metadata() == {"attention": "none"}
        assert torch.equal(file.get_tensor("weight"), layer.weight)


def wilson(right: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """By the two roots of (p - share)^2 = z^2 p (1 - p) / n."""
    share = right / n
    a, b, c = 1 + z * z / n, -(2 * share + z * z / n), share * share
    root = math.sqrt(b * b - 4 * a * c)
    return max(0.0, (-b - root) / (2 * a)), min(1.0, (-b + root) / (2 * a))


@pytest.mark.parametrize(("right", "n"), [(9, 10), (0, 10), (10, 10), (1, 1), (50, 100), (997, 1000)])
def test_wilson_of_independent_outcomes(right: int, n: int) -> None:
    correct = np.arange(n) < right
    low, high = share_interval(correct, np.arange(n))
    # The factor n / (n - 1) of a variance estimated from n groups widens it by that little.
    n_used = n if right in (0, n) else n - 1
    assert (low, high) == pytest.approx(wilson(right / n * n_used, n_used), abs=1e-9)
    assert 0 <= low <= right / n + 1e-12
    assert right / n - 1e-12 <= high <= 1
    if n >= 100:
        assert (low, high) == pytest.approx(wilson(right, n), abs=1e-3)


def test_outcomes_that_fall_together_count_once_a_group() -> None:
    groups = np.repeat(np.arange(40), 6)
    correct = (groups % 4) > 0
    low, high = share_interval(correct, groups)
    assert (low, high) == pytest.approx(wilson(30 / 40 * 39, 39), abs=1e-9)
    assert (low, high) == pytest.approx(wilson(30, 40), abs=0.01)


def test_groups_that_differ_less_than_chance_make_nothing_surer() -> None:
    groups = np.repeat(np.arange(50), 2)
    correct = np.tile([True, False], 50)
    assert share_interval(correct, groups) == pytest.approx(wilson(50, 100), abs=1e-9)


def test_names_of_groups_do_not_matter() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 9, 60)
    correct = random.random(60) < 0.7
    order = random.permutation(60)
    assert share_interval(correct, groups) == share_interval(correct[order], 1000 - 7 * groups[order])


def test_against_a_bootstrap_over_groups() -> None:
    random = np.random.default_rng(1)
    chances = random.beta(4, 2, 150)
    outcomes = random.random((150, 6)) < chances[:, None]
    low, high = share_interval(outcomes.ravel(), np.repeat(np.arange(150), 6))
    means = [outcomes[random.integers(0, 150, 150)].mean() for _ in range(2000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.008)


def test_outcomes_in_between_are_no_surer_than_right_and_wrong_ones() -> None:
    random = np.random.default_rng(2)
    scores = random.choice([0, 0.3, 0.6, 0.9, 1.0], 400, p=[0.2, 0.2, 0.1, 0.2, 0.3])
    low, high = share_interval(scores, np.arange(400))
    assert (low, high) == pytest.approx(wilson(scores.sum(), 400))
    means = [random.choice(scores, 400).mean() for _ in range(1000)]
    assert low < np.quantile(means, 0.025) < np.quantile(means, 0.975) < high
    assert share_interval(np.full(50, 0.3), np.arange(50)) == pytest.approx(wilson(15, 50))


def test_outcomes_in_between_that_fall_together_count_once_a_group() -> None:
    scores = np.random.default_rng(3).choice([0.0, 0.9], 100)
    low, high = share_interval(np.repeat(scores, 5), np.repeat(np.arange(100), 5))
    share = scores.mean()
    n = share * (1 - share) / (scores.var(ddof=1) / 100)  # right and wrong outcomes that vary as these do
    assert (low, high) == pytest.approx(wilson(n * share, n))


def test_mean_interval_and_paired_p_are_scipys() -> None:
    differences = [0.01, 0.03, -0.005, 0.02]
    mean, error = np.mean(differences), stats.sem(differences)
    assert mean_interval(differences) == pytest.approx(stats.t.interval(0.95, 3, mean, error))
    assert mean_interval(differences, 0.8) == pytest.approx(stats.t.interval(0.8, 3, mean, error))
    other = np.array([0.9, 0.8, 0.85, 0.7])
    assert paired_p(differences) == pytest.approx(float(stats.ttest_rel(other + differences, other).pvalue))
    assert mean_interval([0.1]) is None
    assert paired_p([0.1]) is None
    assert paired_p([0.02, 0.02, 0.02]) is None
    assert mean_interval([0.02, 0.02]) is None
    # One picture of 63 more in both seeds: equal, but for rounding, which is no spread.
    rounded = [36 / 63 - 35 / 63, 37 / 63 - 36 / 63]
    assert (mean_interval(rounded), paired_p(rounded)) == (None, None)


def test_a_paired_interval_is_agresti_and_mins_where_each_item_is_alone() -> None:
    """Of 63 pictures 7 are right under the first model alone and 2 under the second alone."""
    differences = np.array([1.0] * 7 + [-1.0] * 2 + [0.0] * 54)
    b, c, n = 7 + 0.5, 2 + 0.5, 63 + 2
    mean, error = (b - c) / n, np.sqrt(b + c - (b - c) ** 2 / n) / n
    low, high = paired_interval(differences, np.arange(63))
    t = stats.t.ppf(0.975, 62)
    assert (low, high) == pytest.approx((mean - t * error, mean + t * error), abs=2e-3)


def test_a_paired_interval_has_a_width_where_nothing_differs() -> None:
    low, high = paired_interval(np.zeros(63), np.arange(63))
    assert -0.05 < low < -0.02
    assert high == pytest.approx(-low)
    assert paired_item_p(np.zeros(63), np.arange(63)) == 1.0


def test_questions_about_one_picture_count_as_one() -> None:
    differences, groups = np.repeat([1.0, -1.0, 0.0, 0.0, 1.0] * 10, 8), np.repeat(np.arange(50), 8)
    together = paired_interval(differences, groups)
    apart = paired_interval(differences, np.arange(400))
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])
    assert paired_item_p(differences, groups) == pytest.approx(stats.binomtest(20, 30).pvalue)


def test_mcnemars_test_and_the_test_of_signs() -> None:
    differences = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 20)
    assert paired_item_p(differences, np.arange(31)) == pytest.approx(stats.binomtest(9, 11).pvalue)
    random = np.random.default_rng(0)
    scores = random.normal(0.3, 1, 60)
    found = paired_item_p(scores, np.arange(60))
    theirs = stats.permutation_test((scores,), np.mean, permutation_type="samples", random_state=1).pvalue
    assert found == pytest.approx(theirs, abs=0.01)


def test_holm_is_the_published_procedure() -> None:
    """The example of the R manual's p.adjust: sorted p-values times 4, 3, 2 and 1, never falling."""
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.01, None, 0.5, 0.9]) == [pytest.approx(0.03), None, 1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []
