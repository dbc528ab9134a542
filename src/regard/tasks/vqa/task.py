"""The task: answer people's questions about their own pictures, with models that differ in their core alone."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from regard.errors import UserError
from regard.models.vqa import Answering, Look, Recipe, WordVocabulary, build, save
from regard.models.vqa.model import Vocabulary
from regard.models.vqa.parts import REGIONS, WHOLE, encoders
from regard.models.vqa.view import View
from regard.models.vqa.vocabulary import tokenize_possessive
from regard.tasks.batching import Epoch, batches_of, in_batches, in_random_batches
from regard.tasks.showing import data_uri
from regard.tasks.task import AblatedOutcomes, Evaluation
from regard.tasks.vqa import outcomes
from regard.tasks.vqa.answers import AnswerVocabulary
from regard.tasks.vqa.asked import Asked, Batch, Row
from regard.tasks.vqa.augmenting import AUGMENTATIONS, drawn, shifted
from regard.tasks.vqa.outcomes import Prior, form_of, kind_of, measure_of
from regard.tasks.vqa.predictions import write_table
from regard.tasks.vqa.question import Questions
from regard.tasks.vqa.seeing import RegionFiles, Seen, fixed, seeing
from regard.tasks.vqa.targets import Targets
from regard.tasks.vqa.words import read_vectors
from regard.watching.ablation import ablations

VARIANTS = ("question_only", "concatenation", "stacked_attention", "top_down_product", "cross_attention")
"""What is compared unless others are named."""

EXAMPLES = 16
"""How many held-out questions the report shows."""

SHOWN_SIDE = 240
"""The longer side, in pixels, at which it shows their pictures at most."""

MOST_MAPS = 4
"""Looks of one answer that it shows, the last ones."""

MOST_VALIDATION = 500
"""Pictures for learning curves at most."""

MANY = 10_000
"""Training questions from which on an answer must occur nine times to be chosen from, as published for VQA."""

ABLATED = 16
"""Pictures a batch at most while attention is ablated: all maps of a batch are kept at once."""

_cells = 24  # a side of the grid on which the report shows regions

_split, _shuffle, _choice, _augment = range(4)  # each purpose has its own stream of random numbers for a seed


class VisualQuestions:
    """Questions about pictures: those of a published data set or one's own, answered by any core of `models.vqa`.

    Variants differ in their core alone: encoders, words, answers and the order of the pictures are the same for all,
    and so are the initial values of what they share, for one seed. A picture is encoded once for all of its questions.

    A picture is for training, for learning curves or for the test, with all that is asked about it; which one for
    which does not depend on the seed, so that all models of a run are measured on the same questions, and know the
    same words and answers: those of the training part alone. What cannot be answered with them counts as wrong.

    A model learns with the loss that its paper used. Training pictures may be varied, alike for all
    variants and for all questions about a picture, but never mirrored, which would make lies of left and right. What a
    frozen encoder makes of a picture is computed once and kept, see `seeing.Features`.

    Args:
        questions: with answers.
        test: other questions, on which models are tested; by default some pictures of `questions` are held out.
        recipe: what models are made of; each variant takes its place as `core`. Its `arguments` are for its own core.
        minimum: how often an answer must occur in training to be chosen from; default 9 as published for VQA where
            there are `MANY` questions, otherwise 1.
        glove: a file of word vectors that questions start from.
        regions: an HDF5 file of region features, or a folder of one `.npz` a picture, for `image="regions"`.
        augmentation: how training pictures are varied, afresh in every epoch: `none`, or `shift`, see
            `augmenting.shifted`; default `shift` where the encoder of pictures learns, and `none` where it is frozen or
            regions come from files.
        batch: pictures in a training step, each with its questions.
        learning_rate: the highest of the schedule; default 5e-4, and 1e-4 where published weights are trained on.
        skip_bad: leave out questions whose pictures cannot be read.
        folder: where features of a frozen encoder are kept that do not fit into memory.
        device: where models and batches are.
        untrained: models are measured as they came, and choose among their own answers where they have some, as ViLT
            does; BLIP among those of training.
        test_share: how much of the pictures is for the test; at least one.
        validation_share: the same for learning curves; `MOST_VALIDATION` pictures at most.

    Attributes:
        words: of the training questions; None where a checkpoint of Hugging Face brings its own.
        answers: those of training, to choose from; or a model's own.
        families: the kinds of questions, the most frequent of the test first.
        measure: what accuracy is, in words.
        skipped: what was left out, and why.

    Raises:
        UserError: there are too few pictures, answers are not known, a picture cannot be read or stands in two parts,
            or the recipe cannot be built.
    """

    name = "visual-questions"

    def __init__(
        self,
        questions: Questions,
        *,
        test: Questions | None = None,
        recipe: Recipe | None = None,
        minimum: int | None = None,
        glove: Path | None = None,
        regions: Path | None = None,
        augmentation: str | None = None,
        batch: int = 32,
        learning_rate: float | None = None,
        skip_bad: bool = False,
        folder: Path | None = None,
        device: str | torch.device = "cpu",
        untrained: bool = False,
        test_share: float = 0.2,
        validation_share: float = 0.1,
    ) -> None:
        recipe = Recipe() if recipe is None else recipe
        _require(
            (recipe.image == REGIONS) == (regions is not None),
            f"image {recipe.image!r} and regions={regions}: features of regions are read from a file, and are all that "
            f"is seen then: give both image {REGIONS!r} and the file, or neither",
        )
        given = [questions] if test is None else [questions, test]
        for one in given:
            _require_answers(one)
        self._regions = None if regions is None else RegionFiles(regions)
        if self._regions is None:
            given = [one.check(recipe.size, skip_bad=skip_bad) for one in given]
        else:  # no picture is looked at
            for question in itertools.chain(*given):
                self._regions.find(question)
            width = self._regions(given[0][0]).features.shape[1]
            recipe = replace(recipe, image_arguments={"features": width, **recipe.image_arguments})
        self.skipped = list(dict.fromkeys(f"{bad.where}: {bad.reason}" for one in given for bad in one.skipped))
        parts = split(given[0], 0.0 if test is not None else test_share, validation_share)
        training, validation = parts["training"], parts["validation"]
        held_out = parts["test"] if test is None else given[1]
        if test is not None:
            _require_apart(given[0], held_out)

        self.batch = batch
        self.device = torch.device(device)
        self.answers = AnswerVocabulary.of(
            training,
            minimum=(9 if len(training) >= MANY else 1) if minimum is None else minimum,
            form=form_of(training),
        )
        self.words = _words(recipe, training, glove)
        self._vectors = None if glove is None or self.words is None else read_vectors(glove, self.words).matrix
        self.recipe = recipe
        self.measure = measure_of(held_out)
        self._untrained = untrained
        first = self.model(recipe.core, 0)
        if untrained:
            _require_trained(first)
            self.answers = AnswerVocabulary(tuple(first.answers or ()), self.answers.form)
        elif lacking := [name for name in first.fresh if not name.startswith("classifier.")]:
            logging.getLogger(__name__).warning(
                "%r lacks %d weights of the model %r, %s among them: they are random until they are trained",
                *(recipe.question, len(lacking), recipe.core, lacking[0]),
            )
        trained = recipe.image_arguments.get("pretrained", False) and not fixed(first)
        self._learning_rate = learning_rate or (1e-4 if trained or recipe.core in WHOLE else 5e-4)

        self.view = first.view
        once = regions is not None or fixed(first)
        self.augmentation = augmentation or ("none" if once else "shift")
        _require(
            self.augmentation in AUGMENTATIONS,
            f"there is no augmentation {augmentation!r}: choose one of {', '.join(AUGMENTATIONS)}",
        )
        _require(
            self.augmentation == "none" or not once,
            f"augmentation {augmentation!r} varies pictures in every epoch, and each is seen once where "
            f"{'its regions come from a file' if regions else 'what sees it is frozen'}: leave it out"
            f"{'' if regions else ', or let the encoder of pictures learn'}",
        )

        def asked(part: Questions) -> Asked:
            see = seeing(part, self.view, recipe.size, self._regions)
            keeping = {"fixed": fixed(first), "folder": folder, "device": device}
            return Asked(part, cast(Vocabulary, first.vocabulary), see, longest=first.longest, **keeping)

        self.training, self.validation, self.test = asked(training), asked(validation), asked(held_out)
        self._kind = kind_of([*held_out, *validation])
        often = [kind for kind, _ in Counter(map(self._kind, held_out)).most_common()]
        self.families = tuple(dict.fromkeys([*often, *map(self._kind, validation)]))
        self._targets = Targets.of(training, self.answers)
        self._validated = Targets.of(validation, self.answers)

    @property
    def epochs(self) -> int:
        """How long to train by default: some 1,200 steps, within 8 and 100 epochs."""
        return min(100, max(8, -(-1_200 // self.length(0))))

    def check(self, attention: str) -> None:
        """Refuse a variant that there is none of, or that cannot be built."""
        self.model(attention, 0)

    def model(self, attention: str, seed: int) -> Answering:
        """A fresh model: the recipe with this core."""
        if attention != self.recipe.core and {attention, self.recipe.core} & set(WHOLE):
            raise UserError(
                f"{attention!r} and {self.recipe.core!r} share nothing but questions: give each a task of its own"
            )
        own = self.recipe.arguments if attention == self.recipe.core else {}
        recipe = replace(self.recipe, core=attention, arguments=own)
        answers = None if self._untrained and attention == "vilt" else self.answers.answers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(recipe, self.words, answers, self._vectors).to(self.device)

    def batches(self, seed: int, epoch: int, progress: float) -> Epoch[Row, Seen | None, Batch]:
        """All training pictures in a new order; `progress` changes nothing."""
        rows = self.training.rows
        order = np.random.default_rng([_shuffle, seed, epoch]).permutation(len(rows))
        batches = self.training.batches(in_batches([rows[place] for place in order], self.batch)[: self.length(seed)])
        if self.augmentation == "none":
            return batches
        by = drawn(rows[-1].picture + 1, np.random.default_rng([_augment, seed, epoch])).to(self.device)

        def shift(rows: Sequence[Row], seen: list[Seen | None]) -> Batch:
            batch = batches.collate(rows, seen)
            return batch._replace(seen=shifted(cast(Tensor, batch.seen), by[batch.pictures]))

        return replace(batches, collate=shift)

    def length(self, seed: int) -> int:
        """How many batches an epoch has."""
        return batches_of(len(self.training.rows), self.batch)

    def look(self, model: Answering, report: Callable[[int, int], None]) -> None:
        """Let a frozen encoder see all pictures; of another one, nothing can be kept."""
        parts = [part for part in (self.training, self.validation, self.test) if part.fixed]
        pictures = sum(part.rows[-1].picture + 1 for part in parts)
        seen = 0

        def told(more: int) -> None:
            nonlocal seen
            report(seen := seen + more, pictures)

        for part in parts:
            part.features(model, told)

    def loss(self, model: Answering, batch: Batch) -> Tensor:
        """The loss that the paper of the model used."""
        return self._targets.loss(model.loss, self.training.ask(model, batch), batch.questions)

    def learning_rate(self) -> float:
        """For AdamW."""
        return self._learning_rate

    def validate(self, model: Answering, seed: int) -> Evaluation:
        """How right the validation questions are answered: the share of people that an answer needs to be right."""
        right = self._validated.score(self.validation.chosen(model)).double().numpy()
        return self._evaluation(self.validation, right)

    def evaluate(self, model: Answering, seed: int) -> Evaluation:
        """How right the test questions are answered, by `measure`."""
        return self._evaluation(self.test, outcomes.outcomes(self.test.questions, self.answered(model)))

    def ablate(self, model: Answering, seed: int) -> AblatedOutcomes:
        """The outcomes on the test questions as the model is and with its attention ablated."""
        if self.test.fixed:  # what sees the pictures does so before, undisturbed
            self.test.features(model)
        parts = in_random_batches(self.test.rows, ABLATED, seed)
        order = [number for part in parts for row in part for number in row.questions]
        asked = self.test.questions.select(order)

        def right(said: Tensor) -> np.ndarray:
            return outcomes.outcomes(asked, [self.answers.answers[number] for number in said.tolist()])

        found = ablations(
            model,
            self.test.batches(parts),
            lambda batch: self.test.ask(model, batch).argmax(1),
            items=lambda batch: torch.where(batch.asked, batch.pictures[:, None], -1),
            seed=seed,
        )
        return AblatedOutcomes.of(found, self.test.picture_of[order], right)

    def shortcuts(self) -> dict[str, Evaluation]:
        """The same for the most frequent answer to each type of question: what can be had without looking."""
        prior = Prior(self.training.questions)
        answers = [prior.answer(question) for question in self.test.questions]
        found = self._evaluation(self.test, outcomes.outcomes(self.test.questions, answers))
        return {"the most frequent answer to each type of question, without looking": found}

    def answered(self, model: Answering) -> list[str]:
        """A model's answer to each test question."""
        return [self.answers.answers[number] for number in self.test.chosen(model).tolist()]

    def example(self, seed: int) -> tuple[Any, ...]:
        """One picture and its questions."""
        row = self.test.rows[0]
        batch = self.test.batch([row], [self.test.see(row.questions[0])])
        seen = batch.seen
        if isinstance(seen, Tensor) and isinstance(self.view, View):
            seen = self.view.normalized(seen)
        return seen, batch.words, batch.mask

    def examples(self, seed: int) -> list[dict[str, Any]]:
        """Sixteen test questions, as many of one kind as of another where there are, each about another picture."""
        return [
            {
                **_shown(self.test.questions.picture(index, SHOWN_SIDE)),
                "question": self.test.questions[index].question,
                "family": self._kind(self.test.questions[index]),
                "truth": " or ".join(dict.fromkeys(map(self.answers.form, self.test.questions[index].answers))),
                "box": None,
                "file": str(image) if isinstance(image := self.test.questions[index].image, Path) else None,
            }
            for index in self._chosen
        ]

    def readings(self, model: Answering, seed: int) -> list[dict[str, Any]]:
        """What the model says to these, how sure it is, and where it looked."""
        said = []
        for index in self._chosen:
            question = self.test.questions[index]
            picture = self.test.questions.picture(index, self.recipe.size) if self._regions is None else None
            seen = self.test.see(index) if picture is None else picture
            answer = model.answer(seen, question.question, strict=False)
            said.append(
                {
                    "answer": answer.text,
                    "probability": answer.probabilities[answer.text],
                    "correct": bool(outcomes.outcomes([question], [answer.text])[0] >= 0.5),
                    "maps": [_map(look, answer.boxes) for look in answer.looks()[-MOST_MAPS:]],
                }
            )
        return said

    def keep(self, model: Answering, folder: Path) -> None:
        """The model, for `models.vqa.load` and `regard ask`, and what it answers to the test questions."""
        save(model, folder)
        write_table(folder / "predictions.csv", self.answered(model), list(self.test.questions))

    @cached_property
    def _chosen(self) -> list[int]:
        """The questions for the report: one of each kind in turn, and of each picture one while there are others."""
        order = np.random.default_rng(_choice).permutation(len(self.test.questions)).tolist()
        of_kind = list(map(self._kind, self.test.questions))
        waiting = {kind: [index for index in order if of_kind[index] == kind] for kind in self.families}
        found: list[int] = []
        pictures: set[int] = set()
        while len(found) < EXAMPLES and any(waiting.values()):
            for some in waiting.values():
                fresh = [index for index in some if self.test.picture_of[index] not in pictures] or some
                if fresh:
                    index = fresh[0]
                    some.remove(index)
                    found.append(index)
                    pictures.add(int(self.test.picture_of[index]))
        return found[:EXAMPLES]

    def _evaluation(self, part: Asked, right: np.ndarray) -> Evaluation:
        numbers = {family: number for number, family in enumerate(self.families)}
        return Evaluation(right, np.array([numbers[self._kind(one)] for one in part.questions]), part.picture_of)


