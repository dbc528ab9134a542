"""One model that is answered, watched and run by many threads at once gives each of them what it gives one alone.

What a single thread gets, one picture after the other, is the oracle: all must be equal to the last bit.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

import pytest
import timm
import torch
from torch import Tensor, nn

from regard.attention import offering
from regard.models.vqa.answer import Answer
from regard.placing import insert, places
from regard.watching import AttentionMap, watch

sys.path.append(str(Path(__file__).parents[1] / "models" / "vqa"))

from vqa_small import VOCABULARY, pictures, questions, small_model  # noqa: E402

THREADS, EACH = 8, 50

Result = TypeVar("Result")


class Numbers:
    """Takes a question for the numbers of its words."""

    def encode(self, question: str) -> list[int]:
        return [int(word) for word in question.split()]


@pytest.fixture(autouse=True)
def eager_to_switch() -> Iterator[None]:
    """Threads take turns twenty times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 20)
    yield
    sys.setswitchinterval(before)


def at_once(do: Callable[[int], Result], count: int = THREADS * EACH) -> list[Result]:
    """What `do` gives for each number; each of several threads has as many, and all begin together."""
    begin, each = Barrier(THREADS), count // THREADS

    def some(thread: int) -> list[Result]:
        begin.wait(timeout=60)
        return [do(number) for number in range(thread * each, (thread + 1) * each)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [one for part in pool.map(some, range(THREADS)) for one in part]


def alike(one: Sequence[AttentionMap], other: Sequence[AttentionMap]) -> bool:
    def facts(maps: Sequence[AttentionMap]) -> list[tuple[Any, ...]]:
        return [(x.module, x.label, x.call, x.axes, x.grid, x.extra_tokens) for x in maps]

    same = facts(one) == facts(other)
    return same and all(torch.equal(x.values, y.values) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["loaded", "training"])
@pytest.mark.parametrize(
    "core",
    [
        "question_spatial",
        pytest.param("mac", marks=pytest.mark.slow),
        pytest.param("mcan", marks=pytest.mark.slow),
        pytest.param("hard_entity_stream", marks=pytest.mark.slow),
    ],
)
def test_answers_to_several_threads_are_those_to_one(core: str, training: bool) -> None:
    """Also of a model in training mode, which every answer leaves for as long as it takes."""
    model = small_model(core).train(training)
    model.vocabulary, model.answers = Numbers(), [str(number) for number in range(5)]
    seen = pictures(THREADS * EACH)
    asked = [" ".join(map(str, one.tolist())) for one in torch.randint(1, VOCABULARY, (THREADS * EACH, 4))]
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()

    def answer(number: int) -> Answer:
        return model.answer(seen[number], asked[number])

    expected = [answer(number) for number in range(THREADS * EACH)]
    found = at_once(answer)
    assert sum(one != other for one, other in zip(found, expected, strict=True)) == 0
    assert sum(not alike(one.maps, other.maps) for one, other in zip(found, expected, strict=True)) == 0
    assert all(one.maps for one in found)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def network() -> nn.Module:
    """A small residual network in which every inserted gate does something."""
    model = timm.create_model("test_resnet", num_classes=5).eval()
    return insert(model, "se", "block", start="paper", example=(1, 3, 32, 32))


def test_maps_and_outputs_of_several_threads_are_those_of_one() -> None:
    model, images = network(), torch.randn(THREADS * EACH, 1, 3, 32, 32)

    @torch.no_grad()
    def look(number: int) -> tuple[Tensor, list[AttentionMap]]:
        with watch(model) as seen:
            output = model(images[number])
        return output, seen.maps

    expected = [look(number) for number in range(THREADS * EACH)]
    found = at_once(look)
    assert sum(not torch.equal(one[0], other[0]) for one, other in zip(found, expected, strict=True)) == 0
    assert sum(not alike(one[1], other[1]) for one, other in zip(found, expected, strict=True)) == 0
    assert not offering.listening()


def test_places_are_read_while_other_threads_run_the_model() -> None:
    """The run of the reading thread alone is read, and nobody's output changes."""
    model = timm.create_model("test_resnet", num_classes=5).eval()
    images = torch.randn(THREADS * 3, 1, 3, 32, 32)

    @torch.no_grad()
    def use(number: int) -> Tensor | str:
        return str(places(model, images[number])) if number % 2 else model(images[number])

    expected = [use(number) for number in range(THREADS * 3)]
    for one, other in zip(at_once(use, THREADS * 3), expected, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
    assert not any(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_questions_of_one_batch_are_answered_alike_by_several_threads() -> None:
    """The forward itself keeps nothing of a call."""
    model, seen, asked = small_model("question_spatial").eval(), pictures(THREADS * 5), questions(THREADS * 5)

    @torch.no_grad()
    def run(number: int) -> Tensor:
        return model(seen[number : number + 1], asked[number : number + 1])

    expected = [run(number) for number in range(THREADS * 5)]
    found = at_once(run, THREADS * 5)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
