"""What holds for every core of visual question answering."""

import copy
import io
import pickle
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from vqa_small import (
    ANSWERS,
    SIGHT,
    SMALL,
    on_regions,
    pictures,
    questions,
    regions,
    seen_and_asked,
    small_core,
    small_model,
)

from regard import watch
from regard.attention import offering
from regard.attention.offering import Offer, Request
from regard.errors import UserError
from regard.models.vqa import Regions, Words, cores, create
from regard.models.vqa.core import Loss
from regard.watching import NoMapError

ON_REGIONS = [name for name in cores if not cores[name].grid or name == "mac"]


def test_every_core_of_the_list_is_tested() -> None:
    assert set(SMALL) == set(cores)
    assert all(cores[name].name == name for name in cores)


@pytest.mark.parametrize("name", cores)
def test_every_core_names_its_paper_and_the_loss_that_it_was_trained_with(name: str) -> None:
    core = cores[name]
    told = " ".join((core.__doc__ or "").split())
    parent = core.__mro__[1]
    assert core.paper.title in told or core.paper.authors in told or parent.__name__ in told
    assert core.loss in get_args(Loss)
    assert small_core(name).joint_width == small_core(name)(*seen_and_asked()).shape[2]


@pytest.mark.parametrize("name", cores)
def test_one_question_a_picture_or_several_even_about_one_picture_give_the_answers_logits(name: str) -> None:
    model = small_model(name)  # in training, where batch 1 is hardest
    for batch in (1, 2):
        seen = pictures(batch)
        assert model(seen, questions(batch)).shape == (batch, 3, ANSWERS)
        assert model(seen, questions(batch)[:, 0]).shape == (batch, ANSWERS)
        assert model(seen, questions(batch, 1)).isfinite().all()


@pytest.mark.parametrize("name", cores)
def test_several_questions_a_picture_are_answered_as_one_at_a_time(name: str) -> None:
    model = small_model(name).eval().double()
    seen, asked = pictures(2).double(), questions(2)
    together = model(seen, asked)
    for picture in range(2):
        for question in range(3):
            alone = model(seen[picture : picture + 1], asked[picture : picture + 1, question])
            torch.testing.assert_close(alone[0], together[picture, question])


@pytest.mark.parametrize("name", cores)
def test_the_answer_depends_on_what_the_core_says_it_reads(name: str) -> None:
    model = small_model(name).eval().double()
    seen, asked = pictures(2).double(), questions(2)
    asked[1] = asked[0]
    answers = model(seen, asked)
    of_pictures = (answers[0] - answers[1]).abs().max()
    of_questions = (answers[:, 0] - answers[:, 1]).abs().max()
    assert (of_pictures > 1e-9) == (name != "question_only")
    assert (of_questions > 1e-9) == (name != "image_only")


@pytest.mark.slow
@pytest.mark.parametrize("name", cores)
def test_words_that_fill_up_a_question_change_nothing_wherever_they_stand(name: str) -> None:
    model = small_model(name).eval().double()
    seen = pictures(1).double()
    short = torch.tensor([[3, 8, 5]])
    for filled in ([3, 8, 5, 0, 0], [0, 0, 3, 8, 5], [3, 0, 8, 0, 5]):
        torch.testing.assert_close(model(seen, torch.tensor([filled])), model(seen, short))
    noisy = torch.tensor([[3, 8, 5, 11, 2]])
    mask = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(model(seen, noisy, mask), model(seen, short))


@pytest.mark.parametrize("name", ON_REGIONS)
def test_regions_that_fill_up_a_picture_change_nothing(name: str) -> None:
    model = on_regions(name).eval().double()
    features, _, boxes = regions(2, 6)
    assert boxes is not None
    features, boxes = features.double(), boxes.double()
    asked = questions(2)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, [1, 5]] = False
    kept = [0, 2, 3, 4]
    expected = model(Regions(features[:, kept], None, boxes[:, kept]), asked)
    slopes = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    for junk in (2.0, torch.nan, torch.inf):
        filled = (x.masked_fill(~mask[..., None], junk) for x in (features, boxes))
        found = model(Regions(next(filled), mask, next(filled)), asked)
        torch.testing.assert_close(found, expected)
        gradients = torch.autograd.grad(found.square().sum(), list(model.parameters()), allow_unused=True)
        torch.testing.assert_close(gradients, slopes)


@pytest.mark.parametrize("name", cores)
def test_what_fills_up_a_question_may_hold_anything(name: str) -> None:
    core = small_core(name).eval()
    sight, asked = seen_and_asked()
    mask = torch.tensor([True, True, False, True]).expand(asked.mask.shape)
    outcomes = []
    for junk in (2.0, torch.nan, torch.inf):
        core.zero_grad()
        tokens = asked.tokens.detach().masked_fill(~mask[..., None], junk)
        joint = core(sight, Words(tokens, mask, asked.summary, asked.numbers))
        joint.square().sum().backward()
        outcomes.append([joint, *(p.grad for p in core.parameters() if p.grad is not None)])
    plain, *others = outcomes
    assert all(x.isfinite().all() for x in plain)
    for found in others:
        assert all(map(torch.equal, found, plain))


@pytest.mark.parametrize("name", ON_REGIONS)
def test_a_picture_without_regions_and_a_question_without_words_give_finite_answers_and_gradients(name: str) -> None:
    model = on_regions(name).double()
    features, mask, boxes = regions(2, 3)
    assert mask is not None
    assert boxes is not None
    mask[1] = False
    asked = questions(2)
    asked[0, 0] = 0
    answers = model(Regions(features.double(), mask, boxes.double()), asked)
    answers.square().sum().backward()
    assert answers.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", cores)
