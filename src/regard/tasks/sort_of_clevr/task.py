"""The task: answer all questions about a sort-of-CLEVR picture, which is encoded once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import UserError
from regard.files import save_weights
from regard.models.vqa import Answering, Recipe, build, cores, save
from regard.models.vqa.vocabulary import WordVocabulary, tokenize_marked
from regard.running import undisturbed
from regard.tasks.batching import in_random_batches
from regard.tasks.showing import answered, data_uri, reading
from regard.tasks.sort_of_clevr.baselines import BASELINES, SAID, Part, accuracies, baseline
from regard.tasks.sort_of_clevr.generation import PER_FAMILY, generate
from regard.tasks.sort_of_clevr.pointing import asked, found, mass, peak
from regard.tasks.sort_of_clevr.questions import (
    ANSWERS,
    FAMILIES,
    KINDS,
    LENGTH,
    NOWHERE,
    WORDS,
    Questions,
    decode,
    say,
    vectors,
    words,
)
from regard.tasks.sort_of_clevr.scenes import OBJECTS, RADIUS, SIDE, Scenes
from regard.tasks.task import AblatedOutcomes, Evaluation
from regard.watching.ablation import ablations

VARIANTS = (
    "question_only",
    "concatenation",
    "stacked_attention",
    "relation_network",
    "entity_stream",
    "cross_attention",
)
"""The cores that are compared unless others are named, or other models given."""

PARTS = ("rule", "more", "validation")
"""What can be tested on: the 200 scenes of the published test; 2,000 more; 500 for learning curves."""

AUGMENTATIONS = ("none", "colours", "colours and mirrors")

ABLATED = 500
"""Scenes of the test on which attention is ablated."""

_TESTED = 200
"""How many scenes the published test has: those generated first."""

_RULE, _MORE, _VALIDATION = 1, 2, 3
"""The seeds of the random numbers: the published one, and those of the other two parts."""


class Batch(NamedTuple):
    """Pictures and all the questions about each.

    Attributes:
        pictures: red, green and blue in 0..255.
        questions: words, or the generator's vectors.
        answers: indices into `ANSWERS`.
        kinds: indices into `KINDS`.
    """

    pictures: UInt8[Tensor, "batch 3 side side"]
    questions: Num[Tensor, "batch questions width"]
    answers: Int[Tensor, "batch questions"]
    kinds: Int[Tensor, "batch questions"]


@dataclass(frozen=True)
class Pointing:
    """Where a model looked: `looks` runs over the mean of its looks and then, if it has several, over each.

    Attributes:
        peak_asked: whether the largest weight lies on the object asked about (on either of two).
        peak_found: whether it lies on the object whose property is the answer; False where there is none.
        mass_asked: the share of the weight on the object asked about.
        mass_found: the share on the object whose property is the answer.
    """

    peak_asked: Bool[Tensor, "looks scenes questions"]
    peak_found: Bool[Tensor, "looks scenes questions"]
    mass_asked: Float[Tensor, "looks scenes questions"]
    mass_found: Float[Tensor, "looks scenes questions"]


@dataclass(frozen=True)
class Results:
    """What a model reached on one part, beside what can be had without looking properly. Prints as a table.

    Attributes:
        accuracy: by kind and family.
        baselines: the same, by the name of the baseline.
        pointing: the share of questions whose largest weight lies on the object asked about (`asked`), or on the
            closest or furthest (`found`): for the mean of the looks, and for each if there are several. Empty for a
            model without a map over the picture.
        note: the part, and what training was augmented with.
    """

    accuracy: dict[str, float]
    baselines: dict[str, dict[str, float]]
    pointing: dict[str, list[dict[str, float]]]
    note: str

    def __str__(self) -> str:
        pointed = {
            f"{where} {look or 'mean'}": row for where, rows in self.pointing.items() for look, row in enumerate(rows)
        }
        columns = {"accuracy": self.accuracy, **self.baselines, **pointed}
        wide = [max(len(name), 6) for name in columns]
        lines = [self.note, f"{'':16}" + "  ".join(f"{name:>{w}}" for name, w in zip(columns, wide, strict=True))]
        for row in self.accuracy:
            shown = (f"{100 * one[row]:.2f}" if row in one else "" for one in columns.values())
            lines.append(f"{row:16}" + "  ".join(f"{text:>{w}}" for text, w in zip(shown, wide, strict=True)))
        return "\n".join(line.rstrip() for line in lines)


class SortOfClevr:
    """Visual question answering on sort-of-CLEVR, with the pictures and questions of the published rule.

    The 9,800 training scenes and the 200 of the test are those of the published generator from seed 1, pixel by pixel.

    Args:
        variants: the models to compare, each by its recipe or made by a function; they take pictures `(B, 3, 75, 75)`
            in 0..255 and questions `(B, Q, width)`, and give the answers' logits `(B, Q, 10)`. Default: every core of
            `regard.models.vqa.cores` by its name, as `recipe` has it.
        questions: how a question is given: `words`, indices `(B, Q, 17)` into `WORDS`, or the generator's `vector` of
            ones and zeros, of 11 or, with ternary questions, 18.
        ternary: ask the ternary questions too: 30 questions a scene and not 20.
        augmentation: how training scenes are varied, afresh in every epoch: `none`; `colours`, which are exchanged in
            picture and questions alike, and change no answer; `colours and mirrors`, which also exchanges left and
            right or up and down for half of the scenes each, and answers anew.
        own_nearest_neighbour: with the published generator's defect, see `questions.answer`.
        alone: for which share of training, in whole epochs and at least the first one if it is not 0, the
            non-relational questions are asked alone; default 0, as published. Whoever has to find one object does so
            within an epoch or two then; otherwise it may learn to count all of them first, and stay with that for long.
        learning_rate: the highest of the schedule; default 1e-3.
        batch: scenes a batch, each with all of its questions.
        training_scenes: how many of the 9,800.
        device: where models and batches live.
    """

    name = "sort-of-clevr"
    measure = None

    def __init__(
        self,
        variants: Mapping[str, Recipe | Callable[[], nn.Module]] | None = None,
        questions: str = "words",
        ternary: bool = False,
        augmentation: str = "colours",
        own_nearest_neighbour: bool = False,
        alone: float = 0.0,
        learning_rate: float = 1e-3,
        batch: int = 64,
        training_scenes: int = 9_800,
        device: str | torch.device = "cpu",
    ) -> None:
        _one_of("questions", questions, ("words", "vector"))
        _one_of("augmentation", augmentation, AUGMENTATIONS)
        if not 1 <= training_scenes <= 9_800:
            raise UserError(f"training_scenes={training_scenes}: the published training set has 1 to 9,800 scenes")
        if not 0 <= alone <= 1:
            raise UserError(f"alone={alone}: expected a share of training, from 0 to 1")
        if batch < 1:
            raise UserError(f"batch={batch}: a batch holds at least one scene")
        self.questions = questions
        self.ternary = ternary
        self.variants = {name: self.recipe(name) for name in cores} if variants is None else variants
        self.attentions = VARIANTS if variants is None else tuple(variants)
        self.augmentation = augmentation
        self.own_nearest_neighbour = own_nearest_neighbour
        self.alone = alone
        self.rate = learning_rate
        self.batch = batch
        self.training_scenes = training_scenes
        self.device = torch.device(device)
        self._baselines: dict[tuple[str, str], Tensor] = {}

    @property
    def families(self) -> tuple[str, ...]:
        """The kinds of questions, three of each family."""
        return KINDS[: len(KINDS) if self.ternary else len(KINDS) - 3]

    @property
    def width(self) -> int:
        """The last size of a batch's questions."""
        return LENGTH if self.questions == "words" else 18 if self.ternary else 11

    def check(self, attention: str) -> None:
        """Refuse a variant that there is none of."""
        if attention not in self.variants:
            near = get_close_matches(attention, self.variants, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"sort-of-CLEVR knows no {attention!r}: {hint}There are {', '.join(self.variants)}.")

    def recipe(self, core: str) -> Recipe:
        """A core between the relation network's small network of convolutions and its LSTM, or the questions' vectors.

        Cells are told where they lie: those of cores that do not tell them themselves would have no left and right.
        """
        by_words = self.questions == "words"
        return Recipe(
            core=core,
            image="convolutions",
            image_arguments={"positions": "sines"},
            size=SIDE,
            question="lstm" if by_words else "vector",
            question_arguments={"width": 128, "embedding_width": 32} if by_words else {"in_width": self.width},
            independent=False,
        )

    def model(self, attention: str, seed: int) -> nn.Module:
        """A fresh model."""
        self.check(attention)
        torch.manual_seed(seed)
        variant = self.variants[attention]
        if isinstance(variant, Recipe):
            words = WordVocabulary(WORDS, tokenize_marked) if self.questions == "words" else None
            model = build(variant, words, [_said(answer, self.ternary) for answer in ANSWERS])
        else:
            model = variant()
        return model.to(self.device).to(memory_format=torch.channels_last)

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Write all that is needed to use the model again; of one that was made by a function, the weights."""
        if isinstance(model, Answering) and model.recipe is not None:
            save(model, folder)
        else:
            save_weights(model, folder / "model.safetensors")

    def learning_rate(self) -> float:
        return self.rate

    def length(self, seed: int) -> int:
        return -(-self.training_scenes // self.batch)

    def batches(self, seed: int, epoch: int, progress: float) -> Iterator[Batch]:
        """The training scenes in a new order, augmented; the same for every variant."""
        random = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        scenes, questions = self.training
        if progress < self.alone:
            questions = questions.first(PER_FAMILY)
        for part in torch.randperm(len(scenes), generator=random).split(self.batch):
            yield self._batch(*self._augmented(scenes.take(part), questions.take(part), random))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch.pictures, batch.questions)
        return F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())

    def validate(self, model: nn.Module, seed: int) -> Evaluation:
        """On 500 scenes that are neither trained on nor tested on."""
        return self.evaluation(model, "validation", point=False)

    def evaluate(self, model: nn.Module, seed: int) -> Evaluation:
        """On 2,000 scenes more than the published test has; `results` gives both."""
        return self.evaluation(model, "more")

    def ablate(self, model: nn.Module, seed: int) -> AblatedOutcomes:
        """The outcomes on the first 500 of these scenes as the model is and with its attention ablated."""
        scenes, questions = self._rows(self.part("more"), slice(0, ABLATED))
        parts = [torch.tensor(part) for part in in_random_batches(range(len(scenes)), 50, seed)]
        order = torch.cat(parts)
        groups = order[:, None].expand(questions.answers[order].shape)
        answers = questions.answers[order].flatten()
        found = ablations(
            model,
            [self._batch(*self._rows((scenes, questions), part)) for part in parts],
            lambda batch: model(batch.pictures, batch.questions).argmax(-1).flatten(),
            items=lambda batch: torch.arange(len(batch.answers))[:, None].expand(batch.answers.shape),
            seed=seed,
        )
        return AblatedOutcomes.of(found, groups.flatten().numpy(), lambda said: (said == answers).numpy())

    def evaluation(self, model: nn.Module, part: str, point: bool = True) -> Evaluation:
        """The outcomes on one of `PARTS`. Pointing is the mean look's, at the object of a non-relational question."""
        return self._evaluation(part, *self.answer(model, part, point))

    def results(self, model: nn.Module, part: str = "more") -> Results:
        """Accuracy by kind and family, the baselines on the same questions, and where the model looked.

        Args:
            model: takes pictures and questions as `batches` gives them.
            part: one of `PARTS`.
        """
        return self.tested(model, part)[1]

    def tested(self, model: nn.Module, part: str = "more") -> tuple[Evaluation, Results]:
        """What `evaluation` and `results` give, of answers that are had once."""
        questions = self.part(part)[1]
        correct, pointing = self.answer(model, part)
        pointed = {}
        if pointing is not None:
            looks = range(len(pointing.peak_asked))
            beside = (questions.kinds // 3 == FAMILIES.index("relational")) & (questions.found != NOWHERE)
            pointed = {
                "asked": [accuracies(pointing.peak_asked[look], questions.kinds) for look in looks],
                "found": [accuracies(pointing.peak_found[look][beside], questions.kinds[beside]) for look in looks],
            }
        defect = " with the own-nearest-neighbour defect" if self.own_nearest_neighbour else ""
        return self._evaluation(part, correct, pointing), Results(
            accuracies(correct, questions.kinds),
            {name: accuracies(self.baseline(name, part), questions.kinds) for name in BASELINES},
            pointed,
            f"sort-of-CLEVR, {part}: {len(questions):,} scenes{defect}; augmentation: {self.augmentation}",
        )

    def baseline(self, name: str, part: str = "more") -> Bool[Tensor, "scenes questions"]:
        """Which questions of a part can be answered without looking properly, see `baselines`."""
        _one_of("name", name, tuple(BASELINES))
        if (name, part) not in self._baselines:
            self._baselines[name, part] = baseline(name, self.training, self.part(part))
        return self._baselines[name, part]

    def shortcuts(self) -> dict[str, Evaluation]:
        """What these reach where `evaluate` measures; what only ternary questions tell apart, only where there are."""
        known = [name for name in BASELINES if name != "pair" or self.ternary]
        return {SAID[name]: self._evaluation("more", self.baseline(name), None) for name in known}

    @cached_property
    def training(self) -> Part:
        """The training scenes and their questions."""
        return self._rows(self._published, slice(_TESTED, None))

    def part(self, name: str) -> Part:
        """The scenes and questions of one of `PARTS`."""
        _one_of("part", name, PARTS)
        return self._rule if name == "rule" else self._more if name == "more" else self._validation

    def answer(
        self, model: nn.Module, part: str, point: bool = True
    ) -> tuple[Bool[Tensor, "scenes questions"], Pointing | None]:
        """Which questions of a part a model answers rightly, and where it looked, if it has a map and `point` is set.

        The looks are the maps of weights that the questions have over cells of the picture, the mean over heads.
        """
        scenes, questions = self.part(part)
        correct, pointing = [], []
        with undisturbed(model):
            for start in range(0, len(scenes), 100):
                rows = slice(start, start + 100)
                some, about = scenes.take(rows), questions.take(rows)
                batch = self._batch(some, about)
                logits, looks = answered(model, batch.pictures, batch.questions, point)
                correct.append(logits.argmax(-1).cpu() == about.answers)
                if looks:
                    pointing.append(_pointing(some, about, looks))
        if not pointing:
            return torch.cat(correct), None
        columns = zip(*(vars(one).values() for one in pointing), strict=True)
        return torch.cat(correct), Pointing(*(torch.cat(column, dim=1) for column in columns))

    def example(self, seed: int) -> tuple[Tensor, ...]:
        """One scene and its questions."""
        batch = self._batch(*self._rows(self.part("rule"), slice(0, 1)))
        return batch.pictures, batch.questions

    def examples(self, seed: int) -> list[dict[str, Any]]:
        """Sixteen scenes of the published test, each with one question; every kind in turn."""
        scenes, questions = self.part("rule")
        sentences = words(scenes, questions)
        shown = []
        for scene, question in self._shown():
            picture = scenes.take(slice(scene, scene + 1)).pictures()[0]
            kind = int(questions.kinds[scene, question])
            target = int(questions.objects[scene, question])
            row, column = (scenes.centres[scene, target] - RADIUS).tolist()
            shown.append(
                {
                    "picture": data_uri(picture),
                    "width": picture.shape[2],
                    "height": picture.shape[1],
                    "question": decode(sentences[scene, question]),
                    "family": KINDS[kind],
                    "truth": say(int(questions.answers[scene, question]), kind),
                    "box": [column, row, 2 * RADIUS + 1, 2 * RADIUS + 1],
                }
            )
        return shown

    def readings(self, model: nn.Module, seed: int) -> list[dict[str, Any]]:
        """What the model says of these, and where it looked."""
        shown = self._shown()
        scenes, questions = self._rows(self.part("rule"), torch.tensor([scene for scene, _ in shown]))
        with undisturbed(model):
            batch = self._batch(scenes, questions)
            logits, looks = answered(model, batch.pictures, batch.questions, watched=True)
        return [
            reading(
                logits[index, question],
                [look[index, question] for look in looks],
                int(questions.answers[index, question]),
                partial(say, kind=int(questions.kinds[index, question])),
                "look",
            )
            for index, (_, question) in enumerate(shown)
        ]

    @cached_property
    def _published(self) -> Part:
        """The scenes of the published generator: 200 for the test, then those for training."""
        return self._generated(_TESTED + self.training_scenes, _RULE)

    @cached_property
    def _rule(self) -> Part:
        return self._rows(self._published, slice(0, _TESTED))

    @cached_property
    def _more(self) -> Part:
        return self._generated(2_000, _MORE)

    @cached_property
    def _validation(self) -> Part:
        return self._generated(500, _VALIDATION)

    def _generated(self, count: int, seed: int) -> Part:
        scenes, questions = generate(count, seed, self.own_nearest_neighbour)
        return scenes, questions if self.ternary else questions.first(2 * PER_FAMILY)

    @staticmethod
    def _rows(part: Part, rows: slice | Int[Tensor, " some"]) -> Part:
        return part[0].take(rows), part[1].take(rows)

    def _evaluation(
        self, part: str, correct: Bool[Tensor, "scenes questions"], pointing: Pointing | None
    ) -> Evaluation:
        kinds = self.part(part)[1].kinds
        groups = np.broadcast_to(np.arange(len(kinds))[:, None], kinds.shape)
        one = kinds // 3 == FAMILIES.index("non-relational")
        pointed = None if pointing is None else pointing.peak_asked[0][one].numpy()
        return Evaluation(correct.flatten().numpy(), kinds.flatten().numpy(), groups.ravel(), pointed)

    def _augmented(self, scenes: Scenes, questions: Questions, random: torch.Generator) -> Part:
        if self.augmentation == "none":
            return scenes, questions
        if self.augmentation == "colours and mirrors":
            down, across = torch.randint(2, (2, len(scenes)), generator=random)
            scenes = scenes.mirrored(down, across)
            questions = questions.about(scenes, self.own_nearest_neighbour)
        return scenes.recoloured(torch.rand(len(scenes), OBJECTS, generator=random).argsort(1)), questions

    def _batch(self, scenes: Scenes, questions: Questions) -> Batch:
        said = words(scenes, questions) if self.questions == "words" else vectors(scenes, questions, self.width)
        batch = scenes.pictures(), said, questions.answers, questions.kinds
        return Batch(*(one.to(self.device) for one in batch))

    def _shown(self) -> list[tuple[int, int]]:
        """Which scene and question stand in the report: every kind in turn, as far as the scene is asked it."""
        kinds = self.part("rule")[1].kinds
        shown = []
        for scene in range(16):
            among = torch.nonzero(kinds[scene] == scene % len(self.families)).flatten().tolist()
            shown.append((scene, among[0] if among else 0))
        return shown


def _said(answer: str, ternary: bool) -> str:
    """An answer as it is told: numbers stand for two counts where ternary questions are asked, see `questions.say`."""
    return f"{answer} ({int(answer) - 1} between or obtuse)" if ternary and answer.isdigit() else answer


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name}={value!r}: choose one of {', '.join(map(repr, allowed))}")


def _pointing(scenes: Scenes, questions: Questions, looks: list[Tensor]) -> Pointing:
    """Where the mean of the looks, and each of them, lies."""
    grid = looks[0].shape[2], looks[0].shape[3]
    each = looks if len(looks) == 1 else [torch.stack(looks).mean(0), *looks]
    on_asked, on_found = asked(scenes, questions, grid), found(scenes, questions, grid)
    return Pointing(
        torch.stack([peak(look, on_asked) for look in each]),
        torch.stack([peak(look, on_found) for look in each]),
        torch.stack([mass(look, on_asked) for look in each]),
        torch.stack([mass(look, on_found) for look in each]),
    )
