"""Convolutions, skip connections, joins, tuples and repeated calls: each kind of place, against the model by hand."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from inserting import attention_of, strengthen
from torch import Tensor, nn
from torch.nn import functional as F

from regard.attention import (
    AttentionalFeatureFusion,
    AttentionGate,
    DynamicConvolution,
    Involution,
    SelectiveKernel,
    SqueezeExcitation,
)
from regard.errors import UserError
from regard.placing import Slot, insert, inserted, parameter_groups, places, remove

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

SHAPE = (2, 3, 16, 24)


def image(*shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(0))


def layer(channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU())


class Inline(nn.Module):
    """A U-Net that concatenates in its own forward; `order` says which comes first."""

    def __init__(self, skip_first: bool) -> None:
        super().__init__()
        self.skip_first = skip_first
        self.fine, self.middle = layer(3, 5), layer(5, 7)
        self.raise_resolution = nn.ConvTranspose2d(7, 11, 2, 2)
        self.decode, self.head = layer(16, 13), nn.Conv2d(13, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.raise_resolution(self.middle(F.max_pool2d(fine, 2)))
        pair = [fine, coarse] if self.skip_first else [coarse, fine]
        return self.head(self.decode(torch.cat(pair, 1)))


class DecoderBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = layer(12, 13)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.layer(x if skip is None else torch.cat((x, skip), 1))


class Given(nn.Module):
    """A U-Net whose decoder's block is given the skip by name."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle = layer(3, 5), layer(5, 7)
        self.decoder, self.head = DecoderBlock(), nn.Conv2d(13, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        return self.head(self.decoder(self.middle(F.max_pool2d(fine, 2)), skip=fine))


class Pyramid(nn.Module):
    """A feature pyramid that adds what a lateral convolution makes."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle = layer(3, 5), layer(5, 7)
        self.lateral, self.top, self.smooth = nn.Conv2d(5, 7, 1), nn.Conv2d(7, 7, 1), nn.Conv2d(7, 7, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        top = self.top(self.middle(F.max_pool2d(fine, 2)))
        return self.smooth(self.lateral(fine) + F.interpolate(top, scale_factor=2.0))


def built(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "path", "slot", "partner", "channels"),
    [
        (Inline(True), "decode", Slot("input", (0,), (0, 5)), Slot("input", (0,), (5, 16)), 5),
        (Inline(False), "decode", Slot("input", (0,), (11, 16)), Slot("input", (0,), (0, 11)), 5),
        (Given(), "decoder", Slot("input", ("skip",)), Slot("input", (0,)), 5),
        (Pyramid(), "lateral", Slot(), None, 7),
    ],
    ids=["skip first", "skip last", "given", "added"],
)
def test_a_skip_is_found_where_the_model_exposes_it(
    model: nn.Module, path: str, slot: Slot, partner: Slot | None, channels: int
) -> None:
    table = places(model, SHAPE)
    (skip,) = table.of("skip")
    assert (skip.path, skip.slot, skip.partner, skip.channels) == (path, slot, partner, channels)
    assert skip.grid == (16, 24)
    assert [place.path for place in table.of("decoder")] == ["smooth" if partner is None else path]
    assert [(place.path, place.channels) for place in table.of("input")] == [("", 3)]
    assert [(place.path, place.side) for place in table.of("output")] == [("", "output")]


def test_branches_of_a_pyramid_pooling_are_no_skips() -> None:
    model = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)
    assert places(model, (1, 3, 64, 64)).of("skip") == []


@pytest.mark.parametrize("skip_first", [True, False])
def test_a_gate_takes_the_skip_out_of_a_concatenation(skip_first: bool) -> None:
    model = built(Inline(skip_first))
    x = image()
    decode = copy.deepcopy(model.decode)
    plain = model(x)
    torch.testing.assert_close(insert(model, "attention_gate", "skip", example=SHAPE)(x), plain)
    (placed,) = attention_of(model)
    gate = placed.attention[0]
    assert isinstance(gate, AttentionGate)
    assert (gate.channels, gate.gating_channels) == (5, 11)
    assert placed.strength is not None
    strengthen(model, 0.25)
    with torch.no_grad():
        fine = model.fine(x)
        coarse = model.raise_resolution(model.middle(F.max_pool2d(fine, 2)))
        fine = 0.75 * fine + 0.25 * gate(fine, coarse)
        pair = [fine, coarse] if skip_first else [coarse, fine]
        expected = model.head(decode(torch.cat(pair, 1)))
        torch.testing.assert_close(model(x), expected)
    assert torch.equal(remove(model)(x), plain)


@pytest.mark.parametrize("mechanism", ["attention_gate", "cbam"])
def test_a_skip_given_by_name_is_refined(mechanism: str) -> None:
    model = built(Given())
    x = image()
    plain = model(x)
    insert(model, mechanism, "skip1", start="paper", example=SHAPE)
    (placed,) = attention_of(model)
    with torch.no_grad():
        fine = model.fine(x)
        coarse = model.middle(F.max_pool2d(fine, 2))
        gate = placed.attention[0]
        fine = gate(fine, coarse) if mechanism == "attention_gate" else gate(fine)
        joined = torch.cat((F.interpolate(coarse, scale_factor=2.0), fine), 1)
        torch.testing.assert_close(model(x), model.head(model.decoder.layer(joined)))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin(x), model(x))
    assert torch.equal(remove(model)(x), plain)


class Add(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Concatenate(nn.Module):
    def forward(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors, 1)


class Joined(nn.Module):
    def __init__(self, join: nn.Module) -> None:
        super().__init__()
        self.one, self.other, self.join = layer(3, 8), layer(3, 8), join

    def forward(self, x: Tensor) -> Tensor:
        branches = self.one(x), self.other(x)
        return self.join(*branches) if isinstance(self.join, Add) else self.join(list(branches))


def test_a_merge_takes_over_from_a_module_that_adds() -> None:
    model = built(Joined(Add()))
    x = image()
    plain = model(x)
    torch.testing.assert_close(insert(model, "aff", "join", example=SHAPE)(x), plain)
    remove(model)
    insert(model, AttentionalFeatureFusion, "join", start="paper", example=SHAPE)
    fusion = attention_of(model)[0].attention[0]
    torch.testing.assert_close(model(x), fusion(model.one(x), model.other(x)))


def test_a_merge_that_gives_another_shape_than_the_model_is_refused() -> None:
    model = Joined(Concatenate()).eval()
    assert len(places(model, SHAPE).choose("join")[0].inputs) == 2
    with pytest.raises(UserError, match=r"'aff' cannot stand at 'join': .*\(2, 8, 16, 24\), \(2, 8, 16, 24\).*16"):
        insert(model, "aff", "join", example=SHAPE)
    with pytest.raises(UserError, match="'aff' is a Merge, which takes several tensors, and 'one' is one tensor"):
        insert(model, "aff", "one", example=SHAPE)
    assert attention_of(model) == []


def test_a_refinement_goes_before_a_merge_that_takes_it() -> None:
    model = built(Given())
    with pytest.raises(UserError, match="'attention_gate' is a Merge and comes after another mechanism"):
        insert(model, ["se", "attention_gate"], "skip", example=SHAPE)
    insert(model, ["attention_gate", "se"], "skip", start="paper", example=SHAPE)
    gate, se = attention_of(model)[0].attention
    fine, coarse = image(2, 5, 16, 24), image(2, 7, 8, 12)
    torch.testing.assert_close(attention_of(model)[0](fine, fine, coarse), se(gate(fine, coarse)))


def residual(**options: Any) -> nn.Module:
    return built(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1, **options), nn.ReLU()))


@pytest.mark.parametrize("mechanism", [SelectiveKernel, DynamicConvolution, partial(Involution, kernel_size=5)])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"groups": 4, "bias": False}], ids=["plain", "strided", "grouped"]
)
def test_a_convolve_stands_in_for_a_convolution(mechanism: Any, options: dict[str, Any]) -> None:
    model = residual(**options)
    x = image()
    plain = model(x)
    torch.testing.assert_close(insert(model, mechanism, "1", example=SHAPE)(x), plain)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(remove(model)(x), plain)

    insert(model, mechanism, "1", start="paper", example=SHAPE)
    (placed,) = attention_of(model)
    (convolve,) = placed.attention
    assert convolve.stride == options.get("stride", 1)
    if mechanism is DynamicConvolution:
        assert (convolve.kernel_size, convolve.groups) == (3, options.get("groups", 1))
        assert (convolve.bias is None) == ("bias" in options)
    torch.testing.assert_close(model(x), convolve(model[0](x)).relu())  # pyright: ignore[reportIndexIssue]
    model.zero_grad()
    model(x).sum().backward()
    assert model[1].weight.grad is None or not model[1].weight.grad.any()  # pyright: ignore[reportIndexIssue]
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    torch.testing.assert_close(twin(x), model(x))
    nn.init.zeros_(next(attention_of(twin)[0].parameters()))
    assert not torch.equal(twin(x), model(x))
    assert torch.equal(remove(model)(x), plain)
    assert "forward" not in vars(model[1])  # pyright: ignore[reportIndexIssue]


@pytest.mark.slow
def test_a_replaced_convolution_compiles_and_exports() -> None:
    model = insert(residual(), "dynamic_convolution", "1", start="paper", example=SHAPE)
    expected = model(image())
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(image()), expected)
    torch.testing.assert_close(torch.export.export(model, (image(),)).module()(image()), expected)


@pytest.mark.parametrize(
    ("options", "at", "message"),
    [
        ({}, "2", "'sk' is a Convolve, which takes over from a nn.Conv2d, and '2' is the output of a ReLU"),
        ({}, "input", r"'the model \(input\)' is the input of a Sequential"),
        ({"dilation": 2, "padding": 2}, "1", r"dilation=\(2, 2\), which 'sk' cannot take over"),
        ({"kernel_size": (3, 1), "padding": (1, 0)}, "1", r"kernel_size=\(3, 1\)"),
        ({"kernel_size": 5, "padding": 0}, "1", r"'sk' cannot stand at '1': it gives shape .* and the model goes on"),
    ],
)
def test_a_convolution_that_cannot_be_taken_over_is_refused(options: dict[str, Any], at: str, message: str) -> None:
    options = {"kernel_size": 3, "padding": 1, **options}
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, **options), nn.ReLU()).eval()
    with pytest.raises(UserError, match=message):
        insert(model, "sk", at, example=SHAPE)
    assert attention_of(model) == []


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ((), (), [True] * 3),
        (("0", "1.conv"), (), [False, False, True]),  # the replaced one among them
        (("0",), ("2",), [False] * 3),
        ((), ("2",), [True, True, False]),
        (("0", "1.conv", "2"), (), [False] * 3),
        (("0", "2"), (), [False, True, False]),  # all but the replaced one
        ((), ("0", "1.conv", "2"), [False] * 3),  # frozen by hand while attention stood there
    ],
)
def test_a_replaced_convolution_comes_back_frozen_or_not_as_it_was(
    before: tuple[str, ...], after: tuple[str, ...], again: list[bool]
) -> None:
    block = nn.Sequential(OrderedDict(conv=nn.Conv2d(5, 5, 3, padding=1, bias=False)))
    model = built(nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), block, nn.Conv2d(5, 7, 1, bias=False)))
    for path in before:
        model.get_submodule(path).requires_grad_(False)
    insert(model, "involution", "1.conv", start="paper", example=SHAPE)
    assert not block.conv.weight.requires_grad
    for path in after:
        model.get_submodule(path).requires_grad_(False)
    remove(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == again


def test_a_replaced_convolution_stays_frozen_with_its_model() -> None:
    """`parameter_groups` without a learning rate freezes it too, where it is all that the model has."""
    model = built(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()))
    insert(model, "involution", "0", start="paper", example=SHAPE)
    parameter_groups(model, lr=None, new_lr=0.1)
    assert not any(parameter.requires_grad for parameter in remove(model).parameters())


class Twice(nn.Module):
    """Calls one module twice in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x))


