"""What a person sees while a frozen network looks at pictures, and when it does."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from regard.experiment.display import Display
from regard.experiment.run import Run
from regard.experiment.settings import Settings
from regard.experiment.training import Budget, Progress, train
from regard.models.vqa import Recipe
from regard.tasks.vqa.source import Source
from regard.tasks.vqa.task import VisualQuestions
from small_photos import photos

SETTINGS = Settings(
    task="visual-questions", data=None, size=19, batch=4, epochs=2, minutes=None, device="cpu", precision="32-true",
    attention=("mlb",), seeds=1,
)  # fmt: skip

Moment = tuple[float, Progress]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, for what is tested alone."""
    now = [100.0]
    for module in ("display", "training"):
        monkeypatch.setattr(f"regard.experiment.{module}.time.perf_counter", lambda: now[0])
    return now


def looking(seconds: float, seen: int, pictures: int = 1_000) -> Moment:
    return seconds, Progress(seen=seen, pictures=pictures)


def shown(tmp_path: Path, clock: list[float], terminal: bool, *moments: Moment) -> str:
    """What stands there after the headline, without what moves the cursor."""
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, color_system=None, width=150)
    with Display(Run(tmp_path / "run", SETTINGS, True), console) as display:
        for seconds, progress in moments:
            clock[0] = 100 + seconds
            display.progress("mlb", 0, progress)
    return re.sub(r"\x1b\[[?\d]*\w", "", text.getvalue().partition("\n")[2])


def training(seconds: float, share: float, **told: Any) -> Moment:
    return seconds, Progress(share=float(share), **told)


def test_plain_lines_say_where_training_stands_at_most_every_ten_seconds(tmp_path: Path, clock: list[float]) -> None:
    found = shown(
        tmp_path, clock, False, training(0, 0), training(4, 0.2), training(9.7, 0.49), training(10, 0.5, loss=0.25),
        training(11, 0.55), training(19.7, 0.99), training(20, 0.999, loss=0.125, accuracy=0.75),
    )  # fmt: skip
    assert found.splitlines() == [
        "mlb: 50 %, loss 0.250, 10 s left",
        "mlb: 99 %, loss 0.125, validation 0.750, 1 s left",
    ]


def test_long_training_says_a_line_each_tenth_or_each_minute(tmp_path: Path, clock: list[float]) -> None:
    moments = [training(second, second / 1_000) for second in range(1_000)]  # a tenth in 100 seconds
    lines = shown(tmp_path, clock, False, *moments).splitlines()
    assert [line.split()[1] for line in lines[:4]] == ["6", "10", "16", "20"]
    assert len(lines) == 9 + 10
    short = [training(second, second / 300) for second in range(300)]  # a tenth in 30 seconds
    lines = shown(tmp_path, clock, False, *short).splitlines()
    assert [line.split()[1] for line in lines] == [f"{tenth}0" for tenth in range(1, 10)]


def test_variants_and_seeds_are_told_apart_and_a_resumed_one_begins_where_it_was(
    tmp_path: Path, clock: list[float]
) -> None:
    text = StringIO()
    run = Run(tmp_path / "run", replace(SETTINGS, seeds=2), True)
    with Display(run, Console(file=text, width=150)) as display:
        for seed, share, second in ((0, 0.0, 0), (0, 0.6, 12), (1, 0.57, 13), (1, 0.59, 30), (1, 0.61, 31)):
            clock[0] = 100 + second
            display.progress("mlb", seed, Progress(share=share))
    assert text.getvalue().splitlines()[1:] == ["mlb · seed 0: 60 %, 8 s left", "mlb · seed 1: 61 %, 3 min left"]


def test_a_terminal_gets_no_plain_lines(tmp_path: Path, clock: list[float]) -> None:
    found = shown(tmp_path, clock, True, training(0, 0), training(50, 0.5), training(90, 0.9))
    assert "mlb:" not in found


def test_plain_lines_say_how_long_a_network_still_looks(tmp_path: Path, clock: list[float]) -> None:
    found = shown(
        tmp_path, clock, False, looking(0, 10), looking(2, 30), looking(9, 100), looking(10, 110), looking(49, 990),
        (50, Progress()),
    )  # fmt: skip
    assert found.splitlines() == [
        "mlb: looking at 110 of 1,000 pictures, 89 s left",  # 100 in 10 seconds
        "mlb: looking at 990 of 1,000 pictures, 1 s left",
    ]


