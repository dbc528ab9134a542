"""Models of questions by their recipes: built, saved, taken up again, asked in words, and drawn."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from vqa_small import SMALL

from regard.errors import UserError
from regard.models.vqa import Answer, Answering, Recipe, Regions, View, WordVocabulary, build, cores, load, parts, save
from regard.models.vqa.vocabulary import PAD, tokenize_marked
from regard.watching import AttentionMap, NoMapError, colour

ANSWERS = ["yes", "no", "red", "two"]
VOCABULARY = WordVocabulary.of(["what color is the cat", "is it red"])
GRID: dict[str, Any] = {
    "image": "convolutions",
    "image_arguments": {"widths": (5, 7)},
    "size": 11,
    "question_arguments": {"width": 10, "embedding_width": 3},
}


def recipe(core: str = "stacked_attention", **changes: Any) -> Recipe:
    """Of tiny parts: pictures of 11 by 11 are 3 by 3 cells."""
    arguments = SMALL.get(core, {})
    return Recipe(
        core, **{**GRID, "arguments": arguments | {"cells": 9} if "cells" in arguments else arguments, **changes}
    )


def logits(model: Answering) -> Tensor:
    torch.manual_seed(3)
    seen: Any = torch.rand(2, 3, 11, 11)
    if model.view is None:
        seen = Regions(torch.randn(2, 4, 13), None, torch.rand(2, 4, 2).repeat(1, 1, 2))
    with torch.no_grad():
        return model.eval()(seen, torch.tensor([[[2, 3, 0], [4, 5, 6]], [[7, 0, 0], [1, 2, 3]]]))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Left half red, right half blue, 22 by 16 pixels."""
    pixels = np.zeros((16, 22, 3), np.uint8)
    pixels[:, :11, 0] = pixels[:, 11:, 2] = 255
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipe_is_the_same_after_json() -> None:
    one = recipe("relation_network")
    assert one.arguments["g_widths"] == [11, 17, 19]
    assert Recipe.from_json(json.loads(json.dumps(one.as_json()))) == one
    assert recipe(arguments={"dropout": 0}).arguments == {"dropout": 0.0}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "core": ({"core": "mcam"}, "unknown model 'mcam': did you mean 'mcan'"),
    "option": ({"core": "mcan", "arguments": {"layer": 2}}, "'mcan' takes no 'layer': did you mean 'layers'"),
    "truth for a number": ({"core": "mcan", "arguments": {"layers": True}}, "layers=True: expected int"),
    "text for a number": ({"core": "mcan", "arguments": {"dropout": "much"}}, "dropout='much': expected float"),
    "choice": ({"core": "mac", "arguments": {"stem": "fish"}}, "expected Literal.'convolution', 'linear'."),
    "list": ({"core": "relation_network", "arguments": {"g_widths": [3, "a"]}}, "expected Sequence.int."),
    "image": ({"image": "resnet81"}, "unknown image 'resnet81': did you mean resnet18"),
    "image argument": ({"image_arguments": {"widht": 2}}, "image 'convolutions' takes no 'widht'"),
    "own width": ({"image_arguments": {"width": 2}}, "takes no 'width': did you mean 'widths'"),
    "question argument": ({"question_arguments": {"recurrence": "gru"}}, "question 'lstm' takes no 'recurrence'"),
    "what is needed": ({"question": "placed", "question_arguments": {}}, "question 'placed' needs length: give it"),
    "regions for a grid": (
        {"core": "film", "arguments": {}, "image": "regions", "image_arguments": {}},
        "'film' convolves over a picture's grid.*stem='linear', or one of .*mcan",
    ),
    "what JSON cannot hold": ({"arguments": {"hops": torch.ones(1)}}, "expected names with numbers"),
    "size": ({"size": 0}, "size=0"),
    "core of a whole": ({"core": "vilt", "arguments": {"width": 3}, "image_arguments": {}}, "takes no 'width'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_built(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        recipe(**changes)


def test_what_is_no_recipe_says_so() -> None:
    for value in ([1], {"colour": 2}):
        with pytest.raises(UserError, match="is no recipe"):
            Recipe.from_json(value)


TAKEN: dict[str, dict[str, Any]] = {
    "pooled convolutions and a GRU": {
        "image": "pooled_convolutions",
        "image_arguments": {"widths": [5, 7], "colours": [50, 85], "positions": "sines"},
        "question": "gru",
    },
    "learned positions": {"image_arguments": {"widths": [5, 7], "positions": "learned", "grid": [3, 3]}},
    "a bag": {"question": "bag", "question_arguments": {"width": 10}},
    "placed words": {"question": "placed", "question_arguments": {"length": 6, "width": 10}},
    "regions": {"image": "regions", "image_arguments": {"features": 13, "geometry": True}},
    "MAC on regions": {
        "core": "mac",
        "arguments": {"width": 10, "steps": 2, "stem": "linear"},
        "image": "regions",
        "image_arguments": {"features": 13},
    },
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_can_be_is_built_and_is_the_same_after_a_folder(case: str, tmp_path: Path) -> None:
    model = build(recipe(**TAKEN[case]), VOCABULARY, ANSWERS)
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training
    assert (loaded.recipe, loaded.vocabulary, loaded.answers, loaded.view) == (
        model.recipe,
        model.vocabulary,
        model.answers,
        model.view,
    )


@pytest.mark.parametrize("core", cores)
def test_every_core_is_the_same_after_a_folder(core: str, tmp_path: Path) -> None:
    model = build(recipe(core), VOCABULARY, ANSWERS)
    save(model, tmp_path)
    assert torch.equal(logits(load(tmp_path)), logits(model))


# --- published weights -----------------------------------------------------------------------------------------------


def test_published_weights_come_at_building_and_never_at_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    create, asked = timm.create_model, []

    def offline(name: str, pretrained: bool = False, **rest: Any) -> nn.Module:
        asked.append(pretrained)
        if pretrained:
            raise OSError("no network")
        return create(name, pretrained=False, **rest)

    monkeypatch.setattr(timm, "create_model", offline)
    wanted = recipe(image="test_resnet", image_arguments={"pretrained": True, "frozen": True}, size=32)
    with pytest.raises(UserError, match=r"'test_resnet' cannot be built with its published weights.*no network"):
        build(wanted, VOCABULARY, ANSWERS)
    model = build(recipe(image="test_resnet", image_arguments={"frozen": True}, size=32), VOCABULARY, ANSWERS)
    model.recipe = wanted
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.recipe == wanted
    assert asked == [True, False, False]
    assert not any(parameter.requires_grad for parameter in loaded.get_submodule("sight").parameters())


def test_a_network_of_timm_sees_its_own_colours_and_refuses_pictures_that_it_cannot_take() -> None:
    from timm.models import get_pretrained_cfg

    model = build(recipe(image="test_resnet", image_arguments={}, size=32), VOCABULARY, ANSWERS)
    settings = get_pretrained_cfg("test_resnet")
    assert settings is not None
    assert model.view == View(32, tuple(settings.mean), tuple(settings.std))
    with pytest.raises(UserError, match="'test_vit' takes no pictures of 31 x 31"):
        build(recipe(image="test_vit", image_arguments={}, size=31), VOCABULARY, ANSWERS)


def test_vectors_of_words_are_where_training_starts_and_decide_how_wide_words_are(tmp_path: Path) -> None:
    vectors = torch.randn(len(VOCABULARY), 9)
    plain = recipe(question_arguments={"width": 10, "frozen": True})
    model = build(plain, VOCABULARY, ANSWERS, vectors)
    weight = model.get_parameter("words.embed.vectors.weight")
    assert torch.equal(weight[1:], vectors[1:])
    assert not weight[0].any()
    save(model, tmp_path)
    assert torch.equal(logits(load(tmp_path)), logits(model))
    with pytest.raises(UserError, match="embedding_width as wide"):
        build(recipe(question_arguments={"embedding_width": 8}), VOCABULARY, ANSWERS, vectors)
    vector = recipe(question="vector", question_arguments={"in_width": 11})
    with pytest.raises(UserError, match="question 'vector' has no vectors of words"):
        build(vector, None, ANSWERS, vectors)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_of_a_run_its_single_model_is_loaded(tmp_path: Path) -> None:
    model = build(recipe(), VOCABULARY, ANSWERS)
    save(model, tmp_path / "mcan-0")
    assert torch.equal(next(load(tmp_path).parameters()), next(model.parameters()))
    save(model, tmp_path / "mcan-1")
    with pytest.raises(UserError, match=r"several models: load one of .*mcan-0, .*mcan-1"):
        load(tmp_path)


def test_what_is_missing_or_broken_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model of questions: expected recipe\.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="question 'lstm' reads words: give them as vocabulary="):
        build(recipe(), None, ANSWERS)
    with pytest.raises(UserError, match="chooses among answers: give at least one"):
        build(recipe(), VOCABULARY, [])
    with pytest.raises(UserError, match=r"'mcan' cannot be built with .*heads"):
        build(recipe("mcan", arguments={"width": 10, "heads": 3}), VOCABULARY, ANSWERS)
    model = build(recipe(), VOCABULARY, ANSWERS)
    save(model, tmp_path)
    (tmp_path / "answers.json").write_text(json.dumps([*ANSWERS, "blue"]))
    with pytest.raises(UserError, match=r"model.safetensors does not hold the weights of this recipe"):
        load(tmp_path)
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"model.safetensors does not hold"):
        load(tmp_path)
    model.recipe = None
    with pytest.raises(UserError, match="without recipe cannot be saved"):
        save(model, tmp_path)


