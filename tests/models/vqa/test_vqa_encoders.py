"""What makes pictures and questions readable: grids, regions, words; and models of transformers around both."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence
from vqa_small import ANSWERS, SIGHT, VOCABULARY, pictures, questions, small_core, small_model

from regard import watch
from regard.attention import ShapeError
from regard.errors import UserError
from regard.models.vqa import (
    Answer,
    BagOfWords,
    BlipAnswering,
    DetectedRegions,
    GridEncoder,
    HuggingFaceQuestion,
    PlacedWords,
    QuestionEncoder,
    QuestionVector,
    RegionEncoder,
    Regions,
    ViltAnswering,
    VisualQuestionAnswering,
    convolutions,
    pooled_convolutions,
)
from regard.models.vqa.sight import GridPosition

# --- pictures --------------------------------------------------------------------------------------------------------


def test_every_cell_of_a_map_is_a_token_row_by_row() -> None:
    maps = torch.randn(2, 5, 3, 4)
    seen = GridEncoder(lambda_module(lambda x: maps), width=5)(torch.zeros(2, 3, 8, 8))
    assert seen.grid == (3, 4)
    torch.testing.assert_close(seen.tokens[1, 1 * 4 + 2], maps[1, :, 1, 2])
    torch.testing.assert_close(seen.as_map(), maps)


def lambda_module(function) -> nn.Module:
    class Around(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Around()


@pytest.mark.parametrize("positions", ["sines", "learned"])
def test_positions_tell_apart_cells_that_look_alike(positions: str) -> None:
    alike = lambda_module(lambda x: torch.ones(1, 5, 2, 3))
    plain = GridEncoder(alike, width=5)
    placed = GridEncoder(alike, width=5, positions=positions, grid=(4, 3) if positions == "learned" else None)
    assert len(plain(torch.zeros(1, 3, 4, 4)).tokens[0].unique(dim=0)) == 1
    assert len(placed(torch.zeros(1, 3, 4, 4)).tokens[0].unique(dim=0)) == 6


def test_a_cell_lies_where_its_row_and_column_and_their_waves_say() -> None:
    position = GridPosition(5).double()
    given = position(3, 11)
    for row in range(3):
        for column in range(11):
            said = []
            for place in (row, column):
                said.append(place / 8)
                for wavelength in (4, 8, 16, 32):
                    angle = 2 * math.pi * place / wavelength
                    said += [math.sin(angle), math.cos(angle)]
            expected = position.project.weight @ torch.tensor(said, dtype=torch.float64) + position.project.bias
            torch.testing.assert_close(given[:, row, column], expected)


@pytest.mark.usefixtures("unchecked_shapes")
def test_learned_positions_are_those_of_rows_and_columns_and_no_more_than_were_learned() -> None:
    backbone = lambda_module(lambda x: torch.zeros(1, 5, *x.shape[2:]))
    encoder = GridEncoder(backbone, 5, positions="learned", grid=(4, 3))
    seen = encoder(torch.zeros(1, 3, 2, 3))
    row, column = encoder.position.row, encoder.position.column
    torch.testing.assert_close(seen.tokens[0, 1 * 3 + 2], row[:, 1, 0] + column[:, 0, 2])
    for height, width in ((5, 3), (4, 4)):
        with pytest.raises(ShapeError, match=f"{height} by {width} cells, expected at most 4 by 3"):
            encoder(torch.zeros(1, 3, height, width))
    for wrong in ({"positions": "learned"}, {"positions": "sines", "grid": (2, 2)}, {"grid": (2, 2)}):
        with pytest.raises(UserError, match=r"for a grid, \(rows, columns\)"):
            GridEncoder(backbone, 5, **wrong)
    with pytest.raises(UserError, match="choose one of 'sines', 'learned'"):
        GridEncoder(backbone, 5, positions="fixed")


def test_bytes_are_seen_in_the_colours_that_the_encoder_is_told() -> None:
    encoder = GridEncoder(lambda_module(lambda x: x), width=3, colours=(50, 85))
    seen = encoder(torch.tensor([0, 50, 255], dtype=torch.uint8).expand(1, 3, 1, 3))
    torch.testing.assert_close(seen.tokens[0, :, 0], torch.tensor([-50 / 85, 0, 205 / 85]))
    shares = torch.rand(1, 3, 1, 3)
    torch.testing.assert_close(encoder(shares).tokens[0].T, shares[0].flatten(1))


@pytest.mark.parametrize(
    ("name", "size", "grid"), [("test_resnet", (64, 96), (2, 3)), ("test_vit", (160, 160), (10, 10))]
)
def test_any_backbone_of_timm_gives_its_last_map(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    encoder = GridEncoder(name)
    seen = encoder(torch.rand(1, 3, *size))
    assert seen.grid == grid
    assert seen.tokens.shape == (1, grid[0] * grid[1], encoder.width)


def test_a_backbone_may_give_several_maps_or_keep_its_channels_last() -> None:
    last = torch.randn(1, 2, 3, 5)
    seen = GridEncoder(lambda_module(lambda x: [torch.zeros(1, 5, 4, 6), last]), width=5)(torch.zeros(1, 3, 8, 8))
    assert seen.grid == (2, 3)
    torch.testing.assert_close(seen.tokens[0, 1 * 3 + 2], last[0, 1, 2])


@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_the_small_network_makes_five_by_five_cells_of_75_pixels_in_bytes_or_shares(normalization: str) -> None:
    encoder = GridEncoder(convolutions(normalization=normalization), width=24).double()
    bytes_ = torch.randint(0, 256, (2, 3, 75, 75), dtype=torch.uint8)
    seen = encoder(bytes_)
    assert seen.grid == (5, 5)
    torch.testing.assert_close(encoder(bytes_.double() / 255).tokens, seen.tokens)
    assert sum(p.numel() for p in encoder.parameters()) == 3 * 9 * 24 + 3 * 24 * 9 * 24 + 4 * (24 + 48)


@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_layers_may_have_strides_of_their_own_and_normalise_before_the_relu(normalization: str) -> None:
    network = convolutions((8, 16, 24), normalization, strides=(2, 1, 2), normalize_first=True).eval()
    x = expected = torch.randn(1, 3, 13, 11)
    for at, stride in ((0, 2), (3, 1), (6, 2)):
        convolution, norm = network[at], network[at + 1]
        assert convolution.bias is None
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
        expected = F.conv2d(expected, convolution.weight, stride=stride, padding=1)
        if normalization == "batch":
            expected = expected / math.sqrt(1 + norm.eps)
        else:
            groups = expected.unflatten(1, (8, -1))
            deviation = groups.var((2, 3, 4), unbiased=False, keepdim=True)
            expected = ((groups - groups.mean((2, 3, 4), keepdim=True)) / (deviation + norm.eps).sqrt()).flatten(1, 2)
        expected = torch.relu(expected * norm.weight[:, None, None] + norm.bias[:, None, None])
    torch.testing.assert_close(network(x), expected)
    assert expected.shape == (1, 24, 4, 3)
    with pytest.raises(UserError, match="3 widths and 2 strides"):
        convolutions((8, 16, 24), strides=(2, 1))


def test_a_cell_of_the_pooled_network_sees_18_by_18_pixels() -> None:
    network = pooled_convolutions((5, 7, 11)).eval()
    x = torch.rand(1, 3, 40, 44, requires_grad=True)
    cells = network(x)
    assert cells.shape == (1, 11, 10, 11)
    cells[0, :, 5, 4].sum().backward()
    rows, columns = (x.grad.abs().sum((0, 1, axis)).nonzero()[:, 0] for axis in (3, 2))
    # A pixel that is nowhere the maximum is not felt, but none outside is.
    assert 5 * 4 - 7 <= rows.min() <= rows.max() <= 5 * 4 + 10
    assert 4 * 4 - 7 <= columns.min() <= columns.max() <= 4 * 4 + 10
    assert len(rows) > 13


def test_a_frozen_backbone_learns_nothing_and_keeps_its_statistics() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), nn.BatchNorm2d(5))
    encoder = GridEncoder(backbone, 5, frozen=True, positions="sines").train()
    before = backbone[1].running_mean.clone()
    encoder(torch.rand(2, 3, 4, 4)).tokens.sum().backward()
    torch.testing.assert_close(backbone[1].running_mean, before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert encoder.position.project.weight.grad is not None
    assert encoder.training
    assert not backbone.training


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_backbone_that_gives_no_such_maps_is_refused() -> None:
    with pytest.raises(UserError, match="unknown backbone 'resnet_of_mine'"):
        GridEncoder("resnet_of_mine")
    with pytest.raises(UserError, match="give width="):
        GridEncoder(nn.Identity())
    with pytest.raises(ShapeError, match="leave its pooling out"):
        GridEncoder(nn.Flatten(), 12)(torch.rand(1, 3, 2, 2))
    with pytest.raises(UserError, match="without boxes"):
        RegionEncoder(5, geometry=True)(Regions(torch.rand(1, 2, 5)))
    with pytest.raises(UserError, match="two stages"):
        DetectedRegions(nn.Identity())
    with pytest.raises(UserError, match="encoder of transformers"):
        HuggingFaceQuestion(nn.Identity())


def test_boxes_and_their_areas_stand_beside_the_features() -> None:
    features = torch.randn(1, 2, 3)
    boxes = torch.tensor([[[0.0, 0.25, 0.5, 0.75], [0.1, 0.2, 0.4, 0.9]]])
    encoder = RegionEncoder(3, geometry=True)
    seen = encoder(Regions(features, None, boxes))
    assert encoder.width == 8
    torch.testing.assert_close(seen.tokens[0, 0], torch.cat((features[0, 0], boxes[0, 0], torch.tensor([0.25]))))
    torch.testing.assert_close(seen.tokens[0, 1, -1], torch.tensor(0.3 * 0.7))


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 7, 8, stride=8), nn.ReLU())
    backbone.out_channels = 7
    model = FasterRCNN(
        backbone,
        min_size=48,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=1),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(63, 11), nn.ReLU()),
        box_predictor=Predictor(),
    )
    return model.eval()


class Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_score = nn.Linear(11, 3)
        self.bbox_pred = nn.Linear(11, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def test_a_detector_proposes_regions_of_pictures_of_any_size(detector: nn.Module) -> None:
    encoder = DetectedRegions(detector, regions=5).train()
    seen = encoder([torch.rand(3, 40, 60), torch.rand(3, 64, 48)])
    assert encoder.width == 11
    assert seen.tokens.shape == (2, 5, 11)
    assert seen.mask is not None
    assert seen.boxes is not None
    assert ((seen.boxes >= 0) & (seen.boxes <= 1)).all()
    assert not seen.tokens.requires_grad
    assert not detector.training
    answers = VisualQuestionAnswering(encoder, QuestionEncoder(VOCABULARY, 6), small_core("ban", 11), ANSWERS)
    assert answers(torch.rand(2, 3, 40, 60), questions(2)).shape == (2, 3, ANSWERS)


def test_the_features_of_a_proposal_are_those_that_the_detector_would_classify(detector: nn.Module) -> None:
    picture = torch.rand(3, 48, 48)
    seen = DetectedRegions(detector, regions=4)([picture])
    images, _ = detector.transform([picture])
    maps = {"0": detector.backbone(images.tensors)}
    height, width = images.image_sizes[0]
    for token, box in zip(seen.tokens[0], seen.boxes[0], strict=True):
        pooled = detector.roi_heads.box_roi_pool(
            maps, [(box * torch.tensor([width, height, width, height]))[None]], images.image_sizes
        )
        torch.testing.assert_close(detector.roi_heads.box_head(pooled)[0], token, rtol=1e-4, atol=1e-4)


def test_a_detector_that_is_not_frozen_learns_features_but_no_proposals(detector: nn.Module) -> None:
    copied = copy.deepcopy(detector).requires_grad_()
    DetectedRegions(copied, regions=4, frozen=False)([torch.rand(3, 48, 48)]).tokens.sum().backward()
    assert copied.backbone[0].weight.grad.any()
    assert copied.roi_heads.box_head[1].weight.grad.any()
    assert all(parameter.grad is None for parameter in copied.rpn.parameters())


def test_pictures_with_fewer_proposals_are_filled_up(detector: nn.Module) -> None:
    rpn = detector.rpn

    class Few(nn.Module):
        def forward(self, images, maps):
            boxes, losses = rpn(images, maps)
            return [boxes[0][:3], boxes[1][:1]], losses

    detector.rpn = Few()
    try:
        seen = DetectedRegions(detector, regions=5)([torch.rand(3, 48, 48), torch.rand(3, 48, 48)])
    finally:
        detector.rpn = rpn
    assert seen.mask.tolist() == [[True, True, True], [True, False, False]]
    assert not seen.tokens[1, 1:].any()


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recurrence", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_recurrence_is_pytorchs_over_packed_questions(recurrence: str, bidirectional: bool, layers: int) -> None:
    encoder = QuestionEncoder(VOCABULARY, 6, 3, recurrence, layers, bidirectional)
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}[recurrence]
    width = 3 if bidirectional else 6
    reference = kind(3, width, layers, batch_first=True, bidirectional=bidirectional)
    with torch.no_grad():
        for layer, directions in enumerate(encoder.recurrent.layers):
            for suffix, network in zip(("", "_reverse"), directions, strict=False):
                for name, value in network.named_parameters():
                    getattr(reference, f"{name.removesuffix('0')}{layer}{suffix}").copy_(value)
    asked = questions(2)
    given = encoder(asked)
    lengths = (asked != 0).sum(2).flatten()
    packed = pack_padded_sequence(
        encoder.embed.vectors(asked.flatten(0, 1)), lengths, batch_first=True, enforce_sorted=False
    )
    states, last = reference(packed)
    states = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0]
    last = last[0] if recurrence == "lstm" else last
    final = torch.cat(list(last[-2:] if bidirectional else last[-1:]), 1)
    torch.testing.assert_close(given.tokens.flatten(0, 1), states)
    torch.testing.assert_close(given.summary.flatten(0, 1), final)


def test_a_bag_of_words_adds_them_up() -> None:
    encoder = BagOfWords(VOCABULARY, 5)
    given = encoder(torch.tensor([[[4, 0, 9, 4]]]))
    vectors = encoder.embed.vectors.weight
    torch.testing.assert_close(given.summary[0, 0], 2 * vectors[4] + vectors[9])
    assert given.mask.tolist() == [[[True, False, True, True]]]


def test_given_vectors_are_kept_and_stay_if_they_are_frozen() -> None:
    vectors = torch.randn(VOCABULARY, 3)
    free = QuestionEncoder(VOCABULARY, 6, 3, vectors=vectors)
    frozen = QuestionEncoder(VOCABULARY, 6, 3, vectors=vectors, frozen=True, padding=2)
    torch.testing.assert_close(free.embed.vectors.weight[1:], vectors[1:])
    assert not free.embed.vectors.weight[0].any()
    assert not frozen.embed.vectors.weight[2].any()
    for encoder in (free, frozen):
        encoder(torch.full((1, 1, 2), 4)).summary.sum().backward()
    assert free.embed.vectors.weight.grad is not None
    assert frozen.embed.vectors.weight.grad is None


@pytest.mark.usefixtures("unchecked_shapes")
def test_vectors_and_recurrences_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected \(13, 3\)"):
        QuestionEncoder(VOCABULARY, 6, 3, vectors=torch.zeros(12, 3))
    with pytest.raises(UserError, match="choose one of gru, lstm"):
        QuestionEncoder(VOCABULARY, 6, recurrence="elman")
    with pytest.raises(UserError, match="even width"):
        QuestionEncoder(VOCABULARY, 7, bidirectional=True)


def test_placed_words_are_added_up_each_scaled_by_a_vector_of_its_place() -> None:
    encoder = PlacedWords(VOCABULARY, length=5, width=3).double()
    asked = questions(2)  # four of at most five words, and some questions alike
    asked[1, 0] = asked[0, 0]
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[0, 1, 0] = False
    given = encoder(asked, mask)
    first, _, second = encoder.mix
    for b in range(2):
        for q in range(3):
            total = torch.zeros(3, dtype=torch.float64)
            for place, number in enumerate(asked[b, q].tolist()):
                there = number != 0 and bool(mask[b, q, place])
                token = encoder.embed.vectors.weight[number] * encoder.place[place] * there
                torch.testing.assert_close(given.tokens[b, q, place], token)
                assert given.mask[b, q, place] == there
                assert given.numbers[b, q, place] == number * there
                total = total + token / 3
            hidden = torch.relu(first.weight @ total + first.bias)
            torch.testing.assert_close(given.summary[b, q], total + second.weight @ hidden + second.bias)


@pytest.mark.usefixtures("unchecked_shapes")
def test_placed_words_know_their_longest_question_and_start_small() -> None:
    encoder = PlacedWords(VOCABULARY, length=5, width=300, padding=4)
    weight = encoder.embed.vectors.weight
    assert not weight[4].any()
    assert weight[torch.arange(VOCABULARY) != 4].std().item() == pytest.approx(0.03, rel=0.1)
    with pytest.raises(ShapeError, match="questions of 6 words, expected at most 5"):
        encoder(torch.ones(1, 1, 6, dtype=torch.long))
    vectors = torch.randn(VOCABULARY, 3)
    torch.testing.assert_close(PlacedWords(VOCABULARY, 5, 3, vectors=vectors).embed.vectors.weight[1:], vectors[1:])


def test_what_is_asked_twice_is_encoded_once() -> None:
    encoder = PlacedWords(VOCABULARY, length=4, width=3)
    rows = []
    encoder.mix.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    asked = torch.tensor([[[4, 2, 0, 0], [5, 2, 0, 0], [4, 2, 0, 0]], [[5, 2, 0, 0], [2, 4, 0, 0], [4, 2, 0, 0]]])
    encoder(asked)
    assert rows == [3]


@pytest.mark.parametrize(
    "encoder", [BagOfWords(VOCABULARY, 5), QuestionEncoder(VOCABULARY, 6), PlacedWords(VOCABULARY, 4, 5)]
)
def test_the_numbers_of_the_words_are_told_beside_them(encoder: nn.Module) -> None:
    asked = questions(2)
    assert torch.equal(encoder(asked).numbers, asked)


def test_a_question_that_is_a_vector_is_its_own_word_and_summary() -> None:
    bits = torch.randn(2, 3, 11)
    given = QuestionVector(11)(bits)
    torch.testing.assert_close(given.summary, bits)
    torch.testing.assert_close(given.tokens[:, :, 0], bits)
    model = small_model("stacked_attention")
    model = VisualQuestionAnswering(model.sight, QuestionVector(11), small_core("mac", words_width=11), ANSWERS)
    assert model(pictures(2), bits).shape == (2, 3, ANSWERS)
    torch.testing.assert_close(model.eval()(pictures(2) * 0, bits[:, 0]), model(pictures(2) * 0, bits)[:, 0])


def test_a_small_network_may_make_the_word_of_a_vector() -> None:
    encoder = QuestionVector(11, width=5).double()
    bits = torch.randn(2, 3, 11).double()
    given = encoder(bits)
    first, _, second = encoder.mix
    hidden = bits @ first.weight.T + first.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    torch.testing.assert_close(given.summary, hidden @ second.weight.T + second.bias)
    assert encoder.width == given.tokens.shape[3] == 5
    assert given.numbers is None


def test_an_encoder_of_transformers_reads_questions() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=11,
        max_position_embeddings=9,
        pad_token_id=0,
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    encoder = HuggingFaceQuestion(bert, frozen=True).train()
    assert not bert.training
    asked = questions(2)
    given = encoder(asked)
    assert encoder.width == 8
    for b in range(2):
        for q in range(3):
            said = asked[b, q][asked[b, q] != 0]
            alone = bert(input_ids=said[None]).last_hidden_state[0]
            torch.testing.assert_close(given.tokens[b, q, : len(said)], alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(given.summary[b, q], alone[0], rtol=1e-4, atol=1e-5)
            assert not given.tokens[b, q, len(said) :].any()
    at_the_end = torch.tensor([[[0, 4, 9]]])
    given = encoder(at_the_end)
    torch.testing.assert_close(given.summary, given.tokens[:, :, 1])


# --- the whole model -------------------------------------------------------------------------------------------------


class Letters:
    def encode(self, question: str) -> list[int]:
        return [1 + ord(letter) % (VOCABULARY - 1) for letter in question if letter.isalpha()]


TEXTS = ["yes", "no", "red", "two", "left"]


def test_a_question_in_words_about_ones_own_picture_is_answered_with_probabilities_and_maps() -> None:
    model = small_model("stacked_attention").train()
    model.vocabulary, model.answers = Letters(), TEXTS
    picture = torch.rand(3, 12, 20)
    said = model.answer(picture, "is it red?", most=3)
    assert model.training
    logits = model.eval()(picture[None], torch.tensor([Letters().encode("is it red?")]))[0]
    shares = dict(zip(TEXTS, logits.softmax(0).tolist(), strict=True))
    best = sorted(TEXTS, key=lambda text: -shares[text])[:3]
    assert said.text == best[0]
    assert list(said.probabilities) == best
    assert said.probabilities == pytest.approx({text: shares[text] for text in best})
    hops = said.maps[0].on_grid().values  # (batch, hop, query, height, width)
    assert hops.shape == (1, 2, 1, 3, 5)
    torch.testing.assert_close(said.look(), (hops[0, 0, 0] + hops[0, 1, 0]) / 2)
    assert isinstance(said, Answer)


def test_answers_that_were_trained_one_by_one_have_probabilities_of_their_own() -> None:
    model = small_model("ban")
    model.vocabulary, model.answers = Letters(), TEXTS
    model.view = lambda path: torch.full((3, 12, 20), float(path))
    said = model.answer("0.5", "what color?", most=9)
    logits = model.eval()(torch.full((1, 3, 12, 20), 0.5), torch.tensor([Letters().encode("what color?")]))[0]
    assert said.probabilities == pytest.approx(dict(zip(TEXTS, logits.sigmoid().tolist(), strict=True)))


def test_what_does_not_attend_answers_without_maps_and_regions_may_come_without_a_batch() -> None:
    questioner = QuestionEncoder(VOCABULARY, 6, 3)
    core = small_core("concatenation")
    model = VisualQuestionAnswering(RegionEncoder(SIGHT), questioner, core, ANSWERS, Letters(), TEXTS)
    features = torch.randn(4, SIGHT)
    said = model.answer(Regions(features), "why?")
    assert said.maps == []
    assert said.look() is None
    assert model.answer(Regions(features[None]), "why?") == said


@pytest.mark.usefixtures("unchecked_shapes")
def test_what_cannot_be_answered_says_why() -> None:
    model = small_model("ban")
    with pytest.raises(UserError, match="knows no words"):
        model.answer(torch.rand(3, 12, 20), "why?")
    model.vocabulary, model.answers = Letters(), TEXTS
    with pytest.raises(UserError, match="has no word"):
        model.answer(torch.rand(3, 12, 20), "?!")
    assert model.answer(torch.rand(3, 12, 20), "?!", strict=False).text in TEXTS
    with pytest.raises(UserError, match="build the model with view="):
        model.answer("cat.png", "why?")
    with pytest.raises(ShapeError, match="give each picture as many"):
        model(pictures(2), questions(3))


# --- models of transformers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vilt() -> nn.Module:
    from transformers import ViltConfig, ViltForQuestionAnswering

    torch.manual_seed(0)
    config = ViltConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=11,
        max_position_embeddings=9,
        image_size=16,
        patch_size=4,
        num_labels=ANSWERS,
        max_image_length=-1,
        pad_token_id=0,
    )
    return ViltForQuestionAnswering(config).eval()


@pytest.fixture(scope="module")
def blip() -> nn.Module:
    from transformers import BlipConfig, BlipForQuestionAnswering

    torch.manual_seed(0)
    shared = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 11}
    text = {"vocab_size": VOCABULARY, "encoder_hidden_size": 8, "max_position_embeddings": 9}
    special = {"pad_token_id": 0, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    config = BlipConfig(
        text_config={**shared, **text, **special},
        vision_config={**shared, "image_size": 12, "patch_size": 4},
        projection_dim=8,
    )
    return BlipForQuestionAnswering(config).eval()


ANSWER_WORDS = torch.tensor([[1, 5, 2, 0], [1, 7, 8, 2], [1, 9, 2, 0]])


def test_vilt_answers_as_it_does_alone(vilt: nn.Module) -> None:
    model = ViltAnswering(vilt).eval()
    seen, asked = torch.rand(2, 3, 12, 20), questions(2)
    given = model(seen, asked)
    for q in range(3):
        alone = vilt(
            input_ids=asked[:, q],
            attention_mask=(asked[:, q] != 0).long(),
            pixel_values=seen,
            pixel_mask=torch.ones(2, 12, 20, dtype=torch.long),
        )
        torch.testing.assert_close(given[:, q], alone.logits, rtol=1e-4, atol=1e-5)


def test_blip_ranks_answers_by_the_loss_that_it_is_trained_with(blip: nn.Module) -> None:
    model = BlipAnswering(blip, ANSWER_WORDS).eval()
    seen, asked = torch.rand(2, 3, 12, 12), questions(2)
    given = model(seen, asked)
    for b in range(2):
        for q in range(3):
            said = asked[b, q][asked[b, q] != 0][None]
            for number, answer in enumerate(ANSWER_WORDS):
                label = answer[answer != 0][None]
                alone = blip(
                    input_ids=said,
                    pixel_values=seen[b : b + 1],
                    attention_mask=torch.ones_like(said),
                    labels=label,
                    decoder_attention_mask=torch.ones_like(label),
                )
                smoothed = blip.text_decoder.label_smoothing
                assert smoothed == 0.0
                expected = -alone.loss * (label.shape[1] - 1)
                torch.testing.assert_close(given[b, q, number], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "grid"), [("vilt", (3, 5)), ("blip", (3, 3))])
def test_a_model_of_transformers_is_watched_as_all_others(
    name: str, grid: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    pretrained = request.getfixturevalue(name)
    model = ViltAnswering(pretrained) if name == "vilt" else BlipAnswering(pretrained, ANSWER_WORDS)
    model = model.eval()
    seen, asked = torch.rand(2, 3, 4 * grid[0], 4 * grid[1]), questions(2)
    expected = model(seen, asked)
    with watch(model) as maps:
        torch.testing.assert_close(model(seen, asked), expected)
    placed = maps.maps[0].on_grid()
    assert placed.axes == ("batch", "layer", "heads", "query", "height", "width")
    assert placed.values.shape == (6, 2, 2, 4, *grid)
    total = placed.values.sum((-1, -2))
    assert ((total > 0) & (total < 1)).all()


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_model_of_another_kind_is_refused(vilt: nn.Module, blip: nn.Module) -> None:
    with pytest.raises(UserError, match="expected a ViltForQuestionAnswering"):
        ViltAnswering(blip)
    with pytest.raises(UserError, match="expected a BlipForQuestionAnswering"):
        BlipAnswering(vilt, ANSWER_WORDS)
