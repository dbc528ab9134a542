"""The task: answer questions about scenes of digits, with one model that differs in its attention alone."""

import base64
import io
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import (
    AdditiveRead,
    Attention,
    DotRead,
    HardRead,
    MultiHeadCrossAttention,
    Read,
    SpatialSoftmaxPooling,
)
from regard.errors import UserError
from regard.models import FindThenMove, MeanRead, VisualQuestionAnswering
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
from regard.tasks.task import Evaluation
from regard.watching import AttentionMap, watch

WIDTH = 96
HIDDEN = 64
CELL = 4
"""Side of an image cell of the model, in pixels."""

DIRECTION_WORDS = [WORDS.index(direction.split()[0]) for direction in DIRECTIONS]
"""The words that say that a question takes two steps."""

READS: dict[str, Callable[[], Read | FindThenMove]] = {
    "none": lambda: MeanRead(WIDTH, WIDTH),
    "spatial": lambda: SpatialSoftmaxPooling(WIDTH, WIDTH, hidden_width=HIDDEN),
    "additive": lambda: AdditiveRead(WIDTH, WIDTH, hidden_width=HIDDEN),
    "dot": lambda: DotRead(WIDTH, WIDTH, score="general"),
    "multi_head": lambda: MultiHeadCrossAttention(WIDTH, WIDTH, heads=4),
    "stacked": lambda: FindThenMove(WIDTH, HIDDEN, len(WORDS), DIRECTION_WORDS),
    "hard": lambda: HardRead(WIDTH, WIDTH, hidden_width=HIDDEN, estimator="straight_through"),
}
"""The variants: what reads from the picture, and nothing else, differs."""

STAGES = ((0.0, 0.4, 1, False), (0.07, 0.8, 4, False), (0.22, 1.0, MOST_DIGITS, False), (0.28, 1.0, MOST_DIGITS, True))
"""From which progress on: the share of the full side, the most digits, and whether relations are asked.

Training begins with few digits on small canvases: without that the model has to learn at once what a digit is and where
to look, and learns neither for a long time. Relations come when digits are found: a first look that finds nothing
yet learns to avoid what a relation starts from, since that is never its answer.
"""

TRAIN, VALIDATION, TEST = 0, 1, 2
"""The streams of random numbers that the three sets are drawn from."""


class DigitScenes:
    """Visual question answering on scenes of coloured handwritten digits.

    Args:
        size: side of a picture in pixels; a multiple of four.
        batch: scenes a batch; each has 16 questions.
        batches_per_epoch: batches of fresh scenes an epoch.
        test_scenes: how many scenes the test has; they depend on nothing but `size`.
        device: where models and batches live.
    """

    name = "digit-scenes"
    families = FAMILIES

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
        return tuple(READS)

    def check(self, attention: str) -> None:
        """Refuse a variant that there is none of."""
        if attention not in READS:
            near = get_close_matches(attention, READS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(
                f"digit scenes know no attention {attention!r}: {hint}There are {', '.join(READS)}. "
                "Mechanisms that refine a map are compared on pictures of your own: regard compare --data FOLDER"
            )

    def model(self, attention: str, seed: int) -> nn.Module:
        """A fresh model. All but the read starts from the same values whatever the read."""
        torch.manual_seed(seed)
        model = VisualQuestionAnswering(MeanRead(WIDTH, WIDTH), len(WORDS), LENGTH, len(ANSWERS), width=WIDTH)
        torch.manual_seed(seed)
        model.block.use(READS[attention]())
        return model.to(self.device).to(memory_format=torch.channels_last)

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
                    "picture": _data_uri(scenes.pictures[scene]),
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
        logits, maps = self._answer(model, scenes.pictures[rows], questions.words[rows], watched=True)
        said = []
        for index, (scene, question) in enumerate(which):
            chances = logits[index, question].softmax(-1)
            answer = int(chances.argmax())
            said.append(
                {
                    "answer": ANSWERS[answer],
                    "probability": float(chances[answer]),
                    "correct": bool(answer == questions.answers[scene, question]),
                    "maps": [
                        {"label": label, "weights": values[index, question].tolist(), "sums_to_one": True}
                        for label, values in (_hops(maps) if maps else {}).items()
                    ],
                }
            )
        return said

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
        wanted = ("attribute", "relation", "attribute", "relation", "count", "comparison", "attribute", "relation")
        shown = []
        for scene in range(16):
            family = FAMILIES.index(wanted[scene % len(wanted)])
            among = np.flatnonzero(questions.families[scene] == family)
            shown.append((scene, int(among[scene % len(among)])))
        return shown

    def _evaluation(self, model: nn.Module, scenes: Scenes, questions: Questions, point: bool) -> Evaluation:
        logits, maps = self._answer(model, scenes.pictures, questions.words, watched=point)
        correct = np.equal(logits.argmax(-1).cpu().numpy(), questions.answers)
        asked = (questions.families == FAMILIES.index("attribute")) & (questions.objects != NOWHERE)
        pointed = None
        if maps is not None:
            largest = maps.values.flatten(3).mean(1).argmax(-1).cpu().numpy()  # over hops: (scenes, questions)
            columns = maps.values.shape[-1]
            centre = np.stack([largest // columns, largest % columns], axis=-1) * CELL + CELL // 2
            scene = np.arange(len(scenes))[:, None]
            inside = centre - scenes.corners[scene, np.maximum(questions.objects, 0)]
            pointed = np.all((inside >= 0) & (inside < SIDE), axis=-1)[asked]
        groups = np.broadcast_to(np.arange(len(scenes))[:, None], correct.shape)
        return Evaluation(correct.ravel(), questions.families.ravel(), groups.ravel(), pointed)

    def _answer(
        self, model: nn.Module, pictures: np.ndarray, words: np.ndarray, watched: bool
    ) -> tuple[Tensor, AttentionMap | None]:
        """Logits `(scenes, questions, answers)` and, if watched, a map `batch, hop, query, height, width`."""
        watched = watched and any(isinstance(module, Attention) and module.maps for module in model.modules())
        logits, maps = [], []
        with undisturbed(model):
            for start in range(0, len(pictures), 100):
                part = slice(start, start + 100)
                inputs = self._tensor(pictures[part]), self._tensor(words[part])
                if not watched:
                    logits.append(model(*inputs))
                    continue
                with watch(model) as watching:
                    logits.append(model(*inputs))
                maps.append(_over_hops(next(one for one in watching.maps if one.label == "attention")))
        if not maps:
            return torch.cat(logits).float(), None
        values = torch.cat([one.values for one in maps])
        return torch.cat(logits).float(), AttentionMap(
            values, maps[0].axes, maps[0].module, maps[0].mechanism, maps[0].label, sums_to_one=maps[0].sums_to_one
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def _over_hops(one: AttentionMap) -> AttentionMap:
    """The map on its grid, the mean over heads, with an axis `hop` of one where there are no hops."""
    if "heads" in one.axes:
        one = one.mean("heads")
    one = one.on_grid()
    if "hop" in one.axes:
        return one
    return AttentionMap(one.values[:, None], (one.axes[0], "hop", *one.axes[1:]), one.module, one.mechanism, one.label)


def _hops(maps: AttentionMap) -> dict[str, Tensor]:
    """Each hop's weights `(batch, query, height, width)` by its name."""
    hops = maps.values.unbind(1)
    if len(hops) == 1:
        return {"attention": hops[0]}
    return {f"hop {number}": hop for number, hop in enumerate(hops, start=1)}


def _data_uri(picture: np.ndarray) -> str:
    """A picture `(3, height, width)` as a PNG inside a link."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