def test_of_a_model_that_was_saved_in_a_folder_before_nothing_is_left(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*")}

    words = build(recipe(), VOCABULARY, ANSWERS)
    vector = build(recipe(question="vector", question_arguments={"in_width": 11}), None, ANSWERS)
    bert = build(recipe(question=str(checkpoints["bert"]), question_arguments={}), None, ANSWERS)
    for number, model in enumerate((words, vector, bert, words, bert, vector)):
        save(model, tmp_path / str(number))
        save(model, tmp_path / "one")
        assert files(tmp_path / "one") == files(tmp_path / str(number))
        found = load(tmp_path / "one")
        assert type(found.vocabulary) is type(model.vocabulary)
        if model is bert:
            (tmp_path / "one" / "question" / "added_tokens.json").write_text('{"dog": 3}')
            save(load(tmp_path / "one"), tmp_path / "one")  # in the place that it came from
            assert files(tmp_path / "one") == files(tmp_path / str(number))


def test_a_vocabulary_keeps_its_tokenizer_by_name(tmp_path: Path) -> None:
    known = WordVocabulary((PAD, "red", "?"), tokenize_marked)
    assert known.encode("Is it RED?") == [1, 2]
    assert known.unknown("Is it RED?") == ["is", "it"]
    assert WordVocabulary.from_json(json.loads(json.dumps(known.as_json()))) == known
    with pytest.raises(UserError, match="cannot be saved: expected one of tokenize"):
        WordVocabulary((PAD, "red"), lambda question: question.split()).as_json()
    for value, message in (([], "is no vocabulary"), ({"tokenizer": "mine", "words": []}, "the tokenizer 'mine'")):
        with pytest.raises(UserError, match=message):
            WordVocabulary.from_json(value)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_is_seen_whole_upright_and_normalised(photo: Path, tmp_path: Path) -> None:
    view = View(8, (0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    seen = view(photo)
    red, blue = torch.tensor([1.0, -0.25, 0.0]), torch.tensor([-1.0, -0.25, 0.5])
    torch.testing.assert_close(seen[:, :, :2], red[:, None, None].expand(3, 8, 2))
    torch.testing.assert_close(seen[:, :, -2:], blue[:, None, None].expand(3, 8, 2))
    assert torch.equal(view(Image.open(photo)), seen)
    assert torch.equal(view.normalized(torch.stack([view.pixels(photo)] * 2))[1], seen)
    turned, exif = Image.open(photo).rotate(90, expand=True), Image.Exif()
    exif[0x0112] = 6  # "turn it a quarter to the right to see it upright"
    turned.save(tmp_path / "turned.png", exif=exif)
    torch.testing.assert_close(view(tmp_path / "turned.png"), seen)


def test_a_picture_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(b"\x89PNG")
    for name, reason in (("half.png", "cannot identify"), ("none.png", "No such file")):
        with pytest.raises(UserError, match=f"{name} cannot be read .*{reason}"):
            View(8)(tmp_path / name)


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_file_a_picture_and_a_tensor_are_answered_alike(photo: Path) -> None:
    model = build(recipe(), VOCABULARY, ANSWERS)
    assert isinstance(model.view, View)
    said = model.answer(photo, "what color is the dog?")
    assert model.answer(str(photo), "what color is the dog?") == said
    assert model.answer(Image.open(photo), "what color is the dog?") == said
    assert model.answer(model.view(photo), "what color is the dog?") == said
    assert said.unknown == ("dog",)
    assert set(said.probabilities) == set(ANSWERS)
    assert list(model.answer(photo, "what color is the dog?", most=1).probabilities) == [said.text]
    for most in (0, -1):
        with pytest.raises(UserError, match=f"most={most}: expected how many answers to tell, at least 1"):
            model.answer(photo, "is it red?", most)


def test_a_question_longer_than_the_model_reads_is_refused(photo: Path) -> None:
    changes = {"question": "placed", "question_arguments": {"length": 3, "width": 10}}
    model = build(recipe(**changes), VOCABULARY, ANSWERS)
    assert model.answer(photo, "is it red").text in ANSWERS
    with pytest.raises(UserError, match="has 4 words, expected at most 3"):
        model.answer(photo, "is it red is")


LOOKS: dict[str, list[str]] = {
    "stacked_attention": ["hop 1", "hop 2"],
    "mlb": ["glimpse 1", "glimpse 2"],
    "mac": ["step 1", "step 2", "step 3"],
    "cross_attention": ["block 1", "block 2"],
    "perceiver": ["layer 1", "layer 2"],
    "hard_entity_stream": ["step 1", "step 2", "step 3"],
    "mcan": [""],
    "film": [],
    "question_channel": [],
    "concatenation": [],
}


@pytest.mark.parametrize("core", LOOKS)
def test_every_time_that_a_model_looks_is_told_by_number(core: str, photo: Path) -> None:
    said = build(recipe(core), VOCABULARY, ANSWERS).answer(photo, "is it red?")
    looks = said.looks()
    assert [one.name for one in looks] == LOOKS[core]
    assert all(one.weights.shape == (3, 3) for one in looks)
    if looks:
        torch.testing.assert_close(said.look(), sum(one.weights for one in looks) / len(looks))
        said.draw(photo)
    else:
        assert said.look() is None
        with pytest.raises(NoMapError, match="but to no places" if cores[core].attends else "has no attention"):
            said.draw(photo)
    if core == "hard_entity_stream":  # what it chose, and not what it might have chosen
        assert all(set(one.weights.unique().tolist()) <= {0.0, 1.0} for one in looks)


def attended(values: Tensor, grid: tuple[int, ...], call: int = 0) -> AttentionMap:
    return AttentionMap(values, ("batch", "query", "key"), "core.read", "some", "attention", call, grid)


def test_a_drawing_is_lightest_where_the_model_looked(photo: Path) -> None:
    there = torch.tensor([[[0.0] * 4 + [0.7] * 4]])  # the lower one of two rows
    answer = Answer("red", {"red": 1.0}, [attended(there, (2, 4))])
    drawn = np.asarray(answer.draw(Image.new("RGB", (80, 40)))).astype(int)
    assert drawn.shape == (40, 80, 3)
    peak = np.array(colour.table()[-1])
    for column in range(4):  # the median of a cell: what is neither its outline nor its number
        upper, lower = (
            np.median(drawn[rows, 20 * column : 20 * (column + 1)], (0, 1)) for rows in (slice(20), slice(20, 40))
        )
        assert abs(lower - 0.6 * peak).max() <= 1  # over black
        assert (upper == 0).all()


def test_several_looks_are_drawn_beside_their_mean() -> None:
    maps = [attended(torch.rand(1, 1, 8), (2, 4), call) for call in range(5)]
    answer = Answer("red", {"red": 1.0}, maps)
    picture = Image.new("RGB", (80, 40))
    assert answer.draw(picture, each=False).size == (80, 40)
    width, height = answer.draw(picture).size  # the mean and five looks: four beside each other, and two
    assert 4 * 80 < width < 5 * 80
    assert 2 * 40 < height < 4 * 40


def test_regions_are_drawn_as_boxes_where_they_lie() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.25, 0.5], [0.5, 0.25, 1.0, 1.0]])
    answer = Answer("red", {"red": 1.0}, [attended(torch.tensor([[[0.1, 0.9]]]), (2,))], boxes)
    drawn = np.asarray(answer.draw(Image.new("RGB", (80, 40))))
    for x, y in ((79, 30), (60, 39), (40, 35)):  # right, lower and left edge of the heavy one
        assert tuple(drawn[y, x]) == colour.table()[-1]
    assert tuple(drawn[30, 60]) == (0, 0, 0)
    assert tuple(drawn[19, 10]) == colour.table()[round(255 / 9)]
    with pytest.raises(NoMapError, match="where the regions lie is not known"):
        Answer("red", {}, answer.maps).draw(Image.new("RGB", (80, 40)))


