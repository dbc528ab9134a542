"""Sort-of-CLEVR as a task: its sets, its batches, and what it measures of a model."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from regard.attention import AdditiveRead, MultiHeadCrossAttention, MultiHeadSelfAttention, offering
from regard.attention.layout import OnMap, ReadMap
from regard.errors import UserError
from regard.experiment.training import accuracy
from regard.models.vqa import Recipe, VisualQuestionAnswering, cores, load
from regard.tasks.showing import answered
from regard.tasks.sort_of_clevr import SortOfClevr
from regard.tasks.sort_of_clevr import task as sort_of_clevr
from regard.tasks.sort_of_clevr.baselines import Part, baseline
from regard.tasks.sort_of_clevr.pointing import asked, found
from regard.tasks.sort_of_clevr.questions import KINDS, LENGTH, NOWHERE, Questions, decode, vectors, words
from regard.tasks.sort_of_clevr.scenes import COLOURS, Scenes
from regard.tasks.sort_of_clevr.task import AUGMENTATIONS, PARTS, VARIANTS, Batch, Results
from regard.tasks.task import HasShortcuts, Task


def reader(read: str, **arguments: int | str) -> Recipe:
    """A small model whose questions look once."""
    return Recipe(
        core="reader",
        arguments={"read": read, "arguments": arguments},
        image="convolutions",
        image_arguments={"widths": [16, 24, 32], "positions": "sines"},
        size=75,
        question="placed",
        question_arguments={"length": LENGTH, "width": 32},
    )


READERS = {
    "none": reader("mean"),
    "additive": reader("additive"),
    "dot": reader("dot", score="general"),
    "multi_head": reader("multi_head_cross", heads=4),
}


@cache
def shared(**settings: bool | int | str) -> SortOfClevr:
    """A task with few training scenes; tests change nothing in it."""
    return SortOfClevr(READERS, training_scenes=23, batch=5, **settings)  # pyright: ignore[reportArgumentType]


def keys(batch: Batch) -> list[bytes]:
    return [picture.contiguous().numpy().tobytes() for picture in batch.pictures]


def test_it_is_a_task() -> None:
    task = shared()
    assert isinstance(task, Task)
    assert task.families == KINDS[:6]
    assert shared(ternary=True).families == KINDS
    assert task.attentions == tuple(READERS)
    assert SortOfClevr().attentions == VARIANTS
    assert set(SortOfClevr().variants) == set(cores)


def test_the_sets_have_their_sizes_and_nothing_in_common() -> None:
    task = shared()
    sizes = {name: len(task.part(name)[0]) for name in PARTS}
    assert sizes == {"rule": 200, "more": 2000, "validation": 500}
    assert len(task.training[0]) == len(task.training[1]) == 23
    assert SortOfClevr().training_scenes == 9800
    places = [scenes.centres for scenes, _ in [task.training, *(task.part(name) for name in PARTS)]]
    assert len({scene.numpy().tobytes() for part in places for scene in part}) == 2723


def test_the_test_is_the_same_whatever_is_trained_on() -> None:
    fewer, more = SortOfClevr(training_scenes=2).part("rule"), shared().part("rule")
    assert torch.equal(fewer[0].owners, more[0].owners)
    assert torch.equal(fewer[1].answers, more[1].answers)
    assert torch.equal(shared(ternary=True).part("rule")[1].answers[:, :20], more[1].answers)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize(("ternary", "count", "width"), [(False, 20, 11), (True, 30, 18)])
def test_batches_hold_each_picture_once_with_all_its_questions(
    ternary: bool, count: int, width: int, augmentation: str
) -> None:
    for form, last in (("words", LENGTH), ("vector", width)):
        task = shared(ternary=ternary, augmentation=augmentation, questions=form)
        batches = list(task.batches(1, 2, 0.5))
        assert [len(batch.pictures) for batch in batches] == [5, 5, 5, 5, 3]
        assert len(batches) == task.length(1)
        for batch in batches:
            here = len(batch.pictures)
            assert batch.pictures.shape == (here, 3, 75, 75)
            assert batch.pictures.dtype == torch.uint8
            assert batch.questions.shape == (here, count, last)
            assert task.width == last
            assert batch.answers.shape == batch.kinds.shape == (here, count)
            assert batch.kinds.max() == (8 if ternary else 5)
        assert len({key for batch in batches for key in keys(batch)}) == 23


def test_without_augmentation_every_epoch_has_the_same_pictures_in_another_order() -> None:
    task = shared(augmentation="none")
    first, second = ([key for batch in task.batches(0, epoch, 0.0) for key in keys(batch)] for epoch in (0, 1))
    assert set(first) == set(second)
    assert first != second
    scenes, questions = task.training
    plain = [picture.contiguous().numpy().tobytes() for picture in scenes.pictures()]
    batch = next(iter(task.batches(0, 0, 0.0)))
    which = [plain.index(key) for key in keys(batch)]
    assert torch.equal(batch.answers, questions.answers[which])
    assert torch.equal(batch.kinds, questions.kinds[which])


def test_exchanged_colours_are_exchanged_in_picture_and_question_alike() -> None:
    """With the colours of a batch read off its pictures, the words name the same objects as before."""
    task = shared(augmentation="colours")
    scenes, questions = task.training
    ground = (scenes.owners == 6).flatten(1)
    palette = torch.tensor([*COLOURS.values()])
    moved = 0
    for batch in task.batches(3, 0, 0.0):
        white = (batch.pictures == 255).all(1).flatten(1)
        for row in range(len(batch.pictures)):
            scene = int((ground == white[row]).all(1).nonzero())
            assert torch.equal(batch.answers[row], questions.answers[scene])
            down, across = scenes.centres[scene].unbind(-1)
            shown = batch.pictures[row][:, down, across].T.long()  # the colour of each object
            colours = (shown[:, None] == palette).all(-1).long().argmax(-1).tolist()
            assert sorted(colours) == list(range(6))
            moved += colours != list(range(6))
            for index, target in enumerate(questions.objects[scene].tolist()):
                named = [name for name in COLOURS if name in decode(batch.questions[row, index]).split()]
                assert named == [list(COLOURS)[colours[target]]]
    assert moved > 18


def test_mirrors_change_about_half_of_the_sides() -> None:
    task = shared(augmentation="colours and mirrors")
    plain, mirrored = shared(augmentation="colours"), task
    answers = [torch.cat([batch.answers for batch in one.batches(3, 0, 0.0)]) for one in (plain, mirrored)]
    kinds = torch.cat([batch.kinds for batch in plain.batches(3, 0, 0.0)])
    changed = answers[0] != answers[1]
    sides = (kinds == KINDS.index("left")) | (kinds == KINDS.index("up"))
    assert 0.3 < changed[sides].double().mean() < 0.7
    assert not changed[~sides].any()


@pytest.mark.parametrize("reader", ["none", "additive"])
def test_attention_is_ablated_on_the_first_scenes_of_the_test(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups are those scenes; the outcomes are the model's, and in `removed` those with uniform weights."""
    monkeypatch.setattr(sort_of_clevr, "ABLATED", 7)
    task = shared()
    model = task.model(reader, 0)
    model.eval()
    with torch.no_grad():
        for value in model.core.parameters():  # so that an answer depends on where it looks
            value.mul_(9)
    scenes, questions = (one.take(slice(0, 7)) for one in task.part("more"))

    def right() -> Tensor:
        with torch.no_grad():
            said = model(scenes.pictures(), words(scenes, questions)).argmax(-1)  # pyright: ignore[reportArgumentType]
        return said == questions.answers  # pyright: ignore[reportAttributeAccessIssue]

    def uniform(offer: offering.Offer) -> Tensor:
        weights = offer.weights if isinstance(offer.weights, Tensor) else offer.weights(offering.Request())
        return torch.full_like(weights, 1 / weights.shape[-1])

    found = task.ablate(model, 3)
    whole, order = right(), found.groups.reshape(7, 20)[:, 0]
    assert sorted(order) == list(range(7))
    assert found.full.tolist() == whole[order].flatten().tolist()
    assert set(found.ablated) == (set() if reader == "none" else {"removed", "mean", "resampled"})
    if reader == "additive":
        with offering.replacing(uniform):
            without = right()
        assert found.ablated["removed"].tolist() == without[order].flatten().tolist()
        assert all(len(one) == 140 for one in found.ablated.values())
        assert not torch.equal(without, whole)


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    task = shared()
    torch.manual_seed(1)
    first = list(task.batches(1, 2, 1.0))
    task.model("additive", 5)
    torch.manual_seed(2)
    again = list(task.batches(1, 2, 0.0))
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    for other in (task.batches(1, 3, 1.0), task.batches(2, 2, 1.0)):
        assert not torch.equal(first[0].pictures, next(iter(other)).pictures)