def split(questions: Questions, test_share: float, validation_share: float) -> dict[str, Questions]:
    """Questions for training, validation and the test, without a picture that is in two of these parts.

    Args:
        questions: all.
        test_share, validation_share: of the pictures; at least one where the share is not 0.

    Raises:
        UserError: there are fewer pictures than parts.
    """
    every = list(_about(questions).values())
    mixed = [every[place] for place in np.random.default_rng(_split).permutation(len(every))]
    least = 3 if test_share else 2
    _require(
        len(mixed) >= least,
        f"{questions.source} asks about {len(mixed)} picture{'' if len(mixed) == 1 else 's'}: expected at least "
        f"{least}, for training, validation{' and test' if test_share else ''}; add questions about others",
    )
    test = max(1, min(round(len(mixed) * test_share), len(mixed) - 2)) if test_share else 0
    validation = min(max(1, round(len(mixed) * validation_share)), len(mixed) - test - 1, MOST_VALIDATION)
    ends = {"test": test, "validation": test + validation, "training": len(mixed)}
    found, start = {}, 0
    for name, end in ends.items():
        found[name] = questions.select(sorted(index for some in mixed[start:end] for index in some))
        start = end
    return found


def _words(recipe: Recipe, questions: Questions, glove: Path | None) -> WordVocabulary | None:
    """The words of the training questions, parted as GloVe has them if its vectors are taken."""
    if recipe.core in WHOLE or recipe.question not in encoders:
        _require(glove is None, f"question {recipe.question!r} has words of its own: leave out the file of vectors")
        return None
    texts = [question.question for question in questions]
    return WordVocabulary.of(texts) if glove is None else WordVocabulary.of(texts, tokenizer=tokenize_possessive)