def test_regions_from_a_file_are_what_a_model_takes(tmp_path: Path, photo: Path) -> None:
    from regard.tasks.vqa.regions import read_regions

    features, boxes = np.random.default_rng(0).random((3, 13), np.float32), np.array([[0, 4, 11, 8]] * 3)
    np.savez(tmp_path / "regions.npz", x=features, bbox=boxes, image_w=22, image_h=16)
    regions = read_regions(tmp_path / "regions.npz").for_model()
    model = build(recipe(image="regions", image_arguments={"features": 13}), VOCABULARY, ANSWERS)
    said = model.answer(regions, "is it red?")
    assert said.boxes is not None
    torch.testing.assert_close(said.boxes, torch.tensor([[0.0, 0.25, 0.5, 0.5]] * 3))
    assert [one.weights.shape for one in said.looks()] == [(3,), (3,)]
    said.draw(photo)


def test_norms_of_a_pretrained_detector_are_the_same_after_a_folder() -> None:
    from torchvision.ops import FrozenBatchNorm2d

    frozen, fresh = FrozenBatchNorm2d(3, eps=0.0), nn.BatchNorm2d(3).eval()
    frozen.load_state_dict(
        {
            "weight": torch.tensor([1.0, 2.0, -3.0]),
            "bias": torch.tensor([0.5, 0.0, 1.0]),
            "running_mean": torch.tensor([0.1, 0.2, 0.3]),
            "running_var": torch.tensor([1e-5, 0.7, 5.0]),  # the first would differ by a factor of 1.4
        }
    )
    seen = torch.randn(2, 3, 5, 7)
    expected = frozen(seen)
    parts._with_common_norms(nn.Sequential(frozen))
    torch.testing.assert_close(frozen(seen), expected)
    fresh.load_state_dict(frozen.state_dict())
    torch.testing.assert_close(fresh(seen), expected)


