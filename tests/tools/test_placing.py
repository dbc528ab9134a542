"""What holds for a model is told, what does not is told with its reason, and the table keeps both."""

import pytest
import torch
from torch import Tensor, nn

import placing
from placing import Report, Trial, distance, examine, holds, learn, page, row, rows, versions_of
from regard.placing import insert, inserted
from regard.running import inputs_of
from zoo import sequential
from zoo_inputs import image


class Residual(nn.Module):
    def __init__(self, channels: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).tanh()


class Changing(nn.Sequential):
    """Gives another output each time."""

    def forward(self, input: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(input) * self.calls


class Unused(nn.Module):
    """Runs its blocks and gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(), Residual())
        self.other = nn.Conv2d(7, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.blocks(x)
        return self.other(x)


def residual(kind: type[nn.Sequential] = nn.Sequential) -> nn.Module:
    torch.manual_seed(0)
    return kind(nn.Conv2d(3, 7, 1), Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 2))


INPUT = (2, 3, 5, 5)


def test_all_holds_of_a_residual_network():
    report = examine(residual(), INPUT)
    assert report.given == "2×3×5×5"
    assert report.problems == []
    assert report.trials["block"].places == 2
    assert report.trials["block"].reached > 0.3
    assert holds(row("a/b", report))


def test_all_holds_of_the_networks_that_people_write():
    report = examine(sequential(), (2, 3, 16, 16))
    assert report.problems == []
    assert report.trials.keys() >= {"block", "pool"}


def test_a_model_that_gives_another_output_each_time_is_not_tried():
    report = examine(residual(Changing), INPUT)
    assert report.problems == ["the plain model gives another output each time"]
    assert not holds(row("a/b", report))


def test_places_that_no_output_comes_from_are_reported_with_the_reason():
    torch.manual_seed(0)
    report = examine(Unused(), (2, 7, 5, 5))
    assert report.problems
    assert all("no output" in problem or "no place" in problem for problem in report.problems), report.problems


def test_a_model_that_cannot_run_is_reported_with_its_error():
    report = examine(nn.Linear(3, 7), (2, 5))
    assert report.problem.startswith("RuntimeError: ")
    assert "(2x5 and 3x7)" in report.problem


def test_attention_that_moves_the_output_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placing, "insert", lambda *given, **named: insert(*given, **named, start="paper"))
    assert "block: right after: the output moves by" in examine(residual(), INPUT).problems[0]


def test_a_trace_that_is_left_is_told(monkeypatch: pytest.MonkeyPatch):
    def remove(model: nn.Module) -> None:
        placing_remove(model)
        model.left = 1

    placing_remove = placing.remove
    monkeypatch.setattr(placing, "remove", remove)
    assert "taken out: the model has other attributes than before" in examine(residual(), INPUT).problems[0]


def test_two_steps_change_the_new_parameters_and_no_others():
    model = residual()
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    insert(model, "se", at="block", example=INPUT)
    new = [value for placed in inserted(model).values() for value in placed.parameters()]
    fresh = [value.clone() for value in new]
    assert 0 < learn(model, inputs_of(model, INPUT), training=False) <= 1
    assert not all(map(torch.equal, fresh, new))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.items())


def test_a_distance_is_a_share_of_the_largest_value():
    assert distance([torch.tensor([2.0, -8.0])], [torch.tensor([2.0, -6.0])]) == 0.25
    assert distance([image(2, 3)], [image(3, 2)]) == float("inf")
    assert distance([torch.tensor([float("nan")])], [torch.zeros(1)]) == float("inf")


def test_the_table_is_read_back_as_it_was_written():
    good = Report("2×3", {"block": 5}, {"block": Trial(5, 0.5)})
    bad = Report("2×3", {"block": 5}, {"block": Trial(5, problem="the output moves | far")})
    lines = {"b/x": row("b/x", good), "a/y-1.z": row("a/y-1.z", bad)}
    versions = {"a": "1.2", "b": "3.4+cpu"}
    text = page(lines, versions)
    assert rows(text) == lines
    assert versions_of(text) == versions
    assert "| a | 1.2 | 1 | 0 |" in text
    assert "| together | | 2 | 1 |" in text
    assert text == page(dict(reversed(lines.items())), versions)