def test_gradients_reach_all_parameters(name: str) -> None:
    torch.manual_seed(2)
    # FiLM's classifier normalises over the batch, which in training takes away what shifts all questions alike.
    model = small_model(name).double().train(name != "film")
    if name in ("question_only", "image_only"):
        unused = {"question_only": model.sight, "image_only": model.words}[name]
        unused.requires_grad_(False)
    model(pictures(3).double(), questions(3)).square().sum().backward()
    without = [
        path
        for path, parameter in model.named_parameters()
        # Keys that all move by one vector change no softmax: multi-head attention has that bias all the same.
        if not path.endswith("key.bias") and parameter.requires_grad
        if parameter.grad is None or parameter.grad.abs().max() < 1e-12
    ]
    assert not without


@pytest.mark.parametrize("name", cores)
def test_half_precision_under_autocast_is_finite_and_near(name: str) -> None:
    model = small_model(name).eval()
    seen, asked = pictures(2), questions(2)
    expected = model(seen, asked)
    with torch.autocast("cpu", torch.bfloat16):
        answers = model(seen, asked)
    answers.float().square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    # A hard choice between two entities that fit nearly as well may fall the other way.
    if name not in ("hard_entity_stream", "question_hard"):
        torch.testing.assert_close(answers.float(), expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", cores)
def test_a_copy_a_pickle_and_a_saved_state_answer_alike(name: str) -> None:
    model = small_model(name).eval()
    seen, asked = pictures(1), questions(1)
    expected = model(seen, asked)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = small_model(name).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        torch.testing.assert_close(other(seen, asked), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", cores)
def test_whoever_attends_shows_where_on_the_picture_and_changes_nothing(name: str) -> None:
    model = small_model(name).eval()
    seen, asked = pictures(2), questions(2)
    expected = model(seen, asked)
    if not cores[name].attends:
        with pytest.raises(NoMapError, match="none of them is a mechanism"):
            watch(model)
        return
    with watch(model) as maps:
        torch.testing.assert_close(model(seen, asked), expected, rtol=0, atol=0)
    for one in maps.maps:
        for axes in [one.sums_to_one] if one.sums_to_one else []:
            total = one.values.sum([one.axes.index(axis) for axis in axes])
            # A row that its mask leaves without anything sums to zero; here every question has words.
            torch.testing.assert_close(total, torch.ones_like(total))
    placed = [one.on_grid() for one in maps.maps if one.grid is not None or {"height", "width"} <= set(one.axes)]
    over_words_or_channels = {"image_channel", "image_guided", "question_channel"}
    assert bool(placed) == (name not in over_words_or_channels)
    assert all(one.values.shape[-2:] == (3, 5) for one in placed)


@pytest.mark.parametrize("name", [name for name in cores if cores[name].attends])
def test_weights_that_take_the_place_of_a_core_s_are_used(name: str) -> None:
    """Equal ones change nothing; others change the answers, each map alone."""
    model = small_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        seen, asked = pictures(2), questions(2)
        expected = model(seen, asked)
        offered: dict[tuple[nn.Module, str], None] = {}

        def whole(offer: Offer) -> torch.Tensor:
            offered[offer.module, offer.fact.label] = None
            return offer.weights.clone() if isinstance(offer.weights, torch.Tensor) else offer.weights(Request())

        with offering.replacing(whole):
            torch.testing.assert_close(model(seen, asked), expected, rtol=1e-4, atol=1e-4)
        assert offered
        for module, label in tuple(offered):

            def other(offer: Offer, which: tuple[nn.Module, str] = (module, label)) -> torch.Tensor | None:
                return whole(offer).flip(0, -1) if (offer.module, offer.fact.label) == which else None

            with offering.replacing(other):
                changed = (model(seen, asked) - expected).abs().max()
            assert changed > 1e-5 * expected.abs().max(), f"{type(module).__name__} does not use its map {label!r}"


@pytest.mark.parametrize("name", [name for name in cores if cores[name].grid])
def test_what_convolves_over_a_grid_says_so_to_regions(name: str) -> None:
    model = small_model(name)
    model.sight = on_regions("mlb").sight
    with pytest.raises(UserError, match="regions: encode pictures with GridEncoder"):
        model(regions(1, 4), questions(1))


@pytest.mark.parametrize("name", ["relation_network", "entity_stream"])
def test_what_wants_to_know_where_regions_lie_can_do_without(name: str) -> None:
    features = Regions(torch.randn(2, 4, SIGHT))
    model = on_regions(name)
    with pytest.raises(UserError, match="coordinates=False"):
        model(features, questions(2))
    model.core = small_core(name, coordinates=False)
    assert model(features, questions(2)).isfinite().all()


def test_a_name_that_is_none_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'mcan'"):
        create("mcam", 3, 5)
    assert type(create("ban", 3, 5, glimpses=2)) is cores["ban"]


# PyTorch's recurrent layers keep a list of their own weights, which the exporter notes.
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["stacked_attention", "mac"])
@pytest.mark.slow
def test_an_exported_model_answers_any_number_of_pictures(name: str) -> None:
    model = small_model(name).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (pictures(3), questions(3)), dynamic_shapes=({0: batch}, {0: batch}))
    seen, asked = pictures(5), questions(5)
    torch.testing.assert_close(program.module()(seen, asked), model(seen, asked))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("name", ["stacked_attention", "mcan"])
@pytest.mark.slow
def test_a_model_in_onnx_answers_alike(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small_model(name).eval()
    inputs = (pictures(2), questions(2))
    torch.onnx.export(model, inputs, tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    fed = {one.name: value.numpy() for one, value in zip(session.get_inputs(), inputs, strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, fed)[0]), model(*inputs))