@pytest.mark.slow
def test_regions_that_a_detector_finds_are_read_and_drawn(photo: Path, tmp_path: Path) -> None:
    detector = "fasterrcnn_mobilenet_v3_large_320_fpn"
    arguments = {"detector": detector, "regions": 5}
    model = build(recipe(image="detector", image_arguments=arguments, size=64), VOCABULARY, ANSWERS)
    said = model.answer(photo, "is it red?")
    assert said.boxes is not None
    assert len(said.boxes) == len(said.looks()[0].weights) <= 5
    said.draw(photo)
    save(model, tmp_path)
    assert load(tmp_path).answer(photo, "is it red?").text == said.text
    with pytest.raises(UserError, match=r"unknown detector 'fasterrcnn'.*fasterrcnn_resnet50_fpn"):
        build(recipe(image="detector", image_arguments={"detector": "fasterrcnn"}), VOCABULARY, ANSWERS)


# --- Hugging Face ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["vilt", "blip"])
def test_a_whole_model_of_hugging_face_is_fetched_asked_saved_and_taken_up(
    core: str, checkpoints: dict[str, Path], photo: Path, tmp_path: Path
) -> None:
    model = build(Recipe(core, size=12, question=str(checkpoints[core])), answers=None if core == "vilt" else ANSWERS)
    assert model.view == View(12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.5))
    assert list(model.answers or ()) == (["no", "yes", "red"] if core == "vilt" else ANSWERS)
    said = model.answer(photo, "what color is the cat")
    assert [one.name for one in said.looks()] == ["layer 1", "layer 2"]
    said.draw(photo)
    with pytest.raises(UserError, match="has 12 words, expected at most 9"):
        model.answer(photo, "is the " * 5)
    assert model.answer(photo, "is the " * 5, strict=False).text in (model.answers or ())
    save(model, tmp_path)
    (tmp_path / "recipe.json").write_text(
        (tmp_path / "recipe.json").read_text().replace(str(checkpoints[core]), "gone")
    )
    assert load(tmp_path).answer(photo, "what color is the cat") == said


