"""Digit scenes: what is drawn is what is said, and every question has the one right answer that is given."""

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import AdditiveRead, mechanisms
from regard.errors import UserError
from regard.experiment.training import accuracy
from regard.models.vqa import cores, load
from regard.tasks.digit_scenes import DigitScenes
from regard.tasks.digit_scenes.digits import SIDE, load_digits
from regard.tasks.digit_scenes.questions import (
    ANSWERS,
    DIRECTIONS,
    FAMILIES,
    LENGTH,
    NOWHERE,
    NUMBERS,
    PER_SCENE,
    WORDS,
    Questions,
    ask,
    askable,
    decode,
    encode,
)
from regard.tasks.digit_scenes.scenes import ABSENT, COLOURS, GAP, MOST_DIGITS, Scenes, compose, free_corners
from regard.tasks.digit_scenes.shortcuts import blind, contents
from regard.tasks.digit_scenes.task import CELL, VARIANTS
from regard.tasks.task import HasNotes, HasShortcuts

SIZE = 40


def tiny(**changed: int) -> DigitScenes:
    return DigitScenes(**{"batches_per_epoch": 2, "test_scenes": 20, "batch": 4, **changed})


@pytest.mark.parametrize("attention", ["none", "additive", "hard"])
def test_attention_is_ablated_on_the_test_scenes(attention: str) -> None:
    """The groups are those of the scenes, fourteen questions each, and the whole model is right where it was."""
    task = tiny()
    model = task.model(attention, 0)
    found, full = task.ablate(model, 0), task.evaluate(model, 0)
    for scene in range(20):
        assert found.full[found.groups == scene].tolist() == full.correct[full.groups == scene].tolist()
    assert set(found.ablated) == (set() if attention == "none" else {"removed", "mean", "resampled"})
    assert all(len(one) == len(found.full) == 280 for one in found.ablated.values())


@cache
def drawn(strict: bool) -> tuple[Scenes, Questions]:
    """300 scenes with questions; strict: as the test has them, six digits; otherwise of two to six digits."""
    random = np.random.default_rng(7)
    scenes = compose(load_digits()[0], random, 900, SIZE, MOST_DIGITS if strict else 2)
    if strict:
        scenes = scenes.take(np.flatnonzero(askable(scenes)))
    scenes = scenes.take(np.arange(300))
    assert len(scenes) == 300
    return scenes, ask(scenes, random)


def objects_of(scenes: Scenes, scene: int) -> list[dict]:
    """The scene's objects in words; absent ones are left out."""
    found = []
    for index, label in enumerate(scenes.labels[scene]):
        if label == ABSENT:
            continue
        row, column = map(int, scenes.corners[scene, index])
        colour = list(COLOURS)[scenes.colours[scene, index]]
        found.append({"index": index, "label": int(label), "colour": colour, "row": row, "column": column})
    return found


def only(objects: list[dict], **wanted: object) -> dict:
    among = [one for one in objects if all(one[key] == value for key, value in wanted.items())]
    assert len(among) == 1, f"{len(among)} objects are {wanted}: one could argue which is meant"
    return among[0]


def beside(objects: list[dict], origin: dict, direction: str) -> dict | None:
    """By the rule of the module's table, in angles: the object on that side of `origin`, or none beyond dispute."""
    step_down, step_right = DIRECTIONS[direction]
    near = []
    for one in objects:
        down, right = one["row"] - origin["row"], one["column"] - origin["column"]
        far = math.hypot(down, right)
        if one is origin:
            continue
        angle = math.degrees(math.acos(max(-1.0, min(1.0, (down * step_down + right * step_right) / far))))
        if angle <= 50 + 1e-9:
            near.append((far, angle, one))
    near.sort(key=lambda entry: entry[0])
    if not near or near[0][1] > 30 + 1e-9:
        return None
    if len(near) > 1 and near[1][0] < 1.5 * near[0][0] - 1e-9:
        return None
    return near[0][2]