def test_non_relational_questions_may_come_alone_first() -> None:
    task = SortOfClevr(READERS, alone=0.25, batch=5, training_scenes=23, learning_rate=0.003)
    for progress, count in ((0.0, 10), (0.2, 10), (0.25, 20), (1.0, 20)):
        for batch, whole in zip(task.batches(1, 0, progress), shared().batches(1, 0, progress), strict=True):
            assert batch.questions.shape[1] == batch.answers.shape[1] == batch.kinds.shape[1] == count
            assert torch.equal(batch.pictures, whole.pictures)
            assert torch.equal(batch.questions, whole.questions[:, :count])
            assert torch.equal(batch.answers, whole.answers[:, :count])
            assert (batch.kinds < 3).all() == (count == 10)
    assert task.learning_rate() == 0.003


def test_variants_share_their_initial_values() -> None:
    task = shared()
    models = {name: task.model(name, 3).state_dict() for name in READERS}
    names = [name for name in models["none"] if name.startswith(("sight.", "words."))]
    assert len(names) > 20
    for state in models.values():
        assert all(torch.equal(state[name], models["none"][name]) for name in names)
    assert not torch.equal(
        task.model("dot", 4).state_dict()["sight.backbone.0.weight"], models["dot"]["sight.backbone.0.weight"]
    )