def _require_answers(questions: Questions) -> None:
    without = sum(not question.answers for question in questions)
    _require(
        without == 0,
        f"{without} of {len(questions)} questions in {questions.source} have no answer: expected one for each, to "
        "learn from and to measure by; give the file of the answers (--annotations in VQA), or a column `answer`",
    )


def _require_trained(model: Answering) -> None:
    """Refuse to measure as it came what comes without some weights, or without the texts of its answers."""
    checkpoint = "its weights" if model.recipe is None else model.recipe.question
    _require(
        not model.fresh,
        f"{checkpoint!r} lacks {len(model.fresh)} of the weights that answer questions, "
        f"{', '.join(model.fresh[:1])} among them, "
        "and there is nothing to measure as it came: train it, for 1 epoch or more, or give a checkpoint that was "
        "trained on questions",
    )
    _require(
        not all(re.fullmatch(r"LABEL_\d+", answer) for answer in model.answers or ()),
        f"{checkpoint!r} does not say what its answers are, but LABEL_0 and so on: write their texts into its "
        "config.json, as id2label, or train it on yours, for 1 epoch or more",
    )


def _require_apart(questions: Questions, test: Questions) -> None:
    trained, tested = _about(questions), _about(test)
    both = sum(len(asked) for picture, asked in tested.items() if picture in trained)
    _require(
        not both,
        f"{both} questions of {test.source} are about pictures that {questions.source} asks about too: expected "
        "pictures that are not trained on; leave them out of one of the files",
    )