def test_the_calls_of_one_module_share_attention_or_have_each_their_own() -> None:
    model, x = built(Twice()), image()
    plain = model(x)
    shared = insert(copy.deepcopy(model), "se", "shared", start="paper", example=SHAPE)
    (one,) = attention_of(shared)
    torch.testing.assert_close(shared(x), one(model.shared(one(model.shared(x)))))

    separate = insert(model, "se", "shared", start="paper", calls="separate", example=SHAPE)
    first, second = attention_of(separate)
    assert list(inserted(separate)) == ["shared.regard.output_call1", "shared.regard.output_call2"]
    for parameter in first.parameters():
        nn.init.normal_(parameter)
    convolution = copy.deepcopy(model.shared)
    convolution._forward_hooks.clear()
    expected = second(convolution(first(convolution(x))))
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(RuntimeError):
        model(image(2, 4, 5, 5))  # fails half-way: the next forward counts its calls from the start
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    assert torch.equal(remove(model)(x), plain)
    assert not model._forward_pre_hooks


class Checkpointed(Twice):
    """Runs the second of its calls again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.shared, self.shared(x), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # where insert runs the model
def test_separate_attention_refuses_gradient_checkpointing(reentrant: bool) -> None:
    model = insert(built(Checkpointed(reentrant)), "se", "shared", calls="separate", example=SHAPE)
    y = model(image().requires_grad_())
    with pytest.raises(UserError, match="2 calls and is run again by gradient checkpointing"):
        y.sum().backward()


def test_separate_attention_refuses_a_call_outside_of_its_model() -> None:
    """Its calls are counted from the start of a forward of the model, which a part that is called alone has not."""
    model = insert(nn.Sequential(built(Twice()), nn.ReLU()), "se", "0.shared", calls="separate", example=SHAPE)
    refused = r"'0.shared' has separate attention for each of its 2 calls .* call that model, or insert with calls='sh"
    with pytest.raises(UserError, match=refused):
        model[0](image())
    expected = model(image())
    with pytest.raises(RuntimeError):
        model(image(2, 4, 5, 5))
    for part in (model[0], model[0].shared):
        with pytest.raises(UserError, match=refused):  # after a whole forward, and after one that failed, too
            part(image())
    torch.testing.assert_close(model(image()), expected)
    own = insert(built(Twice()), "se", "shared", calls="separate", example=SHAPE)
    torch.testing.assert_close(nn.Sequential(own, nn.ReLU())(image()), own(image()).relu())  # its own forward counts


def test_a_mapping_gives_each_place_its_own() -> None:
    model = built(Given())
    insert(model, {"fine": "se", "middle": ["eca", SqueezeExcitation], "input": "cbam"}, example=SHAPE)
    found = {path: [name for name, _ in placed.attention.named_children()] for path, placed in inserted(model).items()}
    assert found == {
        "fine.0.regard.input": ["cbam"],  # which alone is given the input of the model
        "fine.2.regard.output": ["se"],
        "middle.2.regard.output": ["eca", "se"],
    }
    with pytest.raises(UserError, match="'fine' has attention already"):
        insert(built(Given()), {"fine": "se", "fi*": "eca"}, example=SHAPE)
    with pytest.raises(UserError, match="at= was given beside a mapping"):
        insert(built(Given()), {"fine": "se"}, "middle", example=SHAPE)
    with pytest.raises(UserError, match="the mapping is empty"):
        insert(built(Given()), {}, example=SHAPE)


Pair = namedtuple("Pair", ["hidden", "weights"])


class Several(nn.Module):
    def __init__(self, kind: type | str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 4, 1), kind

    def forward(self, x: Tensor) -> Any:
        y, weights = self.conv(x), torch.ones(2, 7)
        if self.kind is dict:
            return {"hidden": y, "weights": weights}
        return Pair(y, weights) if self.kind is Pair else (y, weights) if self.kind is tuple else [y, y]


class Around(nn.Module):
    def __init__(self, kind: type | str) -> None:
        super().__init__()
        self.several = Several(kind)

    def forward(self, x: Tensor) -> Tensor:
        given = self.several(x)
        return given["hidden"] if isinstance(given, dict) else given[0]


@pytest.mark.parametrize("kind", [dict, tuple, Pair])
def test_the_leading_tensor_of_several_outputs_is_refined(kind: type) -> None:
    model, x = built(Around(kind)), image()
    plain = model(x)
    insert(model, "se", "several", start="paper", example=SHAPE)
    (placed,) = attention_of(model)
    torch.testing.assert_close(model(x), placed(plain))
    given = model.several(x)
    assert type(given) is kind
    assert len(given) == 2


def test_an_output_that_changes_its_form_is_told() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"train": x} if self.training else (x, None)

    model = insert(nn.Sequential(Fickle()).eval(), "se", "0", example=SHAPE)
    with pytest.raises(UserError, match=r"'0' gave its tensor under '0' of several outputs .* now gives a dict"):
        model.train()(image())


def test_of_several_maps_none_is_the_one_that_is_meant() -> None:
    with pytest.raises(UserError, match="'several': it gives 2 tensors, not one"):
        insert(built(Around(list)), "se", "several", example=SHAPE)


def test_a_mechanism_of_maps_refines_tokens_on_their_grid() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), num_classes=5, depth=2).eval()
    x = image(2, 3, 32, 64)
    place = places(model, x).of("block")[0]
    assert (place.layout, place.extra_tokens, place.grid, place.resolution) == ("BNC", 1, (2, 4), "2×4 + 1")
    with pytest.warns(UserWarning, match=r"'blocks\.1' cannot change an output of the model.*It was left out"):
        insert(model, "cbam", "block", start="paper", example=x)  # the head reads the class token alone
    (placed,) = attention_of(model)
    tokens = image(2, 9, 192)
    refined = placed(tokens)
    assert torch.equal(refined[:, :1], tokens[:, :1])
    on_map = placed.attention[0].refine(tokens[:, 1:].mT.unflatten(2, (2, 4)))
    torch.testing.assert_close(refined[:, 1:], on_map.flatten(2).mT)


def test_channels_that_change_between_calls_are_refused() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.ReLU()
            self.wider = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.same(self.wider(self.same(x)))

    with pytest.raises(UserError, match="'same': it gives 3, 4 channels in its several calls, not one number"):
        insert(Changing().eval(), "se", "same", example=SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "zero"}, "unknown start 'zero'"),
        ({"calls": "own"}, "unknown calls 'own': it is 'shared' or 'separate'"),
        ({"layout": "NHWC"}, "unknown layout 'NHWC'"),
        ({"at": "skip3"}, "no place 'skip3' in this model"),
        ({"attention": "multi_head_self"}, "'multi_head_self' cannot be built for 'fine': 8 heads do not divide"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        insert(built(Given()), **{"attention": "se", "at": "fine", "example": SHAPE, **options})


def test_what_a_block_gives_is_refined_before_what_its_stage_gives() -> None:
    """Both hang on the last block, in whatever order they came."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(layer(8, 8), layer(8, 8)), nn.ReLU())
    x = image()
    plain = copy.deepcopy(built(model))[:2](x)
    for order in (["1", "1.1"], ["1.1", "1"]):
        twin = copy.deepcopy(model)
        for number, path in enumerate(order):
            insert(twin, ["se", "eca"][path == "1"], path, start="paper", example=SHAPE)
            assert len(attention_of(twin)) == number + 1
        placed = {one.place: one for one in attention_of(twin)}
        torch.testing.assert_close(twin(x), placed["1"](placed["1.1"](plain)).relu())
        assert torch.equal(remove(twin)(x), plain.relu())
