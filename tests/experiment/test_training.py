"""Broken off anywhere, training goes on as if it had not been."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from regard.errors import UserError
from regard.experiment.training import EVALUATIONS, Budget, Fit, Progress, train
from regard.tasks.digit_scenes import DigitScenes

EPOCHS = 4
TASK = DigitScenes(batches_per_epoch=2, test_scenes=20, batch=4)


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(
    checkpoint: Path,
    attention: str = "additive",
    epochs: int = EPOCHS,
    report: Callable[[Progress], None] | None = None,
) -> Fit:
    return train(TASK, attention, 1, Budget(epochs=epochs), checkpoint, "32-true", "cpu", report or (lambda _: None))


class Broken(Exception):
    pass


def breaking(epoch: int, error: type[BaseException], shares: list[float]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        shares.append(progress.share)
        if progress.epoch == epoch:
            raise error

    return report


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from regard.experiment.training import Budget, train
from regard.tasks.digit_scenes import DigitScenes
torch.set_num_threads(1)
def report(progress):
    if progress.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
train(DigitScenes(batches_per_epoch=2, test_scenes=20, batch=4), "additive", 1, Budget(epochs=4), Path(sys.argv[1]),
      "32-true", "cpu", report)
"""


def same(one: Fit, other: Fit) -> None:
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    for row, wanted in zip(one.curve, other.curve, strict=True):
        assert set(row) == set(wanted)
        for key, value in wanted.items():
            if key != "seconds":
                assert row[key] == pytest.approx(value, nan_ok=True), key


def test_trained_epochs_are_all_on_the_curve(tmp_path: Path) -> None:
    fit = run(tmp_path / "checkpoint.safetensors")
    assert [row["epoch"] for row in fit.curve] == list(range(1, EPOCHS + 1))
    assert [row["step"] for row in fit.curve] == [2 * epoch for epoch in range(1, EPOCHS + 1)]
    seconds = [row["seconds"] for row in fit.curve]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] <= fit.progress.seconds + 1e-3
    assert EPOCHS <= EVALUATIONS  # so that every epoch is evaluated


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["additive", "hard"])
def test_goes_on_as_if_never_broken_off(tmp_path: Path, attention: str) -> None:
    whole = run(tmp_path / "whole.safetensors", attention)
    broken = tmp_path / "broken.safetensors"
    with pytest.raises(Broken):
        run(broken, attention, report=breaking(2, Broken, []))
    assert broken.exists()
    epochs: list[int] = []
    went_on = run(broken, attention, report=lambda progress: epochs.append(progress.epoch))
    assert epochs == [2, 2, 3, 3]
    same(went_on, whole)


@pytest.mark.slow
def test_taken_up_again_it_knows_what_it_had_reached(tmp_path: Path) -> None:
    checkpoint, seen = tmp_path / "checkpoint.safetensors", []
    with pytest.raises(Broken):
        run(checkpoint, report=breaking(2, Broken, []))
    fit = run(checkpoint, report=lambda progress: seen.append(progress.accuracy))
    assert seen[0] == fit.curve[1]["accuracy_overall"]


@pytest.mark.slow
def test_another_models_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        run(tmp_path / "checkpoint.safetensors", report=breaking(1, Broken, []))
    with pytest.raises(UserError, match=r"checkpoint\.safetensors holds the training of another model.*--no-resume"):
        run(tmp_path / "checkpoint.safetensors", "find_then_move")


@pytest.mark.slow
def test_killed_it_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(checkpoint)], env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
    epochs: list[int] = []
    seconds: list[float] = []

    def report(progress: Progress) -> None:
        epochs.append(progress.epoch)
        seconds.append(progress.seconds)

    went_on = run(checkpoint, report=report)
    assert epochs == [2, 2, 3, 3]
    assert seconds[0] > 0, "the seconds of the epochs before the kill are forgotten"
    assert went_on.progress.seconds > seconds[0]
    same(went_on, run(tmp_path / "whole.safetensors"))


def test_every_batch_of_every_epoch_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = DigitScenes(batches_per_epoch=3, test_scenes=20, batch=4)
    seen: list[torch.Tensor] = []
    loss = task.loss

    def spied(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        seen.append(batch[0])
        return loss(model, batch)

    monkeypatch.setattr(task, "loss", spied)
    train(task, "none", 1, Budget(epochs=3), tmp_path / "c.safetensors", "32-true", "cpu", lambda _: None)
    wanted = [pictures for epoch in range(3) for pictures, _, _ in task.batches(1, epoch, epoch / 3)]
    assert len(seen) == len(wanted)
    assert all(torch.equal(one, other) for one, other in zip(seen, wanted, strict=True))


def test_seconds_of_both_epochs_before_the_break_count(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Broken):
        run(checkpoint, report=breaking(2, Broken, []))
    from regard.experiment.checkpoint import SafetensorsCheckpoints

    kept = SafetensorsCheckpoints().load_checkpoint(checkpoint)["regard"]
    assert [row["epoch"] for row in kept["curve"]] == [1, 2]
    assert kept["seconds"] >= kept["curve"][-1]["seconds"] - 1e-3 > 0


def test_broken_off_after_the_last_epoch_nothing_is_trained_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole = run(checkpoint)
    epochs: list[int] = []
    again = run(checkpoint, report=lambda progress: epochs.append(progress.epoch))
    assert epochs == []
    same(again, whole)
    assert again.progress.seconds == pytest.approx(whole.progress.seconds)


def test_ctrl_c_reaches_the_caller_and_the_checkpoint_stands(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, report=breaking(1, KeyboardInterrupt, []))
    epochs: list[int] = []
    run(checkpoint, report=lambda progress: epochs.append(progress.epoch))
    assert epochs == [1, 1, 2, 2, 3, 3]


def test_minutes_end_training_too_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(1)
    monkeypatch.setattr("regard.experiment.training.time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    shares: list[float] = []
    task, budget = DigitScenes(batches_per_epoch=1_000, test_scenes=20, batch=4), Budget(minutes=11 / 60)

    def within_minutes() -> Fit:
        return train(
            task, "none", 0, budget, tmp_path / "c.safetensors", "32-true", "cpu",
            lambda progress: shares.append(progress.share),
        )  # fmt: skip

    fit = within_minutes()
    # A look at the clock takes a second here; the first one is when the epoch begins.
    assert shares == pytest.approx([second / 11 for second in range(1, 11)])
    assert fit.curve[-1]["step"] == 10
    assert fit.progress.seconds >= 11
    again = within_minutes()
    assert len(shares) == 10
    same(again, fit)


def test_budget() -> None:
    assert Budget(epochs=4).progress(1, 5, 10, 99.0) == pytest.approx(0.375)
    assert Budget(epochs=4).progress(4, 0, 1, 0.0) == 1
    assert Budget(minutes=2.0).progress(9, 0, 1, 30.0) == pytest.approx(0.25)
    assert Budget(minutes=2.0).progress(0, 0, 1, 500.0) == 1