def _about(questions: Questions) -> dict[object, list[int]]:
    """Which questions are about each picture, however its path is spelled."""
    spelled: dict[object, list[int]] = {}
    for index in range(len(questions)):
        spelled.setdefault(questions.identity(index), []).append(index)
    about: dict[object, list[int]] = {}
    for picture, asked in spelled.items():
        about.setdefault(picture.resolve() if isinstance(picture, Path) else picture, []).extend(asked)
    return about


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise UserError(complaint)


def _shown(picture: Image.Image) -> dict[str, Any]:
    """A whole picture as the report takes it: a PNG inside a link, and its size."""
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return {"picture": data_uri(small), "width": small.width, "height": small.height}


def _map(look: Look, boxes: Tensor | None) -> dict[str, Any]:
    """A look as the report takes it: over the picture, or, of regions that lie nobody knows where, as a list."""
    weights = look.weights.float().cpu()
    if weights.ndim == 1 and boxes is not None:
        weights = _painted(weights, boxes.float().cpu())
    rounded = [[float(f"{value:.5g}") for value in row] for row in weights.reshape(-1, weights.shape[-1]).tolist()]
    label = look.name or "attention"
    if weights.ndim == 1:
        return {"label": label, "values": rounded[0]}
    return {"label": label, "weights": rounded, "sums_to_one": abs(float(weights.sum()) - 1) < 1e-3}


def _painted(weights: Float[Tensor, " N"], boxes: Float[Tensor, "N 4"]) -> Float[Tensor, "h w"]:
    """The weights of regions over the picture: in every cell, those of the boxes that its middle lies in, together."""
    middle = (torch.arange(_cells) + 0.5) / _cells
    left, top, right, bottom = boxes[:, :, None].unbind(1)  # (N, 1) each
    across, down = (left <= middle) & (middle < right), (top <= middle) & (middle < bottom)
    return torch.einsum("n,nh,nw->hw", weights, down.float(), across.float())
