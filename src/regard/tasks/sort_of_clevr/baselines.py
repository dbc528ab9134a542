"""What can be answered without looking properly: every accuracy is to be read beside these.

Each baseline says what of the question and its scene is seen, learns the most frequent answer to all that looks alike
from the training questions, and gives that. Nothing that sees no more does better but by chance.

    question   the kind of question alone
    counting   that, the shape of the object asked about, and how many circles there are, but no places: counts are
               answered perfectly, and the closest and furthest object by the more frequent shape of the other five
    pair       the kind, and how far apart in rows and in columns the two objects asked about are, in steps of five
               pixels, but nothing of the other four
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from regard.tasks.sort_of_clevr.questions import ANSWERS, FAMILIES, KINDS, NOWHERE, Questions
from regard.tasks.sort_of_clevr.scenes import OBJECTS, SHAPES, SIDE, Scenes

Part = tuple[Scenes, Questions]

_STEP = 5
_STEPS = SIDE // _STEP


def question(scenes: Scenes, questions: Questions) -> Int[Tensor, "scenes questions"]:
    """A number for all that is seen: the kind of question."""
    return questions.kinds


def counting(scenes: Scenes, questions: Questions) -> Int[Tensor, "scenes questions"]:
    """A number for all that is seen: the kind, the shape of the object, and how many circles there are."""
    shape = scenes.shapes.gather(1, questions.objects)
    circles = scenes.shapes.sum(1, keepdim=True)
    return (questions.kinds * len(SHAPES) + shape) * (OBJECTS + 1) + circles


def pair(scenes: Scenes, questions: Questions) -> Int[Tensor, "scenes questions"]:
    """A number for all that is seen: the kind, and how far apart the two objects are."""
    scene = torch.arange(len(scenes), device=questions.kinds.device)[:, None]
    two = questions.others != NOWHERE
    offset = scenes.centres[scene, questions.others.clamp(min=0)] - scenes.centres[scene, questions.objects]
    down, across = (offset.abs() // _STEP * two[..., None]).unbind(-1)
    return (questions.kinds * _STEPS + down) * _STEPS + across


SAID = {
    "question": "the most frequent answer to a question",
    "counting": "counting the squares, without knowing where anything is",
    "pair": "knowing nothing but the distance of the two objects that a ternary question names",
}
"""What each is, in words."""

BASELINES: dict[str, Callable[[Scenes, Questions], Int[Tensor, "scenes questions"]]] = {
    "question": question,
    "counting": counting,
    "pair": pair,
}


def baseline(name: str, training: Part, test: Part) -> Bool[Tensor, "scenes questions"]:
    """Which of the test questions a baseline answers rightly, learned from the training questions."""
    seen = BASELINES[name]
    counts = _counts(seen(*training), training[1].answers)
    # What was never seen, or equally often with two answers, is answered by the kind of question.
    by_kind = _counts(training[1].kinds, training[1].answers)
    known = seen(*test)
    counts = torch.cat([counts, counts.new_zeros(max(0, int(known.max()) + 1 - len(counts)), len(ANSWERS))])
    by_kind = torch.cat([by_kind, by_kind.new_zeros(len(KINDS) - len(by_kind), len(ANSWERS))])
    votes = counts[known] * (training[1].answers.numel() + 1) + by_kind[test[1].kinds]
    return votes.argmax(-1) == test[1].answers


def accuracies(correct: Bool[Tensor, "*questions"], kinds: Int[Tensor, "*questions"]) -> dict[str, float]:
    """The share of right answers by kind and by family; those that were never asked are left out."""
    found = {}
    groups = [(name, kinds == number) for number, name in enumerate(KINDS)]
    groups += [(name, kinds // 3 == number) for number, name in enumerate(FAMILIES)]
    for name, among in groups:
        if among.any():
            found[name] = float(correct[among].double().mean())
    return found


def _counts(seen: Int[Tensor, "*questions"], answers: Int[Tensor, "*questions"]) -> Int[Tensor, "seen answers"]:
    """How often each answer was right for each number."""
    both = (seen * len(ANSWERS) + answers).flatten()
    rows = int(seen.max()) + 1
    return torch.bincount(both, minlength=rows * len(ANSWERS)).unflatten(0, (rows, len(ANSWERS)))