def oracle(objects: list[dict], question: str, size: int) -> tuple[str, str, int]:
    """Answer, family and object of a question, from its words and the list of objects alone."""
    words = question.replace("?", " ").split()
    colours = [word for word in words if word in COLOURS]
    direction = next((name for name in DIRECTIONS if f" {name} " in f" {' '.join(words)} "), None)
    if "many" in words:
        (colour,) = colours
        return NUMBERS[sum(one["colour"] == colour for one in objects)], "count", NOWHERE
    if direction is not None:
        (colour,) = colours
        found = beside(objects, only(objects, colour=colour), direction)
        assert found is not None, "one could argue what lies there"
        return NUMBERS[found["label"]], "relation", found["index"]
    if "colour" in words:
        (number,) = [word for word in words if word in NUMBERS]
        one = only(objects, label=NUMBERS.index(number))
        return one["colour"], "attribute", one["index"]
    one = only(objects, colour=colours[0])
    return NUMBERS[one["label"]], "attribute", one["index"]


def test_without_relations_attributes_are_asked_in_their_place() -> None:
    scenes, questions = drawn(True)
    plain = ask(scenes, np.random.default_rng(8), relations=False)
    relation, attribute = FAMILIES.index("relation"), FAMILIES.index("attribute")
    assert not (plain.families == relation).any()
    assert (plain.families == attribute).mean() > (questions.families == attribute).mean()
    assert plain.words.shape == questions.words.shape


def test_no_digit_is_in_both_parts() -> None:
    train, test = load_digits()
    assert not set(train.numbers.tolist()) & set(test.numbers.tolist())
    assert len(set(train.numbers.tolist())) == len(train.numbers)
    assert len(train.images) > 2 * len(test.images) > 0
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))
    flat = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in flat for image in test.images)
    for part in (train, test):
        assert part.images.min() >= 0
        assert part.images.max() <= 1


@pytest.mark.parametrize("strict", [True, False])
def test_an_oracle_gives_the_same_answers(strict: bool) -> None:
    scenes, questions = drawn(strict)
    asked = set()
    for scene in range(len(scenes)):
        objects = objects_of(scenes, scene)
        for index in range(questions.words.shape[1]):
            text = decode(questions.words[scene, index])
            answer, family, target = oracle(objects, text, SIZE)
            assert ANSWERS[questions.answers[scene, index]] == answer, text
            assert FAMILIES[questions.families[scene, index]] == family, text
            assert questions.objects[scene, index] == target, text
            asked.add((family, answer))
    assert {answer for family, answer in asked if family == "attribute"} >= {*NUMBERS, *COLOURS}
    assert {answer for family, answer in asked if family == "relation"} == set(NUMBERS)
    assert {answer for family, answer in asked if family == "count"} >= {"zero", "one", "two", "three"}


def test_lenient_questions_of_a_small_canvas_with_one_digit() -> None:
    random = np.random.default_rng(3)
    scenes = compose(load_digits()[0], random, 50, 16, 1, 1)
    questions = ask(scenes, random)
    assert (scenes.labels != ABSENT).sum(1).tolist() == [1] * 50
    for scene in range(50):
        for index in range(questions.words.shape[1]):
            answer, _, target = oracle(objects_of(scenes, scene), decode(questions.words[scene, index]), 16)
            assert ANSWERS[questions.answers[scene, index]] == answer
            assert questions.objects[scene, index] == target


def test_the_test_asks_the_promised_number_of_each_family() -> None:
    _, questions = drawn(strict=True)
    for index, family in enumerate(FAMILIES):
        assert ((questions.families == index).sum(1) == PER_SCENE[family]).all()


def test_strict_relations_cannot_be_answered_without_looking_where_they_start() -> None:
    """In each direction asked about, the askable questions of the scene have at least two different answers."""
    scenes, questions = drawn(strict=True)
    blind = []
    for scene in range(len(scenes)):
        objects = objects_of(scenes, scene)
        named = [one for one in objects if sum(one["colour"] == other["colour"] for other in objects) == 1]
        for words in questions.words[scene][questions.families[scene] == FAMILIES.index("relation")]:
            text = decode(words)
            direction = next(name for name in DIRECTIONS if f" {name} " in f" {text} ")
            found = [beside(objects, one, direction) for one in named]
            if len({one["label"] for one in found if one is not None}) < 2:
                blind.append((scene, text))
    assert not blind


def test_words_fit_and_no_question_is_about_nothing() -> None:
    _, questions = drawn(strict=False)
    assert questions.words.shape[-1] == LENGTH
    assert questions.words.min() >= 0
    assert questions.words.max() < len(WORDS)
    assert (questions.words[..., 0] > 0).all()
    about_one = np.isin(questions.families, [FAMILIES.index("attribute"), FAMILIES.index("relation")])
    assert ((questions.objects != NOWHERE) == about_one).all()


