"""Questions about one's own pictures: parts, batches, targets, kept features, measure, and what the report shows."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import softplus

from regard.errors import UserError
from regard.models.vqa import Recipe, cores, load
from regard.models.vqa.core import Loss
from regard.tasks.task import Task
from regard.tasks.vqa import seeing
from regard.tasks.vqa.accuracy import vqa_accuracy
from regard.tasks.vqa.answers import (
    AnswerVocabulary,
    consensus_cross_entropy,
    distribution_divergence,
    sampled_cross_entropy,
    soft_binary_cross_entropy,
    weighted_likelihood,
)
from regard.tasks.vqa.asked import MOST
from regard.tasks.vqa.outcomes import Prior, kind_of, measure_of, outcomes
from regard.tasks.vqa.question import Question, Questions
from regard.tasks.vqa.source import Source
from regard.tasks.vqa.targets import Targets
from regard.tasks.vqa.task import VisualQuestions, _painted, split
from small_photos import ASKED, official, photos, table

SMALL = {"widths": [5, 7], "positions": "sines"}


def recipe(core: str = "stacked_attention", **changed: Any) -> Recipe:
    given: dict[str, Any] = {
        "image": "convolutions", "image_arguments": SMALL, "size": 19, "question": "gru",
        "question_arguments": {"width": 11, "embedding_width": 3},
    }  # fmt: skip
    return Recipe(core, **{**given, **changed})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    official(folder, photos(folder))
    return folder


def own(folder: Path) -> Source:
    return Source(folder / "questions.csv", folder)


@pytest.fixture(scope="module")
def task(folder: Path) -> VisualQuestions:
    return VisualQuestions(own(folder).read(), recipe=recipe(), batch=3)


def question(text: str = "what?", *answers: str, **more: Any) -> Question:
    return Question(Path("a.png"), text, answers, **more)


def test_attention_is_ablated_on_the_test_questions(task: VisualQuestions) -> None:
    """Of a model that reads uniformly already, removing what it reads with changes nothing."""
    model = task.model("stacked_attention", 0)
    found = task.ablate(model, 0)
    full = task.evaluate(model, 0)
    assert len(found.full) == len(full.correct)
    assert found.full.mean() == pytest.approx(full.correct.mean())
    for picture in np.unique(full.groups):
        assert found.full[found.groups == picture].sum() == pytest.approx(full.correct[full.groups == picture].sum())
    assert set(found.ablated) == {"removed", "mean", "resampled"}
    plain = task.ablate(task.model("question_only", 0), 0)
    assert (dict(plain.ablated), dict(plain.changed)) == ({}, {})


# Sources


def test_a_table_is_known_by_not_being_json(folder: Path) -> None:
    assert own(folder).format == "table"
    assert len(own(folder).read()) == 39


TINY: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "VQA": (
        {"info": {"x": 1}, "questions": [{"image_id": 1, "question": "who?", "question_id": 5}]},
        "000000000001.jpg", {},
    ),
    "GQA": ({"7": {"semantic": [{"operation": "a"}], "imageId": "1", "question": "who?", "answer": "me"}}, "1.jpg", {}),
    "CLEVR": (
        {"questions": [{"program": [], "image_filename": "1.jpg", "question": "who?", "answer": "me"}]}, "1.jpg", {}
    ),
    "TextVQA": (
        {"data": [{"question": "who?", "image_id": "1", "question_id": 5, "answers": ["me"] * 10}]}, "1.jpg", {}
    ),
    "Visual Genome": (
        [{"id": 1, "qas": [{"qa_id": 2, "question": "who?", "answer": "me"}]}], "1.jpg",
        {"image_data": [{"image_id": 1, "url": "https://somewhere/VG_100K/1.jpg"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_a_format_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    content, picture, beside = TINY[name]
    (tmp_path / "q.json").write_text(json.dumps(content))
    (tmp_path / picture).write_bytes(b"")
    more = {}
    for key, value in beside.items():
        (tmp_path / f"{key}.json").write_text(json.dumps(value))
        more[key] = tmp_path / f"{key}.json"
    source = Source(tmp_path / "q.json", tmp_path, **more)
    assert source.format == name
    assert [one.question for one in source.read()] == ["who?"]
    assert Source.from_json(json.loads(json.dumps(source.as_json()))).read()[0] == source.read()[0]


def test_what_is_no_source_of_questions_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        Source(folder / "questions.csv", folder / "nowhere").read()
    with pytest.raises(UserError, match="not that of the answers"):
        Source(folder / "answered.json", folder).read()
    with pytest.raises(UserError, match=r"--annotations .* belongs to VQA"):
        Source(folder / "questions.csv", folder, annotations=folder / "answered.json").read()
    with pytest.raises(UserError, match="no file"):
        Source(folder / "missing.json", folder).read()
    (tmp_path / "g.json").write_text(json.dumps(TINY["Visual Genome"][0]))
    with pytest.raises(UserError, match="--image-data"):
        Source(tmp_path / "g.json", tmp_path).read()


def test_a_table_without_answers_can_be_asked(folder: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "q.csv", [("0.png", "what shape is it?")], "image,question")
    questions = Source(path, folder).read()
    assert questions[0].answers == ()
    with pytest.raises(UserError, match=r"1 of 1 questions .* no answer"):
        VisualQuestions(questions, recipe=recipe())


@pytest.mark.parametrize(("name", "content"), [("VQA", [{"question_id": 5, "answer": "he"}]), ("CLEVR", "he\n")])
def test_answers_are_written_as_the_server_takes_them(tmp_path: Path, name: str, content: Any) -> None:
    (tmp_path / "q.json").write_text(json.dumps(TINY[name][0]))
    (tmp_path / TINY[name][1]).write_bytes(b"")
    source = Source(tmp_path / "q.json", tmp_path)
    source.write(tmp_path / "p", ["he"], list(source.read()))
    text = (tmp_path / "p").read_text()
    assert (json.loads(text) if name == "VQA" else text) == content


def test_answers_to_a_table_are_a_table(folder: Path, tmp_path: Path) -> None:
    questions = own(folder).read().select([2, 0])
    own(folder).write(tmp_path / "p.csv", ["no, never", "red"], list(questions))
    written = Source(tmp_path / "p.csv", folder).read()
    assert [(one.image, one.question, one.answers) for one in written] == [
        (folder / "0.png", ASKED[2], ("no, never",)),
        (folder / "0.png", ASKED[0], ("red",)),
    ]


# Measures


def test_ten_people_are_measured_officially_and_one_by_exact_match() -> None:
    ten = ("red",) * 3 + ("dark red",) * 7
    asked = [question("a", *ten), question("b", "Two  Cats"), question("c", "no")]
    right = outcomes(asked, ["Red!", "two cats", "yes"])
    assert right.tolist() == [pytest.approx(vqa_accuracy("Red!", ten)), 1.0, 0.0]
    assert 0.8 < right[0] < 1
    assert measure_of(asked) == "VQA accuracy (official) of 1, exact match of the other questions"
    assert measure_of(asked[:1]) == "VQA accuracy (official)"
    assert measure_of(asked[1:]) == "exact match"
    assert outcomes([question("a", "two.")], ["2"]).tolist() == [0]
    assert outcomes([question("a", "two.")], ["2"], clean=True).tolist() == [1]


def kinds(questions: list[Question]) -> list[str]:
    return list(map(kind_of(questions), questions))


def test_kinds_are_answer_types_or_question_types_or_what_the_answer_is() -> None:
    both = [question("a", "b", answer_type="open", question_type="x"), question("a", "b", answer_type="closed")]
    assert kinds(both) == ["open", "closed"]
    assert kinds([question("a", "b", question_type="x"), question("a", "b", question_type="y")]) == ["x", "y"]
    plain = [question("a", answer) for answer in ("Yes", "no", "two", "3.5", "a dog")]
    assert kinds(plain) == ["yes/no", "yes/no", "number", "number", "other"]
    many = [question("a", "no", question_type=str(number)) for number in range(21)]
    assert set(kinds(many)) == {"yes/no"}


def test_the_prior_is_the_most_frequent_answer_of_the_type() -> None:
    training = [question("what color is x", answer) for answer in ("red", "blue", "blue")]
    training += [question("is it x", answer) for answer in ("yes", "no")]  # as often: the first of the alphabet
    prior = Prior(training)
    assert prior.answer(question("what color has it")) == "blue"
    assert prior.answer(question("is it y")) == "no"
    assert prior.answer(question("where")) == "blue"
    assert Prior([question("a", "x", question_type="t")]).answer(question("b", question_type="t")) == "x"


# Parts


def test_no_picture_is_in_two_parts_and_no_question_is_lost(folder: Path) -> None:
    questions = own(folder).read()
    parts = split(questions, 0.2, 0.1)
    pictures = {name: {one.image for one in part} for name, part in parts.items()}
    assert {name: len(some) for name, some in pictures.items()} == {"test": 3, "validation": 1, "training": 9}
    assert len(set().union(*pictures.values())) == 13
    assert Counter(one for part in parts.values() for one in part) == Counter(questions)
    assert split(questions, 0.0, 0.5).keys() == parts.keys()
    assert len(split(questions, 0.0, 0.5)["test"]) == 0


def test_too_few_pictures_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="asks about 2 pictures: expected at least 3"):
        split(own(folder).read().select([0, 3]), 0.2, 0.1)


def test_words_and_answers_come_from_training_alone(folder: Path) -> None:
    all_questions = own(folder).read()
    last = split(all_questions, 0.2, 0.1)["test"][0]
    odd = [
        Question(one.image, "what is unheard?", ("unseen",)) if one.image == last.image else one
        for one in all_questions
    ]
    task = VisualQuestions(Questions(odd, "odd"), recipe=recipe(), batch=3)
    assert "unseen" not in task.answers.answers
    assert task.words is not None
    assert "unheard" not in task.words.words
    evaluation = task.evaluate(task.model("stacked_attention", 0), 0)
    about = np.array([one.image == last.image for one in task.test.questions])
    assert about.sum() == 3
    assert not evaluation.correct[about].any()
    assert np.unique(evaluation.groups[about]).size == 1


def test_other_questions_can_be_the_test_but_not_about_trained_pictures(folder: Path, tmp_path: Path) -> None:
    mine, theirs = (table(tmp_path / name, []) for name in ("mine.csv", "theirs.csv"))
    rows = [(f"{number}.png", "what shape is it?", "disc") for number in range(13)]
    table(mine, rows[:5]), table(theirs, rows[5:8])
    first = Source(mine, folder).read()
    task = VisualQuestions(first, test=Source(theirs, folder).read(), recipe=recipe())
    assert [one.image.name for one in task.test.questions] == ["5.png", "6.png", "7.png"]
    table(theirs, rows[4:8])
    with pytest.raises(UserError, match=r"1 questions of .*theirs\.csv are about pictures"):
        VisualQuestions(first, test=Source(theirs, folder).read(), recipe=recipe())
    for pictures in (folder, folder / ".." / folder.name):  # the training file itself, and by another spelling
        with pytest.raises(UserError, match=r"5 questions of .*mine\.csv are about pictures"):
            VisualQuestions(first, test=Source(mine, pictures).read(), recipe=recipe())


def test_a_picture_is_in_one_part_however_its_path_is_spelled(folder: Path, tmp_path: Path) -> None:
    (folder / "deeper").mkdir()
    spellings = ("{}.png", "deeper/../{}.png")
    rows = [(spelling.format(number), "what?", "disc") for spelling in spellings for number in range(5)]
    parts = split(Source(table(tmp_path / "twice.csv", rows), folder).read(), 0.4, 0.2)
    pictures = {name: [one.image.resolve() for one in part] for name, part in parts.items()}
    assert {name: (len(some), len(set(some))) for name, some in pictures.items()} == {
        "test": (4, 2), "validation": (2, 1), "training": (4, 2)
    }  # fmt: skip


def test_kinds_are_decided_once_for_validation_and_test(folder: Path, tmp_path: Path) -> None:
    typed = table(
        tmp_path / "typed.csv",
        [(f"{number}.png", "what?", "disc", "shape") for number in range(5)],
        "image,question,answer,question_type",
    )
    untyped = table(tmp_path / "untyped.csv", [("7.png", "what?", "disc"), ("8.png", "is it?", "no")])
    first, other = (Source(path, folder).read() for path in (typed, untyped))
    assert VisualQuestions(first, recipe=recipe()).families == ("shape",)
    task = VisualQuestions(first, test=other, recipe=recipe())
    assert task.families == ("other", "yes/no")
    assert [task.families[at] for at in task.validate(task.model("question_only", 0), 0).families] == ["other"]
    assert {one["family"] for one in task.examples(0)} == {"other", "yes/no"}


def test_a_picture_that_cannot_be_read_is_refused_or_left_out(folder: Path, tmp_path: Path) -> None:
    rows = photos(tmp_path, 7)
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"3 of 21 questions .*3\.png"):
        VisualQuestions(own(tmp_path).read(), recipe=recipe())
    task = VisualQuestions(own(tmp_path).read(), recipe=recipe(), skip_bad=True)
    parts = (task.training, task.validation, task.test)
    assert sum(len(part.questions) for part in parts) == len(rows) - 3
    assert len(task.skipped) == 3
    assert all("3.png" in one for one in task.skipped)


# Batches


def test_an_epoch_asks_every_training_question_once_in_another_order(task: VisualQuestions) -> None:
    def asked(seed: int, epoch: int) -> list[int]:
        return [number for batch in task.batches(seed, epoch, 0.0) for number in batch.questions.tolist()]

    assert sorted(asked(0, 0)) == list(range(len(task.training.questions)))
    assert asked(0, 0) == asked(0, 0)
    assert asked(0, 0) != asked(0, 1)
    assert asked(0, 0) != asked(1, 0)
    assert len(list(task.batches(0, 0, 0.0))) == task.length(0) == 3


def test_a_picture_that_would_be_alone_in_a_batch_waits_for_another_epoch(folder: Path) -> None:
    task = VisualQuestions(own(folder).read(), recipe=recipe(), batch=4)
    epochs = [[batch.pictures.tolist() for batch in task.batches(0, epoch, 0.0)] for epoch in range(4)]
    assert [[len(batch) for batch in batches] for batches in epochs] == [[4, 4]] * 4  # of nine
    assert task.length(0) == 2
    assert {picture for batches in epochs for batch in batches for picture in batch} == set(range(9))


def test_a_question_is_answered_alike_alone_and_among_others(folder: Path) -> None:
    rows = [("0.png", "what color is it?", "red"), ("0.png", "is it now and then a thing?", "no")]
    rows += [("1.png", "what?", "disc"), ("2.png", "what shape is it?", "disc")]
    questions = Source(table(folder / "ragged.csv", rows), folder).read()
    task = VisualQuestions(questions, recipe=recipe(), batch=5)
    asked = type(task.test)(questions, task.words, lambda at: task.view.pixels(questions.picture(at, 19)))  # type: ignore
    model = task.model("stacked_attention", 3).eval()
    (batch,) = asked.batches([asked.rows])
    assert batch.asked.tolist() == [[True, True], [True, False], [True, False]]
    together = asked.ask(model, batch)
    assert batch.questions.tolist() == [0, 1, 2, 3]
    for number, one in enumerate(questions):
        words = torch.tensor([model.vocabulary.encode(one.question)])  # type: ignore[union-attr]
        alone = model(model.view(one.image)[None], words)[0]  # type: ignore[misc]
        torch.testing.assert_close(together[number], alone, atol=1e-5, rtol=1e-4)
    assert asked.chosen(model).tolist() == together.argmax(1).tolist()


def test_a_picture_with_very_many_questions_stands_in_several_rows(folder: Path) -> None:
    rows = [("0.png", f"what is {number}?", "red") for number in range(2 * MOST + 3)]
    questions = Source(table(folder / "many.csv", [*rows, ("1.png", "a", "b"), ("2.png", "a", "b")]), folder).read()
    task = VisualQuestions(questions, recipe=recipe())
    rows_of = [row for part in (task.training, task.validation, task.test) for row in part.rows]
    assert sorted(len(row.questions) for row in rows_of) == [1, 1, 3, MOST, MOST]


# What is chosen from, and how fast is learned


def test_where_there_are_many_questions_an_answer_must_occur_nine_times(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"{number}.png", f"{at}?", "disc") for number in range(13) for at in range(3)]
    asked = Source(table(folder / "discs.csv", rows), folder).read()
    training = split(asked, 0.2, 0.1)["training"]
    assert len(training) == 27

    def known(often: int) -> tuple[str, ...]:
        """What can be answered where “square” is the answer to so many questions of training."""
        squares = set(training[:often])
        given = [replace(one, answers=("square",)) if one in squares else one for one in asked]
        return VisualQuestions(Questions(given, "discs"), recipe=recipe()).answers.answers

    assert known(1) == ("disc", "square")
    monkeypatch.setattr("regard.tasks.vqa.task.MANY", 27)
    assert known(9) == ("disc", "square")
    assert known(8) == ("disc",)
    monkeypatch.setattr("regard.tasks.vqa.task.MANY", 28)
    assert known(8) == ("disc", "square")


def test_published_weights_are_trained_on_more_slowly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **rest: create(name, **rest))

    def rate(**given: Any) -> float:
        made_of = recipe(image="test_resnet", image_arguments=given, size=32)
        return VisualQuestions(own(folder).read(), recipe=made_of).learning_rate()

    assert rate() == 5e-4
    assert rate(pretrained=True) == 1e-4
    assert rate(pretrained=True, frozen=True) == 5e-4  # what is learned there is fresh
    assert VisualQuestions(own(folder).read(), recipe=recipe(), learning_rate=3e-3).learning_rate() == 3e-3


def test_a_whole_model_is_trained_on_more_slowly(folder: Path, checkpoints: dict[str, Path]) -> None:
    for core in ("vilt", "blip"):
        whole = VisualQuestions(own(folder).read(), recipe=Recipe(core, size=12, question=str(checkpoints[core])))
        assert whole.learning_rate() == 1e-4


# Targets


def test_losses_are_those_of_the_papers_with_the_targets_of_the_vocabulary() -> None:
    ten = ("a cat",) * 5 + ("two",) * 3 + ("never",) + ("cats",)
    asked = [question("a", *ten, consensus="a cat"), question("b", "2"), question("c", "secret")]
    answers = AnswerVocabulary(("cat", "2", "cats", "dog"))
    targets = Targets.of(asked, answers)
    logits = torch.randn(3, 4)
    rows = torch.tensor([0, 1, 2])
    shares = torch.stack([answers.targets(one.answers, "counts") for one in asked])
    scores = torch.stack([answers.targets(ten, "subsets"), *shares[1:]])
    assert torch.equal(
        targets.loss("consensus", logits, rows), consensus_cross_entropy(logits, torch.tensor([0, 1, -1]))
    )
    torch.testing.assert_close(targets.loss("soft", logits, rows), soft_binary_cross_entropy(logits, scores))
    torch.testing.assert_close(targets.loss("distribution", logits, rows), distribution_divergence(logits, shares))
    torch.testing.assert_close(targets.loss("likelihood", logits, rows), weighted_likelihood(logits, shares))
    torch.manual_seed(7)
    one = targets.loss("sampled", logits, rows)
    torch.manual_seed(7)
    torch.testing.assert_close(one, sampled_cross_entropy(logits, shares))
    some = torch.tensor([1, 0])
    torch.testing.assert_close(
        targets.loss("soft", logits[:2], some), soft_binary_cross_entropy(logits[:2], scores[some])
    )


def test_the_score_of_a_choice_is_its_official_accuracy() -> None:
    ten = ("red",) * 2 + ("blue",) * 8
    answers = AnswerVocabulary(("blue", "red", "green"))
    targets = Targets.of([question("a", *ten)] * 3, answers)
    found = targets.score(torch.tensor([0, 1, 2])).tolist()
    assert found == pytest.approx([vqa_accuracy(answer, ten) for answer in answers.answers])


# Models


def test_it_is_a_task_whose_variants_share_all_but_their_core(task: VisualQuestions) -> None:
    assert isinstance(task, Task)
    one, other, again = (task.model(name, seed) for name, seed in (("mlb", 5), ("question_only", 5), ("mlb", 6)))
    shared = [name for name in one.state_dict() if name.startswith(("sight.", "words."))]
    assert len(shared) > 5
    for name in shared:
        assert torch.equal(one.state_dict()[name], other.state_dict()[name]), name
    assert any(not torch.equal(one.state_dict()[name], again.state_dict()[name]) for name in shared)
    before = torch.random.get_rng_state()
    task.model("mlb", 5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_options_are_for_their_own_core_alone(folder: Path) -> None:
    own_layers = {"layers": 1, "width": 8, "heads": 2}
    task = VisualQuestions(own(folder).read(), recipe=recipe("mcan", arguments=own_layers))
    assert task.model("mcan", 0).recipe.arguments == own_layers  # type: ignore[union-attr]
    assert task.model("concatenation", 0).recipe.arguments == {}  # type: ignore[union-attr]
    with pytest.raises(UserError, match="unknown model 'mcam': did you mean 'mcan'"):
        task.check("mcam")
    with pytest.raises(UserError, match="share nothing"):
        task.check("vilt")


# What each core's paper says, or, of one about something else, what its data have: one answer a question.
LOSSES: dict[Loss, str] = {
    "consensus": "question_only image_only concatenation product flattened reader find_then_move question_spatial "
    "question_channel question_channel_spatial question_hard image_channel image_guided alternating_co_attention "
    "hierarchical_co_attention dual_attention relation_network film mac entity_stream hard_entity_stream "
    "cross_attention perceiver query_former",
    "sampled": "stacked_attention mlb mutan tucker mcb block",
    "distribution": "show_ask_attend_answer mfb mfh",
    "soft": "top_down top_down_product ban mcan",
}


def test_every_core_says_the_loss_of_its_paper() -> None:
    wanted = {core: loss for loss, names in LOSSES.items() for core in names.split()}
    assert {name: core.loss for name, core in cores.items()} == wanted


@pytest.mark.parametrize("core", ["question_only", "stacked_attention", "mfb", "top_down_product"])
def test_a_model_trains_with_the_loss_of_its_core(task: VisualQuestions, core: str) -> None:
    loss = next(loss for loss, names in LOSSES.items() if core in names.split())
    model = task.model(core, 0).eval()
    batch = next(iter(task.batches(0, 0, 0.0)))
    torch.manual_seed(1)
    wanted = Targets.of(task.training.questions, task.answers).loss(
        loss, task.training.ask(model, batch), batch.questions
    )
    torch.manual_seed(1)
    found = task.loss(model, batch)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert all(weight.grad is not None for weight in model.words.parameters())


def test_vilt_scores_each_answer_alone_and_blip_learns_to_say_what_people_said(
    folder: Path, checkpoints: dict[str, Path]
) -> None:
    questions = Source(folder / "asked.json", folder, folder / "answered.json").read()
    for core in ("vilt", "blip"):
        task = VisualQuestions(questions, recipe=Recipe(core, size=12, question=str(checkpoints[core])), batch=3)
        model = task.model(core, 0).eval()
        batch = next(iter(task.batches(0, 0, 0.0)))
        given = task.training.ask(model, batch)
        total = torch.zeros(())
        for at, number in enumerate(batch.questions.tolist()):
            people = task.training.questions[number].answers
            if core == "vilt":
                right = torch.tensor([vqa_accuracy(answer, people) for answer in task.answers.answers])
                total += (softplus(given[at]) - right * given[at]).sum()
            else:  # one in ten said what cannot be chosen
                known = [label for answer in people if (label := task.answers.label(answer)) >= 0]
                assert len(known) == 9
                total -= given[at, known].sum() / 10
        found = task.loss(model, batch)
        torch.testing.assert_close(found, total / len(batch.questions))
        found.backward()


def test_regions_from_files_take_the_place_of_pictures(folder: Path, tmp_path: Path) -> None:
    for number in range(13):
        boxes = np.array([[0, 0, 10, 20], [5, 5, 30, 31], [1, 2, 3, 4]][: 2 + number % 2], np.float32)
        features = np.random.default_rng(number).normal(size=(len(boxes), 6)).astype(np.float32)
        np.savez(tmp_path / f"{number}.png.npz", x=features, bbox=boxes, image_w=31, image_h=31)
    made_of = recipe(image="regions", image_arguments={})
    task = VisualQuestions(own(folder).read(), recipe=made_of, regions=tmp_path, batch=9)
    (batch,) = task.batches(0, 0, 0.0)
    assert batch.seen is not None
    assert batch.seen.features.shape[1:] == (3, 6)
    assert set(batch.seen.mask.sum(1).tolist()) == {2, 3}
    assert float(batch.seen.boxes.max()) == 1
    model = task.model("stacked_attention", 0)
    assert task.loss(model, batch).isfinite()
    shown = task.readings(model, 0)[0]["maps"][0]
    assert len(shown["weights"]) > 1
    assert model.sight.width == 6
    (tmp_path / "7.png.npz").rename(tmp_path / "7.npz")
    (tmp_path / "8.png.npz").unlink()
    with pytest.raises(UserError, match=r"no regions of .*8\.png"):
        VisualQuestions(own(folder).read(), recipe=made_of, regions=tmp_path)
    with pytest.raises(UserError, match="give both"):
        VisualQuestions(own(folder).read(), recipe=made_of)


def test_weights_of_regions_are_painted_where_their_boxes_lie() -> None:
    weights, boxes = torch.tensor([0.75, 0.25]), torch.tensor([[0.0, 0.0, 0.5, 0.25], [0.25, 0.125, 1.0, 1.0]])
    painted = _painted(weights, boxes)
    cells = len(painted)
    for row in range(cells):
        for column in range(cells):
            middle = ((column + 0.5) / cells, (row + 0.5) / cells)
            inside = [left < middle[0] < right and top < middle[1] < bottom for left, top, right, bottom in boxes]
            assert painted[row, column] == sum(weight for weight, there in zip(weights, inside, strict=True) if there)


# Frozen encoders


FROZEN = recipe(image_arguments={"widths": [5, 7], "frozen": True})


def seen_by(model: Any) -> list[int]:
    """How many pictures the encoder saw, call by call."""
    counts: list[int] = []
    model.sight.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    return counts


def test_a_frozen_encoder_sees_every_picture_once_and_says_the_same(folder: Path) -> None:
    task = VisualQuestions(own(folder).read(), recipe=FROZEN, batch=3)
    model = task.model("stacked_attention", 0).eval()
    counts = seen_by(model)
    batches = [batch for epoch in range(3) for batch in task.batches(0, epoch, 0.0)]
    assert all(batch.seen is None for batch in batches)
    kept = [task.training.ask(model, batch) for batch in batches]
    assert sum(counts) == 9 + 1  # one picture tells the shape
    task.training.fixed = False
    afresh = [task.training.ask(model, batch) for epoch in range(3) for batch in task.batches(0, epoch, 0.0)]
    assert sum(counts) == 9 + 1 + 3 * 9
    for one, other in zip(kept, afresh, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_another_encoder_gets_features_of_its_own(folder: Path) -> None:
    task = VisualQuestions(own(folder).read(), recipe=FROZEN, batch=13)
    (batch,) = task.batches(0, 0, 0.0)
    concatenation, other_core, other_seed = (
        task.model(core, seed) for core, seed in (("concatenation", 0), ("stacked_attention", 0), ("concatenation", 1))
    )
    first = task.training.features(concatenation)
    assert task.training.features(other_core) is first
    second = task.training.features(other_seed)
    one, other = (features.sight(batch.pictures, concatenation).tokens for features in (first, second))
    assert one.shape == other.shape == (9, 25, 7)
    assert not torch.equal(one, other)


def test_features_that_do_not_fit_into_memory_are_kept_in_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeing, "KEPT_BYTES", 100)
    for part in range(2):
        task = VisualQuestions(own(folder).read(), recipe=FROZEN, batch=13, folder=tmp_path / "kept")
        model = task.model("stacked_attention", 0).eval()
        counts = seen_by(model)
        (batch,) = task.batches(0, 0, 0.0)
        found = task.training.ask(model, batch)
        assert sum(counts) == (10 if part == 0 else 1)  # the second time they are read
        task.training.fixed = False
        (afresh,) = task.batches(0, 0, 0.0)
        torch.testing.assert_close(found, task.training.ask(model, afresh), atol=2e-3, rtol=2e-3)
    (file,) = (tmp_path / "kept").iterdir()
    assert file.suffix == ".npy"
    values = np.load(file)
    assert (values.dtype, values.shape) == (np.float16, (9, 25, 7))
    Image.new("RGB", (9, 9)).save(folder / "0.png")
    task = VisualQuestions(own(folder).read(), recipe=FROZEN, folder=tmp_path / "kept")
    for asked in (task.training, task.validation, task.test):
        asked.features(model)
    # Nothing that was kept is taken for a picture that has changed since.
    photos(folder)
    assert len(list((tmp_path / "kept").iterdir())) >= 3


def test_an_encoder_with_something_to_learn_is_never_kept(folder: Path) -> None:
    learning = recipe(image_arguments={**SMALL, "frozen": True})  # where cells lie is learned
    task = VisualQuestions(own(folder).read(), recipe=learning, batch=13)
    (batch,) = task.batches(0, 0, 0.0)
    assert batch.seen is not None


# Measured, kept and shown


def test_the_test_is_measured_officially_where_ten_people_answered(folder: Path) -> None:
    source = Source(folder / "asked.json", folder, folder / "answered.json")
    task = VisualQuestions(source.read(), recipe=recipe(), batch=5)
    assert task.measure == "VQA accuracy (official)"
    assert task.families == ("other", "yes/no")
    model = task.model("stacked_attention", 2)
    evaluation = task.evaluate(model, 2)
    answers = task.answered(model)
    wanted = [vqa_accuracy(said, one.answers) for said, one in zip(answers, task.test.questions, strict=True)]
    assert evaluation.correct.tolist() == pytest.approx(wanted)
    assert [task.families[at] for at in evaluation.families] == [one.answer_type for one in task.test.questions]
    assert len(np.unique(evaluation.groups)) == 3
    assert evaluation.pointed is None
    assert set(task.validate(model, 2).correct.round(5).tolist()) <= {0.0, 0.3, 1.0}
    (prior,) = task.shortcuts().values()
    assert prior.correct.shape == evaluation.correct.shape


def test_a_model_that_is_kept_answers_as_it_did(task: VisualQuestions, tmp_path: Path) -> None:
    model = task.model("stacked_attention", 4)
    task.keep(model, tmp_path)
    loaded = load(tmp_path)
    assert task.answered(loaded) == task.answered(model)
    said = Source(tmp_path / "predictions.csv", tmp_path).read()
    assert [one.answers[0] for one in said] == task.answered(model)
    asked = task.test.questions[0]
    assert loaded.answer(asked.image, asked.question).text == task.answered(model)[0]


def test_the_report_shows_questions_of_every_kind_and_where_was_looked(task: VisualQuestions) -> None:
    model = task.model("stacked_attention", 0)
    examples, readings = task.examples(0), task.readings(model, 0)
    assert len(examples) == len(readings) == 9
    assert {one["family"] for one in examples} == set(task.families)
    right = dict(
        zip([(q.image, q.question) for q in task.test.questions], task.evaluate(model, 0).correct, strict=True)
    )
    for shown, said in zip(examples, readings, strict=True):
        assert shown["picture"].startswith("data:image/png;base64,")
        assert (shown["width"], shown["height"]) == (31, 31)
        assert said["correct"] == bool(right[Path(shown["file"]), shown["question"]])
        assert 0 < said["probability"] <= 1
        assert said["maps"]
        for one in said["maps"]:
            assert np.array(one["weights"]).shape == (5, 5)
            assert one["sums_to_one"]
    assert task.readings(task.model("question_only", 0), 0)[0]["maps"] == []
    model.longest = 1  # a question is cut off where it is longer, as in training
    assert len(task.readings(model, 0)) == 9


def test_the_example_is_what_a_model_takes(task: VisualQuestions) -> None:
    pictures, words, mask = task.example(0)
    assert pictures.shape == (1, 3, 19, 19)
    logits = task.model("concatenation", 0)(pictures, words, mask)
    assert logits.shape == (1, 3, len(task.answers))


@pytest.mark.parametrize("bad", [{"minimum": 90}, {"glove": Path("nowhere.txt")}])
def test_arguments_that_leave_nothing_are_refused(folder: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        VisualQuestions(own(folder).read(), recipe=recipe(), **bad)


def test_glove_is_what_words_start_from(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("color 1 2 3\nshape 4 5 6\n")
    task = VisualQuestions(
        own(folder).read(), recipe=recipe(question_arguments={"width": 11}), glove=tmp_path / "glove.txt"
    )
    assert task.words is not None
    vectors = task.model("concatenation", 0).words.embed.vectors.weight
    assert vectors[task.words.words.index("shape")].tolist() == [4, 5, 6]


@pytest.mark.slow
def test_a_model_that_looks_learns_what_questions_alone_do_not_tell(tmp_path: Path) -> None:
    from regard.experiment.training import Budget, train

    photos(tmp_path, 90)
    made_of = recipe(
        "concatenation", image_arguments={"widths": [16, 32, 32]}, question_arguments={"width": 32}, size=31,
        arguments={"hidden_width": 64},
    )  # fmt: skip
    task = VisualQuestions(own(tmp_path).read(), recipe=made_of, batch=8, learning_rate=3e-3)
    right = {}
    for core in ("question_only", "concatenation"):
        fit = train(task, core, 0, Budget(epochs=12), tmp_path / core, "32-true", "cpu", lambda _: None)
        right[core] = task.evaluate(fit.model, 0).correct.mean()
    (guesses,) = task.shortcuts().values()
    prior = guesses.correct.mean()
    assert right["question_only"] <= prior + 0.15
    assert right["concatenation"] > max(prior, right["question_only"]) + 0.15, right
