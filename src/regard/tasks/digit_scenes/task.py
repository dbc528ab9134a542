"""The task: answer questions about scenes of digits, with one model that differs in its attention alone."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regard.commands import command
from regard.errors import UserError
from regard.models.vqa import Answering, Recipe, VisualQuestionAnswering, build, cores, create, save
from regard.models.vqa.vocabulary import WordVocabulary, tokenize_marked
from regard.running import undisturbed
from regard.tasks.digit_scenes.digits import SIDE, Digits, load_digits
from regard.tasks.digit_scenes.questions import (
    ANSWERS,
    DIRECTIONS,
    FAMILIES,
    LENGTH,
    NOWHERE,
    WORDS,
    Questions,
    ask,
    askable,
    decode,
)
from regard.tasks.digit_scenes.scenes import MOST_DIGITS, Scenes, compose
from regard.tasks.digit_scenes.shortcuts import BLIND, CONTENTS, blind, contents
from regard.tasks.showing import answered, data_uri, reading
from regard.tasks.task import Evaluation

WIDTH = 96
HIDDEN = 64
CELL = 4
"""Side of an image cell of the model, in pixels."""

DIRECTION_WORDS = [WORDS.index(direction.split()[0]) for direction in DIRECTIONS]
"""The words that say that a question takes two steps."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("reader", {"read": "mean"}),
    "spatial": ("reader", {"read": "softmax_pool", "arguments": {"hidden_width": HIDDEN}}),
    "additive": ("reader", {"read": "additive", "arguments": {"hidden_width": HIDDEN}}),
    "general": ("reader", {"read": "dot", "arguments": {"score": "general"}}),
    "scaled_dot": ("reader", {"read": "dot", "arguments": {"score": "scaled_dot"}}),
    "multi_head": ("reader", {"read": "multi_head_cross", "arguments": {"heads": 4}}),
    "stacked": ("reader", {"read": "stacked", "arguments": {"hidden_width": HIDDEN}}),
    "find_then_move": ("find_then_move", {"hidden_width": HIDDEN, "words": len(WORDS), "directions": DIRECTION_WORDS}),
    "hard": ("reader", {"read": "hard", "arguments": {"hidden_width": HIDDEN, "estimator": "straight_through"}}),
}
"""Each one's core and its arguments: what reads from the picture, and nothing else, differs.

All train alike, also where that does not suit one. The first step of Adam changes the scores of `general`, each a sum
over 96 by 96 weights with no scale before it, by a standard deviation of 4.7, and those of the others by 0.1 to 0.4.
With a third of the learning rate `general` reached 0.964 of attributes, 0.336 of relations and 0.916 of counts, against
0.258, 0.182 and 0.575, but `find_then_move` had 0.33 of relations after 20 of 32 epochs, against 0.956 at the end.
"""

NOTES: Mapping[str, str] = {
    "none": "no attention: every question gets the mean of the picture's cells",
    "spatial": "weights of the picture alone, the same for every question (softmax_pool)",
    "additive": "one read, scored by a small network (Bahdanau et al. 2015)",
    "general": "one read, scored by the product of a projected question and a cell, not scaled (Luong et al. 2015), "
    "for which the learning rate that all variants share is too large: a third of it gives 0.96 of attributes",
    "scaled_dot": "one read, scored by the product of question and cell over the root of their width "
    "(Vaswani et al. 2017)",
    "multi_head": "one read by four heads, each scored by a scaled product of projections (Vaswani et al. 2017)",
    "stacked": "two reads, the second asked by the question with what the first one read added (SAN, Yang et al. 2016)",
    "find_then_move": "made for this task: one read, at what was found first or beside it; it is told, before it "
    f"learns, that {', '.join(WORDS[word] for word in DIRECTION_WORDS)} ask to look beside it",
    "hard": "one read of a single cell, drawn in training, the likeliest in the test; the gradient is that of the "
    "soft read (straight through)",
}
"""What each one is, and what it is told."""

STAGES = ((0.0, 0.4, 1, False), (0.07, 0.8, 4, False), (0.22, 1.0, MOST_DIGITS, False), (0.28, 1.0, MOST_DIGITS, True))
"""From which progress on: the share of the full side, the most digits, and whether relations are asked.

Training begins with few digits on small canvases: without that the model has to learn at once what a digit is and where
to look, and learns neither for a long time. Relations come when digits are found: a first look that finds nothing
yet learns to avoid what a relation starts from, since that is never its answer.
"""

TRAIN, VALIDATION, TEST, GUESSED = 0, 1, 2, 3
"""The streams of random numbers that the sets are drawn from; from the last one, what is guessed without looking."""