def test_many_pictures_take_minutes(tmp_path: Path, clock: list[float]) -> None:
    found = shown(tmp_path, clock, False, looking(0, 64, 82_783), looking(40, 11_764, 82_783))
    assert found == "mlb: looking at 11,764 of 82,783 pictures, 4 min left\n"  # 71,019 at 292.5 a second


def test_nothing_is_said_of_a_look_of_a_few_seconds(tmp_path: Path, clock: list[float]) -> None:
    assert shown(tmp_path, clock, False, looking(0, 10), looking(1, 500), looking(2.9, 1_000)) == ""
    assert "looking" not in shown(tmp_path, clock, True, looking(0, 10), looking(1, 500), looking(2.9, 1_000))


def test_on_a_terminal_it_is_the_line_of_the_variant_until_that_trains(tmp_path: Path, clock: list[float]) -> None:
    look = looking(0, 10), looking(4, 250)
    last = shown(tmp_path, clock, True, *look).rstrip().splitlines()[-1]
    assert "25%" in last
    assert "looking at 250 of 1,000 pictures" in last
    assert "12 s left" in last
    trains = Progress(share=0.5, loss=0.25), Progress(share=0.75, loss=0.125)  # gone on from the middle
    last = shown(tmp_path, clock, True, *look, (10, trains[0]), (20, trains[1])).rstrip().splitlines()[-1]
    assert "75%" in last
    assert "loss 0.125" in last
    assert "10 s left" in last
    assert "looking" not in last


@pytest.fixture
def task(tmp_path: Path) -> VisualQuestions:
    photos(tmp_path)
    frozen = Recipe(
        "mlb", image="convolutions", image_arguments={"widths": [5, 7], "frozen": True}, size=19, question="gru",
        question_arguments={"width": 11, "embedding_width": 3},
    )  # fmt: skip
    return VisualQuestions(Source(tmp_path / "questions.csv", tmp_path).read(), recipe=frozen, batch=5)


def test_a_frozen_network_looks_at_all_pictures_before_the_clock_of_training_runs(
    task: VisualQuestions, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.tasks.vqa.asked.Features", slow(clock))
    told: list[tuple[int, int, float]] = []

    def run(name: str) -> float:
        told.clear()
        return train(
            task, name, 0, Budget(epochs=1), tmp_path / name, "32-true", "cpu",
            lambda now: told.append((now.seen, now.pictures, now.share)),
        ).progress.seconds  # fmt: skip

    assert run("mlb") == 0
    assert [one[:2] for one in told] == [(9, 13), (10, 13), (13, 13), (13, 0), (13, 0)]
    assert clock == [100 + 3 * 1_000]
    assert run("concatenation") == 0
    assert [one[:2] for one in told] == [(0, 0), (0, 0)]  # nothing is looked at twice


def slow(clock: list[float]) -> Any:
    from regard.tasks.vqa.seeing import Features

    class Slow(Features):
        def _fill(self, *arguments: Any) -> None:
            clock[0] += 1_000
            super()._fill(*arguments)

    return Slow


def test_what_was_seen_in_other_numbers_is_seen_anew(task: VisualQuestions) -> None:
    model = task.model("mlb", 0)
    first = task.test.features(model)
    model.to(torch.float64)
    second = task.test.features(model)
    assert (first.dtype, second.dtype) == (torch.float32, torch.float64)
    assert second is task.test.features(model)


def test_what_could_not_be_ablated_is_printed_under_the_tables(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", SETTINGS, True)
    result = {
        "attention": "mlb", "seed": 0, "accuracy": {"overall": 0.5}, "interval": {"overall": [0.4, 0.6]},
        "pointing": None, "macs": 7, "parameters": 5, "train_seconds": 1.0,
        "ablations": {"removed": None, "left": {"removed": ["gate scale: its weights do not sum to one"]}},
    }  # fmt: skip
    run.finish("mlb", 0, result, [], [])
    text = StringIO()
    Display(run, Console(file=text, width=150)).finish()
    said = "Left out of the ablation 'removed' of mlb: gate scale (its weights do not sum to one)."
    assert said in text.getvalue().splitlines()
