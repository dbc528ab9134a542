"""One model that is asked by many threads at once gives each of them what it gives one alone."""

import pytest
import torch
from torch import Tensor
from vqa_small import VOCABULARY, pictures, questions, small_model

from many_threads import EACH, THREADS, alike, at_once
from regard.models.vqa.answer import Answer


class Numbers:
    """Takes a question for the numbers of its words."""

    def encode(self, question: str) -> list[int]:
        return [int(word) for word in question.split()]


@pytest.mark.parametrize("training", [False, True], ids=["loaded", "training"])
@pytest.mark.parametrize(
    ("core", "each"),
    [
        ("question_spatial", EACH),
        pytest.param("mac", 10, marks=pytest.mark.slow),
        pytest.param("mcan", 10, marks=pytest.mark.slow),
        pytest.param("hard_entity_stream", 10, marks=pytest.mark.slow),
    ],
)
def test_answers_to_several_threads_are_those_to_one(core: str, each: int, training: bool) -> None:
    """Also of a model in training mode, which every answer leaves for as long as it takes."""
    count = THREADS * each
    model = small_model(core).train(training)
    model.vocabulary, model.answers = Numbers(), [str(number) for number in range(5)]
    seen = pictures(count)
    asked = [" ".join(map(str, one.tolist())) for one in torch.randint(1, VOCABULARY, (count, 4))]
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()

    def answer(number: int) -> Answer:
        return model.answer(seen[number], asked[number])

    expected = [answer(number) for number in range(count)]
    found = at_once(answer, count)
    assert sum(one != other for one, other in zip(found, expected, strict=True)) == 0
    assert sum(not alike(one.maps, other.maps) for one, other in zip(found, expected, strict=True)) == 0
    assert all(one.maps for one in found)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_questions_of_one_batch_are_answered_alike_by_several_threads() -> None:
    """The forward itself keeps nothing of a call."""
    model, seen, asked = small_model("question_spatial").eval(), pictures(THREADS * 5), questions(THREADS * 5)

    @torch.no_grad()
    def run(number: int) -> Tensor:
        return model(seen[number : number + 1], asked[number : number + 1])

    expected = [run(number) for number in range(THREADS * 5)]
    found = at_once(run, THREADS * 5)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