class DigitScenes:
    """Visual question answering on scenes of coloured handwritten digits.

    Args:
        size: side of a picture in pixels; a multiple of four.
        batch: scenes a batch; each has 14 questions.
        batches_per_epoch: batches of fresh scenes an epoch.
        test_scenes: how many scenes the test has; they depend on nothing but `size`.
        device: where models and batches live.
    """

    name = "digit-scenes"
    families = FAMILIES
    notes = NOTES
    measure = None

    def __init__(
        self,
        size: int = 40,
        batch: int = 32,
        batches_per_epoch: int = 50,
        test_scenes: int = 500,
        device: str | torch.device = "cpu",
    ) -> None:
        if size < 40 or size % CELL:
            raise UserError(
                f"a digit scene of {size} pixels cannot be drawn: six digits need at least 40, in multiples of {CELL}"
            )
        self.size = size
        self.batch = batch
        self.batches_per_epoch = batches_per_epoch
        self.test_scenes = test_scenes
        self.device = torch.device(device)

    @property
    def attentions(self) -> tuple[str, ...]:
        """The variants in the order of the table."""
        return tuple(VARIANTS)

    def check(self, attention: str) -> None:
        """Refuse a variant that there is none of."""
        if attention not in VARIANTS and attention not in cores:
            near = get_close_matches(attention, [*VARIANTS, *cores], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"digit scenes know no attention {attention!r}: {hint}There are {', '.join(VARIANTS)}, and the models "
                f"of questions {', '.join(cores)}. Mechanisms that refine a map are compared on pictures of your own: "
                f"{command('compare', '--data', 'FOLDER')}"
            )

    def recipe(self, attention: str) -> Recipe:
        """All that is needed to build a variant: one of `VARIANTS`, or else the core of that name."""
        core, arguments = VARIANTS.get(attention, (attention, {}))
        return Recipe(
            core=core,
            arguments=arguments,
            image="pooled_convolutions",
            image_arguments={"widths": [16, 48, WIDTH], "positions": "sines", "colours": [50, 85]},
            size=self.size,
            question="placed",
            question_arguments={"length": LENGTH, "width": WIDTH},
            independent=False,
        )

    def model(self, attention: str, seed: int) -> nn.Module:
        """A fresh model. All but what reads starts from the same values; of `VARIANTS`, all but the read itself."""
        recipe = self.recipe(attention)
        torch.manual_seed(seed)
        model = self._built(self.recipe("none") if attention in VARIANTS else recipe)
        if attention in VARIANTS:
            torch.manual_seed(seed)
            core = create(recipe.core, WIDTH, WIDTH, **recipe.arguments)
            core.load_state_dict(model.core.state_dict(), strict=False)
            model.core, model.recipe = core, recipe
        return model.to(self.device).to(memory_format=torch.channels_last)

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Write all that is needed to use the model again: `regard ask` then answers with it."""
        save(cast(Answering, model), folder)

    def learning_rate(self) -> float:
        return 3e-3

    def batches(self, seed: int, epoch: int, progress: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Fresh scenes, the same for every variant: pictures, words and answers."""
        _, share, most, relations = [stage for stage in STAGES if progress >= stage[0]][-1]
        size = self.size if share == 1 else round(share * self.size / CELL) * CELL
        random = np.random.default_rng((TRAIN, seed, epoch))
        fewest = min(most, 2)
        scenes = compose(self._digits[0], random, self.batch * self.batches_per_epoch, size, fewest, most)
        questions = ask(scenes, random, relations)
        for start in range(0, len(scenes), self.batch):
            part = slice(start, start + self.batch)
            yield (
                self._tensor(scenes.pictures[part]),
                self._tensor(questions.words[part]),
                self._tensor(questions.answers[part]),
            )

    def length(self, seed: int) -> int:
        return self.batches_per_epoch

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        pictures, words, answers = batch
        return F.cross_entropy(model(pictures, words).flatten(0, 1), answers.flatten())

    def validate(self, model: nn.Module, seed: int) -> Evaluation:
        """On 100 scenes of training digits that are never trained on."""
        scenes, questions = self._validation
        return self._evaluation(model, scenes, questions, point=False)

    def evaluate(self, model: nn.Module, seed: int) -> Evaluation:
        """On the test scenes, whose digits occur in no other scene."""
        return self._evaluation(model, *self._test, point=True)

    def shortcuts(self) -> dict[str, Evaluation]:
        """What can be had on the test without looking, or without looking anywhere in particular."""
        scenes, questions = self._test
        _, known = self._draw(self._digits[0], GUESSED, 500)
        reached = {BLIND: blind(known, questions), CONTENTS: contents(scenes, questions)}
        return {name: self._outcomes(correct, questions) for name, correct in reached.items()}

    def example(self, seed: int) -> tuple[Tensor, ...]:
        """One scene and its questions."""
        scenes, questions = self._test
        return self._tensor(scenes.pictures[:1]), self._tensor(questions.words[:1])

    def examples(self, seed: int) -> list[dict[str, Any]]:
        """Sixteen test scenes, each with one question; every family in turn."""
        scenes, questions = self._test
        shown = []
        for scene, question in self._shown():
            target = questions.objects[scene, question]
            row, column = scenes.corners[scene, target]
            shown.append(
                {
                    "picture": data_uri(torch.from_numpy(scenes.pictures[scene])),
                    "width": self.size,
                    "height": self.size,
                    "question": decode(questions.words[scene, question]),
                    "family": FAMILIES[questions.families[scene, question]],
                    "truth": ANSWERS[questions.answers[scene, question]],
                    "box": None if target == NOWHERE else [int(column), int(row), SIDE, SIDE],
                }
            )
        return shown

    def readings(self, model: nn.Module, seed: int) -> list[dict[str, Any]]:
        scenes, questions = self._test
        which = self._shown()
        rows = np.array([scene for scene, _ in which])
        logits, looks = self._answer(model, scenes.pictures[rows], questions.words[rows], watched=True)
        return [
            reading(
                logits[index, question],
                [look[index, question] for look in looks],
                int(questions.answers[scene, question]),
                ANSWERS.__getitem__,
                "hop",
            )
            for index, (scene, question) in enumerate(which)
        ]

    @staticmethod
    def _built(recipe: Recipe) -> VisualQuestionAnswering:
        return cast(VisualQuestionAnswering, build(recipe, WordVocabulary(WORDS, tokenize_marked), ANSWERS))

    @cached_property
    def _digits(self) -> tuple[Digits, Digits]:
        return load_digits()

    @cached_property
    def _validation(self) -> tuple[Scenes, Questions]:
        return self._draw(self._digits[0], VALIDATION, 100)

    @cached_property
    def _test(self) -> tuple[Scenes, Questions]:
        return self._draw(self._digits[1], TEST, self.test_scenes)

    def _draw(self, digits: Digits, stream: int, count: int) -> tuple[Scenes, Questions]:
        """Scenes about which every family of questions can be asked."""
        random = np.random.default_rng((stream, 0, 0))
        scenes = compose(digits, random, 3 * count, self.size)
        scenes = scenes.take(np.flatnonzero(askable(scenes))[:count])
        return scenes, ask(scenes, random)

    def _shown(self) -> list[tuple[int, int]]:
        """Which scene and question stand in the report: every family in turn, attribute and relation twice as often."""
        _, questions = self._test
        wanted = ("attribute", "relation", "attribute", "relation", "count")
        shown = []
        for scene in range(16):
            family = FAMILIES.index(wanted[scene % len(wanted)])
            among = np.flatnonzero(questions.families[scene] == family)
            shown.append((scene, int(among[scene % len(among)])))
        return shown

    def _evaluation(self, model: nn.Module, scenes: Scenes, questions: Questions, point: bool) -> Evaluation:
        logits, looks = self._answer(model, scenes.pictures, questions.words, watched=point)
        correct = np.equal(logits.argmax(-1).cpu().numpy(), questions.answers)
        asked = (questions.families == FAMILIES.index("attribute")) & (questions.objects != NOWHERE)
        pointed = None
        if looks:
            largest = torch.stack(looks).mean(0).flatten(2).argmax(-1).numpy()  # (scenes, questions)
            columns = looks[0].shape[3]
            centre = np.stack([largest // columns, largest % columns], axis=-1) * CELL + CELL // 2
            scene = np.arange(len(scenes))[:, None]
            inside = centre - scenes.corners[scene, np.maximum(questions.objects, 0)]
            pointed = np.all((inside >= 0) & (inside < SIDE), axis=-1)[asked]
        return self._outcomes(correct, questions, pointed)

    @staticmethod
    def _outcomes(correct: np.ndarray, questions: Questions, pointed: np.ndarray | None = None) -> Evaluation:
        groups = np.broadcast_to(np.arange(len(correct))[:, None], correct.shape)
        return Evaluation(correct.ravel(), questions.families.ravel(), groups.ravel(), pointed)

    def _answer(
        self, model: nn.Module, pictures: np.ndarray, words: np.ndarray, watched: bool
    ) -> tuple[Float[Tensor, "scenes questions answers"], list[Float[Tensor, "scenes questions h w"]]]:
        """Logits, and, if watched, the weights of each look."""
        parts = []
        with undisturbed(model):
            for start in range(0, len(pictures), 100):
                part = slice(start, start + 100)
                parts.append(answered(model, self._tensor(pictures[part]), self._tensor(words[part]), watched))
        logits, looks = zip(*parts, strict=True)
        return torch.cat(logits), [torch.cat(one) for one in zip(*looks, strict=True)]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
