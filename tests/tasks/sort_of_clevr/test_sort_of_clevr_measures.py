"""Sort-of-CLEVR: what can be had without looking, and whether attention lies where it should."""

from functools import cache

import pytest
import torch
from torch import Tensor

from regard.tasks.sort_of_clevr import SortOfClevr
from regard.tasks.sort_of_clevr.baselines import BASELINES, accuracies, baseline
from regard.tasks.sort_of_clevr.generation import generate
from regard.tasks.sort_of_clevr.pointing import asked, cells, found, mass, peak
from regard.tasks.sort_of_clevr.questions import ANSWERS, KINDS, NOWHERE, Questions, ask
from regard.tasks.sort_of_clevr.scenes import Scenes, draw

drawn = cache(generate)


def measured(name: str) -> dict[str, float]:
    training, test = drawn(1500, 7), drawn(400, 8)
    return accuracies(baseline(name, training, test), test[1].kinds)


def test_the_question_alone_gives_a_coin_and_the_likeliest_count() -> None:
    """Two shapes and two halves are alike likely; 1 + Binomial(5, 1/2) is most often 3 or 4: 10 of 32 times."""
    share = measured("question")
    assert [share[kind] for kind in ("shape", "left", "up", "closest", "furthest")] == pytest.approx(
        [0.5] * 5, abs=0.06
    )
    assert share["count"] == pytest.approx(10 / 32, abs=0.05)
    published = {"non-relational": 0.505, "relational": 0.438, "ternary": 0.53}
    assert {name: share[name] for name in published} == pytest.approx(published, abs=0.035)


def test_counting_gives_the_commoner_shape_of_the_other_five() -> None:
    """Of five objects the commoner shape has 11/16: (5 * 2 + 4 * 10 + 3 * 20) of 5 * 32."""
    share = measured("counting")
    assert share["count"] == 1
    assert share["shape"] == 1
    assert [share["closest"], share["furthest"]] == pytest.approx([11 / 16] * 2, abs=0.06)
    assert [share["left"], share["up"]] == pytest.approx([0.5] * 2, abs=0.06)
    assert share["relational"] == pytest.approx(0.791, abs=0.03)


def test_two_objects_say_much_about_ternary_questions() -> None:
    share, blind = measured("pair"), measured("question")
    assert share["ternary"] > blind["ternary"] + 0.05
    assert share["band"] > 0.65
    for kind in ("shape", "left", "closest", "furthest", "count"):
        assert share[kind] == blind[kind]


@pytest.mark.slow
def test_the_baselines_of_the_published_sets() -> None:
    """As computed over 20,000 pictures of the same rule; 2,000 have an interval of about 1.5 points."""
    task = SortOfClevr(ternary=True)
    kinds = task.part("more")[1].kinds
    question = accuracies(task.baseline("question"), kinds)
    counting = accuracies(task.baseline("counting"), kinds)
    expected = {"non-relational": 0.505, "relational": 0.438, "ternary": 0.53, "between": 0.688, "obtuse": 0.401}
    assert {name: question[name] for name in expected} == pytest.approx(expected, abs=0.015)
    expected = {"closest": 0.687, "furthest": 0.686, "count": 1.0, "relational": 0.791}
    assert {name: counting[name] for name in expected} == pytest.approx(expected, abs=0.015)


def asked_alike(scenes: Scenes, count: int, kind: str, one: int, other: int = NOWHERE) -> tuple[Scenes, Questions]:
    """The same question about every scene, several times."""
    kinds, objects, others = (torch.full((len(scenes), count), value) for value in (KINDS.index(kind), one, other))
    return scenes, ask(scenes, kinds, objects, others)


def test_a_baseline_gives_the_most_frequent_answer_it_learned() -> None:
    """Four scenes of known shapes; one was never seen and gets the answer that is most frequent for the kind."""
    places = torch.tensor([[[5, column] for column in range(5, 70, 12)]])
    shapes = torch.tensor([[0] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]])
    scenes = draw(shapes, places.expand(3, -1, -1))
    training = asked_alike(scenes, 2, "closest", 0)
    assert training[1].answers[:, 0].tolist() == [2, 3, 3]
    unseen = draw(torch.tensor([[1] * 6]), places)
    test = asked_alike(unseen, 1, "closest", 0)
    assert test[1].answers.tolist() == [[ANSWERS.index("circle")]]
    assert baseline("counting", training, test).tolist() == [[True]]
    assert baseline("counting", training, training).all()
    assert baseline("question", training, training).tolist() == [[False] * 2, [True] * 2, [True] * 2]
    other = asked_alike(unseen, 1, "obtuse", 4, 1)
    assert all(baseline(name, training, other).shape == (1, 1) for name in BASELINES)  # of a kind never seen


def test_accuracies_by_kind_and_family() -> None:
    kinds = torch.tensor([[0, 0, 1, 5, 4]])
    correct = torch.tensor([[True, False, True, False, True]])
    assert accuracies(correct, kinds) == {
        "shape": 0.5, "left": 1.0, "furthest": 1.0, "count": 0.0, "non-relational": 2 / 3, "relational": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("grid", [(75, 75), (19, 19), (15, 25), (5, 3), (1, 1)])
def test_cells_on_an_object_by_hand(grid: tuple[int, int]) -> None:
    count = 1 if grid == (75, 75) else 3
    scenes, questions = drawn(count, 5)
    on = cells(scenes, questions.found, grid)
    height, width = 75 / grid[0], 75 / grid[1]
    for scene in range(count):
        for index, target in enumerate(questions.found[scene].tolist()):
            expected = torch.zeros(grid, dtype=torch.bool)
            if target != NOWHERE:
                y, x = (value + 0.5 for value in scenes.centres[scene, target].tolist())
                for row in range(grid[0]):
                    for column in range(grid[1]):
                        middle = (row + 0.5) * height, (column + 0.5) * width
                        inside = -5.5 <= middle[0] - y < 5.5 and -5.5 <= middle[1] - x < 5.5
                        holds = row * height <= y < (row + 1) * height and column * width <= x < (column + 1) * width
                        expected[row, column] = inside or holds
            assert torch.equal(on[scene, index], expected)
            assert on[scene, index].any() == (target != NOWHERE)


def test_at_full_size_the_cells_are_the_box_and_hold_the_shape() -> None:
    scenes, questions = drawn(20, 5)
    on = cells(scenes, questions.objects, (75, 75))
    assert (on.sum((2, 3)) == 121).all()
    shown = scenes.owners[:, None] == questions.objects[..., None, None]
    assert not (shown & ~on).any()


def test_asked_are_both_objects_and_found_is_the_answer() -> None:
    scenes, questions = drawn(20, 5)
    both, answers = asked(scenes, questions, (19, 19)), found(scenes, questions, (19, 19))
    others = cells(scenes, questions.others, (19, 19))
    assert torch.equal(both, cells(scenes, questions.objects, (19, 19)) | others)
    assert others.any(-1).any(-1).tolist() == (questions.kinds > 5).tolist()
    assert answers.any(-1).any(-1).tolist() == (questions.kinds < 5).tolist()


def test_peak_and_mass_of_weights_by_hand() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.25, 0.05]])
    on = torch.tensor([[False, True, True], [True, False, False]])
    blind = torch.zeros(2, 3)
    many: Tensor = torch.stack([weights, weights * 7, weights, blind])[None]
    masks = torch.stack([on, ~on, torch.zeros_like(on), on])[None]
    assert peak(many, masks)[:, :3].tolist() == [[True, False, False]]
    assert mass(many, masks)[0].tolist() == pytest.approx([0.6, 0.4, 0, 0])