def test_all_counts_that_a_scene_has_are_alike_likely() -> None:
    """And so are the colours that share one: a scene of six digits has none, one and perhaps more of a colour."""
    scenes = drawn(strict=False)[0].take(np.arange(7))
    asked: list[Counter[str]] = [Counter() for _ in range(len(scenes))]
    for seed in range(400):
        questions = ask(scenes, np.random.default_rng(seed))
        for scene in range(len(scenes)):
            counts = questions.words[scene][questions.families[scene] == FAMILIES.index("count")]
            asked[scene].update(decode(words).split()[-1].strip("?") for words in counts)
    seen = set()
    for scene, found in enumerate(asked):
        has = Counter(one["colour"] for one in objects_of(scenes, scene))
        totals = {colour: has[colour] for colour in COLOURS}
        seen.add(len(set(totals.values())))
        for colour, total in totals.items():
            alike = sum(other == total for other in totals.values())
            expected = found.total() / len(set(totals.values())) / alike
            assert abs(found[colour] - expected) < 5 * expected**0.5, (totals, found)
    assert seen >= {2, 3}


def test_shortcuts_by_hand() -> None:
    def asked(*texts: str, answers: tuple[str, ...]) -> Questions:
        families = [FAMILIES.index("count" if "many" in text else "attribute") for text in texts]
        said = [ANSWERS.index(answer) for answer in answers]
        return Questions(*(np.array([part]) for part in ([*map(encode, texts)], said, families, [0] * len(said))))

    which, many = "which number is the red digit ?", "how many digits are red ?"
    what = "what colour is the two ?"
    training = asked(which, which, which, many, answers=("two", "two", "nine", "one"))
    test = asked(which, which, many, what, answers=("two", "nine", "zero", "red"))
    assert blind(training, test).tolist() == [[True, False, False, False]]
    # A nine of the scene's two nines and one two, red twice among three; a count is known without knowing places.
    scenes = Scenes(
        np.zeros((1, 3, 40, 40), np.uint8),
        np.array([[9, 2, 9, ABSENT, ABSENT, ABSENT]]),
        np.array([[0, 3, 0, ABSENT, ABSENT, ABSENT]]),
        np.zeros((1, 6, 2), np.int64),
    )
    assert contents(scenes, test).tolist() == [[False, True, True, True]]


def test_the_task_knows_what_can_be_had_without_looking() -> None:
    task = DigitScenes()
    assert isinstance(task, HasShortcuts)
    (_, guessed), (_, known) = task.shortcuts().items()
    for reached in (guessed, known):
        assert reached.families.tolist() == task._test[1].families.ravel().tolist()
        assert reached.pointed is None
    without, contained = accuracy(guessed, FAMILIES), accuracy(known, FAMILIES)
    assert max(without["attribute"], without["relation"]) < 0.2  # ten digits, seven colours
    assert without["count"] < 0.5
    assert contained["count"] == 1
    assert 0.2 < contained["relation"] < 0.4  # six digits, some of them twice


@pytest.mark.parametrize("size", [40, 44, 64])
def test_boxes_lie_inside_and_apart(size: int) -> None:
    scenes = compose(load_digits()[0], np.random.default_rng(0), 100, size, 2)
    counts = set()
    for scene in range(len(scenes)):
        objects = objects_of(scenes, scene)
        counts.add(len(objects))
        for one in objects:
            assert 0 <= one["row"] <= size - SIDE
            assert 0 <= one["column"] <= size - SIDE
        for one, other in combinations(objects, 2):
            assert max(abs(one["row"] - other["row"]), abs(one["column"] - other["column"])) >= SIDE + GAP
    assert counts == set(range(2, MOST_DIGITS + 1))


def test_digits_have_their_colour_and_clutter_is_dimmer() -> None:
    scenes, _ = drawn(strict=True)
    palette = np.array(list(COLOURS.values()), float)
    for scene in range(100):
        picture = scenes.pictures[scene].astype(float)  # (3, size, size)
        outside = np.ones((SIZE, SIZE), bool)
        for one in objects_of(scenes, scene):
            rows, columns = slice(one["row"], one["row"] + SIDE), slice(one["column"], one["column"] + SIDE)
            outside[rows, columns] = False
            pixels = picture[:, rows, columns].reshape(3, -1).T
            brightest = pixels[pixels.max(1).argmax()]
            assert brightest.max() > 180
            assert list(COLOURS)[np.linalg.norm(palette - brightest, axis=1).argmin()] == one["colour"]
        assert picture[:, outside].max() < 0.46 * 255