@pytest.mark.parametrize("attention", READERS)
def test_the_loss_of_every_variant_falls(attention: str) -> None:
    task = shared()
    model = task.model(attention, 0)
    batch = next(iter(task.batches(0, 0, 0.0)))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss = task.loss(model, batch)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[0] == pytest.approx(torch.tensor(10.0).log().item(), abs=0.6)
    assert losses[-1] < 0.8 * losses[0]


class Recited(nn.Module):
    """Gives these answers, whatever is asked."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers, self.next = answers, 0

    def forward(self, pictures: Tensor, questions: Tensor) -> Tensor:
        rows = self.answers[self.next : self.next + len(pictures)]
        self.next += len(pictures)
        return torch.nn.functional.one_hot(rows, 10).float()


def test_evaluation_counts_right_answers_by_kind() -> None:
    task = shared()
    questions = task.part("rule")[1]
    answers = torch.where(questions.kinds == KINDS.index("count"), 0, questions.answers)
    answers[7] = 1 - answers[7].clamp(max=1)  # neither yes nor no where it was, and never a number or a shape
    evaluation = task.evaluation(Recited(answers), "rule")
    expected = (answers == questions.answers).flatten().tolist()
    assert evaluation.correct.tolist() == expected
    assert evaluation.families.tolist() == questions.kinds.flatten().tolist()
    assert evaluation.groups.tolist() == [scene for scene in range(200) for _ in range(20)]
    assert evaluation.pointed is None
    assert task.evaluate(Recited(task.part("more")[1].answers), 0).correct.all()
    assert task.validate(Recited(task.part("validation")[1].answers), 0).correct.all()


def test_results_stand_beside_the_baselines() -> None:
    task = shared(own_nearest_neighbour=True)
    results = task.results(Recited(task.part("rule")[1].answers), "rule")
    assert set(results.accuracy.values()) == {1.0}
    assert [*results.accuracy] == [*KINDS[:6], "non-relational", "relational"]
    assert results.pointing == {}
    assert results.baselines["counting"]["count"] > 0.9  # 23 scenes do not show every count of both shapes
    assert 0.3 < results.baselines["question"]["relational"] < 0.6
    lines = str(results).splitlines()
    assert lines[0] == "sort-of-CLEVR, rule: 200 scenes with the own-nearest-neighbour defect; augmentation: colours"
    assert lines[1].split() == ["accuracy", "question", "counting", "pair"]
    assert lines[7].split()[:1] == ["count"]
    assert lines[7].split()[1] == "100.00"
    assert len(lines) == 10


def test_both_measures_are_had_of_one_pass_and_baselines_are_learned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[str] = []

    def noted(name: str, *parts: Part) -> Tensor:
        learned.append(name)
        return baseline(name, *parts)

    monkeypatch.setattr("regard.tasks.sort_of_clevr.task.baseline", noted)
    task = SortOfClevr(READERS, training_scenes=23)
    answers = task.part("rule")[1].answers.roll(1, 0)
    model = Recited(answers)
    evaluation, results = task.tested(model, "rule")
    assert model.next == 200
    assert results == task.results(Recited(answers), "rule")
    assert evaluation.correct.tolist() == task.evaluation(Recited(answers), "rule").correct.tolist()
    assert learned == ["question", "counting", "pair"]


@pytest.mark.parametrize("ternary", [False, True])
def test_shortcuts_are_measured_where_models_are(ternary: bool) -> None:
    task = SortOfClevr(READERS, ternary=ternary, training_scenes=23)
    found = task.shortcuts()
    assert isinstance(task, HasShortcuts)
    assert [name.split()[0] for name in found] == ["the", "counting", "knowing"][: 2 + ternary]
    reached = accuracy(found["counting the squares, without knowing where anything is"], task.families)
    assert reached["count"] > 0.9  # learned from 23 scenes, which do not have every count
    assert reached["overall"] == float(task.baseline("counting", "more").double().mean())
    assert set(reached) == {*task.families, "overall"}


class Pointer(AdditiveRead):
    """A read whose map is made by hand: where the questions of the next scenes are pointed at."""

    by_hand: Tensor
    next: int = 0

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = self.by_hand[self.next : self.next + len(query)]
        self.next += len(query)
        assert weights.shape == (len(query), query.shape[1], memory.shape[1])
        self.offer("attention", weights)
        return weights @ memory


def pointing(task: SortOfClevr, where: Callable[[Scenes, Questions, tuple[int, int]], Tensor]) -> nn.Module:
    """A model that points at the cells that `where` gives, or at the last cell."""
    scenes, questions = task.part("rule")
    model = task.model("additive", 0)
    pictures, sentences = task.example(0)
    height, width = model.get_submodule("sight")(pictures).grid
    on = where(scenes, questions, (height, width)).flatten(2)
    pointer = Pointer(32, 32)
    pointer.by_hand = on / on.sum(-1, keepdim=True).clamp(min=1)
    pointer.by_hand[..., -1] += (~on.any(-1)).float()
    model.get_submodule("core.read.blocks.0").read = pointer
    assert sentences.shape == (1, 20, LENGTH)
    return model


def test_pointing_at_what_is_asked_about() -> None:
    task = shared()
    results = task.results(pointing(task, asked), "rule")
    (row,), (beside,) = results.pointing["asked"], results.pointing["found"]
    assert set(row.values()) == {1.0}
    assert set(beside) == {"closest", "furthest", "relational"}
    assert max(beside.values()) < 0.03  # where the boxes of two squares meet
    evaluation = task.evaluation(pointing(task, asked), "rule")
    assert evaluation.pointed is not None
    assert evaluation.pointed.all()
    assert len(evaluation.pointed) == 200 * 10
    assert str(results).splitlines()[1].split()[-4:] == ["asked", "mean", "found", "mean"]


def test_pointing_at_the_answer_and_its_mass() -> None:
    task = shared()
    correct, where = task.answer(pointing(task, found), "rule")
    questions = task.part("rule")[1]
    assert where is not None
    assert correct.shape == where.peak_found.shape[1:] == (200, 20)
    assert where.peak_found[0].tolist() == (questions.found != NOWHERE).tolist()
    assert where.mass_found[0][questions.kinds < 5].tolist() == pytest.approx([1.0] * int((questions.kinds < 5).sum()))
    itself = questions.found == questions.objects
    assert where.peak_asked[0].tolist() == itself.tolist() or where.peak_asked[0][itself].all()
    assert where.mass_asked[0][(questions.kinds == 4)].max() == 0


@pytest.mark.slow
def test_several_looks_come_after_their_mean() -> None:
    task = shared()
    model = task.model("multi_head", 0)
    assert isinstance(model, VisualQuestionAnswering)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.refine = OnMap(MultiHeadSelfAttention(32, heads=1))
            self.read = ReadMap(MultiHeadCrossAttention(32, 32, heads=1))

        def forward(self, pictures: Tensor, sentences: Tensor) -> Tensor:
            sight, asked = self.model.sight(pictures), self.model.words(sentences)
            self.refine(sight.as_map())  # neither is a look of the questions
            self.read(sight.tokens, sight.as_map())
            again = replace(asked, summary=self.model.core(sight, asked))
            return self.model.classifier(self.model.core(sight, again))

    _, one = task.answer(model, "rule")
    _, two = task.answer(Twice(), "rule")
    assert one is not None
    assert two is not None
    assert len(one.mass_asked) == 1
    assert len(two.mass_asked) == 3
    assert torch.allclose(two.mass_asked[1], one.mass_asked[0])
    assert torch.allclose(two.mass_asked[0], two.mass_asked[1:].mean(0), atol=1e-6)
    assert not torch.allclose(two.mass_asked[1], two.mass_asked[2])


def test_results_print_a_column_for_each_look() -> None:
    looks = {"asked": [{"left": 0.5}, {"left": 0.25}], "found": [{}, {"closest": 0.125}]}
    printed = str(Results({"left": 0.987654, "closest": 1.0}, {"pair": {"left": 0.0}}, looks, "a note"))
    assert printed.splitlines() == [
        "a note",
        "                accuracy    pair  asked mean  asked 1  found mean  found 1",
        "left               98.77    0.00       50.00    25.00",
        "closest           100.00                                             12.50",
    ]


def test_no_attention_points_nowhere_and_evaluating_changes_nothing() -> None:
    task = shared()
    model = task.model("none", 0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert task.evaluation(model, "rule").pointed is None
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("attention", ["none", "multi_head"])
def test_readings_belong_to_the_examples(attention: str) -> None:
    task = shared(ternary=True)
    examples, readings = task.examples(0), task.readings(task.model(attention, 0), 0)
    assert len(examples) == len(readings) == 16
    assert {one["family"] for one in examples} == set(KINDS)
    scenes, questions = task.part("rule")
    sentences = words(scenes, questions)
    for scene, (example, reading) in enumerate(zip(examples, readings, strict=True)):
        asked_here = [decode(sentence) for sentence in sentences[scene]]
        index = asked_here.index(example["question"])
        assert KINDS[questions.kinds[scene, index]] == example["family"]
        column, row, wide, high = example["box"]
        assert [row + 5, column + 5] == scenes.centres[scene, questions.objects[scene, index]].tolist()
        assert (wide, high) == (11, 11)
        assert example["picture"].startswith("data:image/png;base64,")
        assert reading["correct"] == (reading["answer"] == example["truth"])
        assert 0 < reading["probability"] <= 1
        assert [one["label"] for one in reading["maps"]] == ([] if attention == "none" else ["attention"])
        for one in reading["maps"]:
            assert torch.tensor(one["weights"]).sum() == pytest.approx(1, abs=1e-3)


def test_vectors_of_a_batch_are_those_of_its_scenes() -> None:
    task = shared(questions="vector", augmentation="none")
    pictures, asked_here = task.example(0)
    scenes, questions = task.part("rule")
    assert torch.equal(asked_here, vectors(scenes, questions, 11)[:1])
    assert torch.equal(pictures, scenes.take(slice(0, 1)).pictures())


def test_wrong_settings_say_what_there_is() -> None:
    with pytest.raises(UserError, match="'colours and mirrors'"):
        SortOfClevr(augmentation="colors")
    with pytest.raises(UserError, match="choose one of 'words', 'vector'"):
        SortOfClevr(questions="text")
    for count in (0, 9801):
        with pytest.raises(UserError, match="1 to 9,800"):
            SortOfClevr(training_scenes=count)
    for share in (-0.1, 1.1):
        with pytest.raises(UserError, match="from 0 to 1"):
            SortOfClevr(alone=share)
    with pytest.raises(UserError, match="at least one scene"):
        SortOfClevr(batch=0)
    with pytest.raises(UserError, match="did you mean 'additive'"):
        shared().check("aditive")
    with pytest.raises(UserError, match="There are none, additive"):
        shared().model("se", 0)
    with pytest.raises(UserError, match="'rule', 'more', 'validation'"):
        shared().part("test")
    with pytest.raises(UserError, match="'question', 'counting', 'pair'"):
        shared().baseline("guess")
    shared().check("dot")
    with pytest.raises(UserError, match=r"did you mean 'relation_network'\? There are question_only, .*query_former"):
        SortOfClevr().check("relation_networks")


# Every core is tested at tiny sizes in tests/models/vqa; here, those that `regard compare` takes unless told otherwise.
@pytest.mark.parametrize("core", VARIANTS)
def test_a_core_by_its_name_learns_from_words_and_points(core: str) -> None:
    task = SortOfClevr(training_scenes=1, batch=1)
    model = task.model(core, 0)
    task.loss(model, next(iter(task.batches(0, 0, 0.0)))).backward()
    assert next(model.parameters()).grad is not None or core == "question_only"
    scenes, questions = task.part("rule")
    task.__dict__["_rule"] = scenes.take(slice(1)), questions.take(slice(1))
    evaluation = task.evaluation(model, "rule")
    assert len(evaluation.correct) == 20
    assert (evaluation.pointed is not None) == cores[core].attends


def test_questions_may_come_as_vectors_to_a_core_by_its_name() -> None:
    task = SortOfClevr(questions="vector", ternary=True, training_scenes=3, batch=3)
    batch = next(iter(task.batches(0, 0, 0.0)))
    assert task.model("concatenation", 0)(batch.pictures, batch.questions).shape == (3, 30, 10)


def test_what_asks_for_each_question_by_itself_points_all_the_same() -> None:
    """A core that repeats the picture for every question has a map a question, in the order of the questions."""
    task = shared()
    model = task.model("additive", 0)
    batch = next(iter(task.batches(0, 0, 0.0)))
    logits, (look,) = answered(model, batch.pictures, batch.questions, watched=True)
    model.get_submodule("core").one_at_a_time = True
    apart, (same,) = answered(model, batch.pictures, batch.questions, watched=True)
    torch.testing.assert_close(apart, logits)
    torch.testing.assert_close(same, look)


@pytest.mark.parametrize(("ternary", "counts"), [(False, {"1", "6"}), (True, {"1 (0 between or obtuse)"})])
def test_a_model_that_is_kept_answers_people_in_words(ternary: bool, counts: set[str], tmp_path: Path) -> None:
    task = shared(ternary=ternary)
    model = task.model("additive", 0)
    task.keep(model, tmp_path)
    again = load(tmp_path)
    assert counts | {"yes", "no", "square", "circle"} <= set(again.answers)
    batch = next(iter(task.batches(0, 0, 0.0)))
    chances = model.eval()(batch.pictures, batch.questions)[0].softmax(-1)
    for index in (0, 11):
        said = again.answer(batch.pictures[0], decode(batch.questions[0, index]))
        assert said.text == again.answers[chances[index].argmax()]
        assert said.probabilities[said.text] == pytest.approx(chances[index].max().item(), rel=1e-3)
    assert said.look().shape == (10, 10)


def test_of_a_model_of_ones_own_the_weights_are_kept(tmp_path: Path) -> None:
    task = SortOfClevr({"mine": lambda: nn.Linear(2, 3)}, training_scenes=3)
    task.keep(task.model("mine", 0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.slow
def test_questions_bring_in_no_library_of_pictures() -> None:
    ours = "regard.tasks.vqa, regard.tasks.sort_of_clevr, regard.tasks.digit_scenes, regard.models.vqa"
    script = f"import sys, {ours}; print(*{{'timm', 'torchvision', 'transformers', 'sklearn'}} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