@pytest.mark.parametrize("core", ["vilt", "blip", "mlb"])
def test_what_comes_from_hugging_face_trains_as_all_else_does(
    core: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """With its dropout, and in single precision, in which it is kept then, whatever the checkpoint has."""
    from transformers import AutoModel, BlipForQuestionAnswering, ViltForQuestionAnswering

    kinds = {"vilt": ViltForQuestionAnswering, "blip": BlipForQuestionAnswering, "bert": AutoModel}
    name = "bert" if core == "mlb" else core
    short = tmp_path / "short"
    shutil.copytree(checkpoints[name], short)
    kinds[name].from_pretrained(short).half().save_pretrained(short)
    model = build(
        recipe(core="mlb", arguments=SMALL["mlb"], question=str(short), question_arguments={}) if core == "mlb"
        else Recipe(core, size=12, question=str(short)), answers=ANSWERS,
    )  # fmt: skip
    assert all(part.training for part in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    save(model, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert not any(part.training for part in loaded.modules())
    for one, other in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("core", ["vilt", "blip"])
def test_a_whole_model_has_a_loss_of_its_own(core: str, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=f"model '{core}' has a loss of its own: leave out independent"):
        build(Recipe(core, size=12, question=str(checkpoints[core]), independent=False), answers=ANSWERS)


def test_vilt_keeps_its_classifier_for_its_own_answers_and_gets_a_fresh_one_for_others(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    own = Recipe("vilt", size=12, question=str(checkpoints["vilt"]))
    first, second, other = (build(own, answers=texts) for texts in (None, ["no", "yes", "red"], ANSWERS))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert other.answers == ANSWERS
    patches = "model.vilt.embeddings.patch_embeddings.projection.weight"
    assert torch.equal(first.get_parameter(patches), other.get_parameter(patches))
    save(other, tmp_path)
    pictures, asked = torch.rand(2, 3, 12, 12), torch.tensor([[1, 5, 2], [1, 6, 2]])
    assert torch.equal(load(tmp_path)(pictures, asked), other.eval()(pictures, asked))
    assert other(pictures, asked).shape == (2, 4)


def test_blip_says_its_answers_between_its_start_and_its_end(checkpoints: dict[str, Path]) -> None:
    model = build(Recipe("blip", size=12, question=str(checkpoints["blip"])), answers=["red", "the cat"])
    assert model.get_buffer("answer_words").tolist() == [[1, 9, 2, 0], [1, 7, 8, 2]]


def test_questions_may_be_read_by_an_encoder_of_hugging_face(
    checkpoints: dict[str, Path], photo: Path, tmp_path: Path
) -> None:
    changes = {"question": str(checkpoints["bert"]), "question_arguments": {"frozen": True}}
    model = build(recipe(**changes), answers=ANSWERS)
    said = model.answer(photo, "what color is the cat")
    save(model, tmp_path)
    (tmp_path / "recipe.json").write_text((tmp_path / "recipe.json").read_text().replace(changes["question"], "gone"))
    assert load(tmp_path).answer(photo, "what color is the cat") == said
    with pytest.raises(UserError, match="has 12 words, expected at most 9"):
        model.answer(photo, "cat " * 10)
    with pytest.raises(UserError, match="has words of its own"):
        build(recipe(**changes), VOCABULARY, ANSWERS)


def test_what_hugging_face_cannot_give_is_told_in_one_line(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone" / "checkpoint")
    for changes, message in (
        ({"question": gone, "question_arguments": {}}, "unknown question .*the choices are bag.*cannot be had"),
        ({**NOTHING, "core": "vilt", "question": gone, "size": 12}, "cannot be had, and checkpoints come from"),
        ({**NOTHING, "core": "vilt", "question": str(checkpoints["vilt"]), "size": 13}, "size=13 is no whole number"),
        ({**NOTHING, "core": "blip", "question": str(checkpoints["blip"]), "size": 12}, "BLIP ranks answers"),
    ):
        answers = None if changes.get("core") == "blip" else ANSWERS
        with pytest.raises(UserError, match=message):
            build(recipe(**{"core": "stacked_attention", **changes}), answers=answers)


NOTHING: dict[str, Any] = {"arguments": {}, "image_arguments": {}, "question_arguments": {}}