def test_a_canvas_too_small_for_its_digits_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        free_corners(np.random.default_rng(0), 1, 20, MOST_DIGITS)
    for size in (0, 30, 36, 42, -40):
        with pytest.raises(UserError, match="pixels"):
            DigitScenes(size=size)


def test_every_stage_of_every_size_can_be_drawn() -> None:
    for size in (40, 44, 72):
        for progress in (0.0, 0.3, 0.5, 1.0):
            batches = list(tiny(size=size, batches_per_epoch=1).batches(0, 0, progress))
            assert len(batches) == 1
            assert batches[0][0].shape[2] <= size
    assert batches[0][0].shape[2] == 72


def equal(one: list[tuple[Tensor, ...]], other: list[tuple[Tensor, ...]]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    task = tiny()
    first = list(task.batches(1, 2, 1.0))
    assert len(first) == task.length(1) == 2
    for attention in ("none", "additive"):  # making a variant draws numbers, and changes no batch
        task.model(attention, 5)
        assert equal(first, list(task.batches(1, 2, 1.0)))
    assert equal(first, list(tiny().batches(1, 2, 1.0)))
    assert not torch.equal(first[0][0], first[1][0])
    for other in (task.batches(1, 3, 1.0), task.batches(2, 2, 1.0)):
        assert not torch.equal(first[0][0], next(iter(other))[0])


def test_the_test_is_fixed_and_of_its_own_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes, questions = tiny()._test
    again, questions_again = tiny(batch=8, batches_per_epoch=3)._test
    assert np.array_equal(scenes.pictures, again.pictures)
    assert np.array_equal(questions.words, questions_again.words)
    assert len(scenes) == 20
    assert not np.array_equal(scenes.pictures, tiny()._validation[0].pictures[:20])
    full, _ = DigitScenes()._test
    assert len(full) == 500
    # Test digits: every box, noise aside, is nearest to an image of the test part.
    _, test = load_digits()
    for scene in range(5):
        for one in objects_of(scenes, scene):
            box = scenes.pictures[scene][:, one["row"] : one["row"] + SIDE, one["column"] : one["column"] + SIDE]
            ink = box.max(0) / max(COLOURS[one["colour"]])
            distance = ((test.images - ink) ** 2).sum((1, 2))
            assert test.labels[distance.argmin()] == one["label"]
            assert distance.min() < 1.5


def test_variants_share_their_initial_values() -> None:
    task = tiny()
    models = {attention: task.model(attention, 3).state_dict() for attention in VARIANTS}
    shared = [name for name in models["none"] if ".read.blocks.0.read." not in name]
    for state in models.values():
        assert [name for name in state if ".read.blocks.0.read." not in name] == shared
        assert all(torch.equal(state[name], models["none"][name]) for name in shared)
    other = task.model("none", 4).state_dict()
    drawn_ones = [name for name in shared if name.endswith("weight") and models["none"][name].std() > 0]
    assert len(drawn_ones) > 5
    assert not any(torch.equal(other[name], models["none"][name]) for name in drawn_ones)
    again, different = task.model("additive", 3).state_dict(), task.model("additive", 4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in models["additive"].items())
    assert any(not torch.equal(value, different[name]) for name, value in again.items() if ".0.read." in name)


class Pointer(AdditiveRead):
    """A read whose map is made by hand, over the memory's cells."""

    by_hand: Tensor

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = self.by_hand[: len(query)].clone()
        assert weights.shape == (len(query), query.shape[1], memory.shape[1])
        self.offer("attention", weights)
        return weights @ memory


@pytest.mark.parametrize("right", [True, False])
def test_pointing_against_a_map_by_hand(right: bool) -> None:
    task = tiny()
    scenes, questions = task._test
    model = task.model("additive", 0)
    pointer = Pointer(96, 96)
    cells = SIZE // CELL
    weights = torch.zeros(len(scenes), questions.words.shape[1], cells, cells)
    for scene in range(len(scenes)):
        for index, target in enumerate(questions.objects[scene]):
            row, column = scenes.corners[scene, target] + SIDE // 2  # of NOWHERE, anything
            if not right:
                row, column = (row + SIZE // 2) % SIZE, (column + SIZE // 2) % SIZE
            weights[scene, index, row // CELL, column // CELL] = 1
    pointer.by_hand = weights.flatten(2)
    model.core.read.blocks[0].read = pointer
    evaluation = task.evaluate(model, 0)
    attribute = (questions.families == FAMILIES.index("attribute")).sum()
    assert evaluation.pointed is not None
    assert evaluation.pointed.tolist() == [right] * int(attribute)
    assert len(evaluation.correct) == questions.answers.size
    assert evaluation.families.tolist() == questions.families.ravel().tolist()
    assert evaluation.groups.tolist() == [s for s in range(20) for _ in range(questions.answers.shape[1])]


def test_no_attention_points_nowhere_and_evaluating_changes_nothing() -> None:
    task = tiny()
    model = task.model("none", 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    evaluation = task.evaluate(model, 0)
    assert evaluation.pointed is None
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("attention", VARIANTS)
def test_readings_belong_to_the_examples(attention: str) -> None:
    task = tiny()
    examples, readings = task.examples(0), task.readings(task.model(attention, 0), 0)
    assert len(examples) == len(readings) == 16
    assert {one["family"] for one in examples} == set(FAMILIES)
    for example, reading in zip(examples, readings, strict=True):
        assert reading["correct"] == (reading["answer"] == example["truth"])
        assert 0 < reading["probability"] <= 1
        assert (example["box"] is None) == (example["family"] == "count")
        assert bool(reading["maps"]) == (attention != "none")
        for one in reading["maps"]:
            weights = np.array(one["weights"])
            assert weights.shape == (SIZE // CELL, SIZE // CELL)
            assert weights.sum() == pytest.approx(1, abs=1e-3)


def test_variants_are_what_their_names_and_notes_say() -> None:
    task = tiny()
    assert isinstance(task, HasNotes)
    assert list(task.notes) == list(VARIANTS)
    kinds = {name: type(task.model(name, 0).core.read.blocks[0].read) for name in VARIANTS}
    for name in ("additive", "stacked", "hard"):
        assert kinds[name] is mechanisms[name]
    assert kinds["spatial"] is mechanisms["softmax_pool"]
    assert kinds["multi_head"] is mechanisms["multi_head_cross"]
    # Products of vectors of ones: unscaled and projected, or over the root of their width.
    ones = torch.ones(1, 1, 96)
    scaled, general = (task.model(name, 0).core.read.blocks[0].read.score for name in ("scaled_dot", "general"))
    assert not list(scaled.parameters())
    assert scaled(ones, ones).item() == pytest.approx(96**0.5, rel=1e-4)
    assert general(ones, ones).item() == pytest.approx(general.query.weight.sum().item(), rel=1e-4)
    # Told is what it begins with, and the note names all of it.
    stay = task.model("find_then_move", 0).core.read.blocks[0].read.stay.weight[:, 0]
    told = [word for word, value in zip(WORDS, stay.tolist(), strict=True) if value < 0]
    assert sorted(told) == ["above", "below", "left", "right"]
    said = task.notes["find_then_move"]
    assert "it is told" in said
    assert all(word in said for word in told)


def test_an_unknown_attention_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'additive'") as error:
        tiny().check("aditive")
    assert all(name in str(error.value) for name in [*VARIANTS, *cores])
    for name in [*tiny().attentions, "relation_network"]:
        tiny().check(name)


class Plain(nn.Module):
    """The published network of PyTorch's own layers, made in the order in which they draw their first values."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 16), (16, 48), (48, 96))
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for _, out in sizes)
        self.place = nn.Linear(18, 96)
        self.word = nn.Embedding(len(WORDS), 96, padding_idx=0)
        nn.init.normal_(self.word.weight[1:], std=0.03)
        self.order = nn.Parameter(1 + torch.randn(LENGTH, 96) * 0.1)
        self.mix = nn.Sequential(nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96))
        self.project = nn.Linear(96, 96)
        self.think = nn.Sequential(nn.LayerNorm(96), nn.Linear(96, 192), nn.GELU(), nn.Linear(192, 96))
        self.query_norm, self.memory_norm = nn.LayerNorm(96), nn.LayerNorm(96)
        self.answer = nn.Sequential(nn.LayerNorm(96), nn.Linear(96, len(ANSWERS)))

    def forward(self, pictures: Tensor, words: Tensor, read: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        x = (pictures.float() - 50) / 85
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(F.max_pool2d(x, 2) if number else x)).relu()
        axis = torch.arange(SIZE // CELL).float()
        waves = [wave(2 * math.pi * axis / cells) for cells in (4, 8, 16, 32) for wave in (torch.sin, torch.cos)]
        line = torch.stack([axis / 8, *waves], 1)  # (cells, 9)
        grid = torch.cat([line[:, None].expand(-1, len(axis), -1), line.expand(len(axis), -1, -1)], 2)
        memory = self.memory_norm((x.movedim(1, -1) + self.place(grid)).flatten(1, 2))
        q = (self.word(words) * self.order).sum(2) / 3
        q = q + self.mix(q)
        q = q + self.project(read(self.query_norm(q), memory))
        return self.answer(q + self.think(q))


def test_the_published_model_starts_from_the_published_values_and_computes_what_is_written() -> None:
    """A change of what is drawn, of its order, or of a layer would change the README's numbers."""
    torch.manual_seed(3)
    plain = Plain().eval()
    torch.manual_seed(3)
    asking, asked, score = nn.Linear(96, 64, bias=False), nn.Linear(96, 64, bias=False), nn.Linear(64, 1, bias=False)

    def additive(query: Tensor, memory: Tensor) -> Tensor:
        hidden = torch.tanh(asking(query)[:, :, None] + asked(memory)[:, None])
        return score(hidden)[..., 0].softmax(-1) @ memory

    task = tiny()
    example = task.example(0)
    torch.testing.assert_close(task.model("additive", 3).eval()(*example), plain(*example, additive))


def test_the_first_steps_of_training_are_those_of_the_plain_network() -> None:
    task = tiny(batches_per_epoch=5)
    torch.manual_seed(1)
    plain = Plain()
    models = task.model("none", 1), plain
    optimisers = [torch.optim.AdamW(model.parameters(), lr=3e-3) for model in models]
    for pictures, words, answers in task.batches(1, 0, 1.0):
        logits = plain(pictures, words, lambda query, memory: memory.mean(1, keepdim=True))
        losses = task.loss(models[0], (pictures, words, answers)), F.cross_entropy(logits.mT, answers)
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
        for loss, optimiser in zip(losses, optimisers, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@pytest.mark.parametrize("attention", ["none", "stacked", "find_then_move"])
def test_a_model_that_is_kept_answers_people_about_files(attention: str, tmp_path: Path) -> None:
    task = tiny()
    model = task.model(attention, 0).eval()
    task.keep(model, tmp_path / "kept")
    again = load(tmp_path / "kept")
    scenes, questions = task._test
    Image.fromarray(scenes.pictures[0].transpose(1, 2, 0)).save(tmp_path / "scene.png")
    chances = model(*task.example(0))[0].softmax(-1)
    for index in (0, 2, 5, 9):
        said = again.answer(tmp_path / "scene.png", decode(questions.words[0, index]))
        assert said.text == ANSWERS[chances[index].argmax()]
        assert said.probabilities[said.text] == pytest.approx(chances[index].max().item(), rel=1e-3)
        assert [look.name for look in said.looks()] == ([] if attention == "none" else ["hop 1", "hop 2"])


def test_another_core_by_its_name_takes_the_place_of_the_read() -> None:
    task = tiny()
    model, other = task.model("stacked_attention", 3), task.model("additive", 3)
    assert type(model.core) is cores["stacked_attention"]
    for name, value in model.state_dict().items():
        if name.startswith(("sight.", "words.")):
            assert torch.equal(value, other.state_dict()[name])
    pictures, words = task.example(0)
    assert model(pictures, words).shape == (1, words.shape[1], len(ANSWERS))
    assert task.evaluate(model, 0).pointed is not None


def test_answers_have_the_probabilities_that_all_cores_are_trained_for_here() -> None:
    """One answer is right; some papers train each to be right or wrong by itself."""
    model = tiny().model("top_down", 0)
    assert cores["top_down"].loss == "soft"
    assert not model.independent
    said = model.answer(torch.zeros(3, SIZE, SIZE), "what colour is the one?", most=len(ANSWERS))
    assert sum(said.probabilities.values()) == pytest.approx(1)
