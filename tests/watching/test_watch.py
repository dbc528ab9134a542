"""A watch sees what the mechanisms of one model compute, says why where there is nothing, and changes nothing."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from regard.attention import MultiHeadSelfAttention, OnTokens, offering
from regard.attention.catalogue import create
from regard.attention.channel import SqueezeExcitation
from regard.attention.contract import Refine
from regard.attention.offering import MapFact
from regard.errors import UserError
from regard.placing import insert
from regard.watching import AttentionMap, NoMapError, watch

SHAPE = (2, 3, 64, 64)


def image(*shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    attended = insert(torchvision.models.resnet18(num_classes=5).eval(), "se", "block", start="paper", example=SHAPE)
    return insert(attended, "multi_head_self", "stage3", start="paper", example=SHAPE)


def test_maps_know_what_they_are(model: nn.Module) -> None:
    expected = model(image())
    with watch(model) as seen:
        output = model(image())
    assert torch.equal(output, expected)
    assert not offering.listening()
    assert len(seen.maps) == 9
    first = seen.maps[0]
    assert (first.module, first.mechanism, first.label) == ("layer1.0.regard.output.attention.se", "se", "channel")
    assert (first.axes, first.values.shape, first.grid, first.sums_to_one) == (("batch", "channel"), (2, 64), None, ())
    assert repr(first) == "AttentionMap(layer1.0.regard.output.attention.se · se · channel: batch 2, channel 64)"
    (square,) = seen["layer3"][2:]
    assert square.axes == ("batch", "heads", "query", "key")
    assert (square.grid, square.extra_tokens, square.sums_to_one) == ((4, 4), 0, ("key",))
    torch.testing.assert_close(square.values.sum(-1), torch.ones(2, 8, 16))
    assert not any(one.values.requires_grad for one in seen.maps)


def test_rows_asked_for_equal_the_slice_of_the_full_map(model: nn.Module) -> None:
    with watch(model) as full, watch(model, heads=(1, 5), queries=[3]) as part:
        model(image())
    (whole,), (few,) = full["**.multi_head_self"], part["**.multi_head_self"]
    assert few.values.shape == (2, 2, 1, 16)
    torch.testing.assert_close(few.values, whole.select(heads=(1, 5), query=[3]).values)
    assert torch.equal(full.maps[0].values, part.maps[0].values)
    with pytest.raises(NoMapError, match="heads \\(11,\\)"), watch(model, heads=[11]):
        model(image())
    assert not offering.listening()


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ("*", 9),
        ("layer4", 2),
        ("layer?", 9),
        ("layer?.1", 5),  # what was inserted at layer3 lives in its last block
        ("layer4.*.regard.output.attention.se", 2),
        ("multi_head_self", 1),
        (["layer1", "layer4.0"], 3),
    ],
    ids=str,
)
def test_layers_are_named_by_mechanism_or_place(model: nn.Module, layers: Any, count: int) -> None:
    if layers == "multi_head_self":
        layers = "**.multi_head_self"
    with watch(model, layers) as seen:
        model(image())
    assert len(seen.maps) == count


def test_calls_are_counted_and_other_models_unheard(model: nn.Module) -> None:
    other = SqueezeExcitation(3)
    with watch(model, "layer1.0") as seen:
        model(image())
        other(image())
        model(image())
        assert [one.call for one in seen["layer1.0"]] == [0, 1]
        seen.clear()
        model(image())
    assert [one.call for one in seen.maps] == [0]


def test_a_single_mechanism_can_be_watched() -> None:
    mechanism = MultiHeadSelfAttention(16, heads=2)
    with watch(mechanism) as seen:
        mechanism(image(2, 5, 16))
    assert seen.maps[0].values.shape == (2, 2, 5, 5)
    assert seen.maps[0].grid is None


def test_gradients_are_the_same_when_watched(model: nn.Module) -> None:
    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(image()).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    expected = gradients()
    with watch(model):
        found = gradients()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_compiled_model_is_heard() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), SqueezeExcitation(8))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    compiled(image())
    with watch(compiled) as seen:  # pyright: ignore[reportArgumentType]
        compiled(image())
    assert seen.maps[0].values.shape == (2, 8)


def test_extra_tokens_of_a_vision_transformer() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5).eval()
    insert(vit, "multi_head_self", "block", example=SHAPE)
    with watch(vit) as seen:
        vit(image())
    assert [one.extra_tokens for one in seen.maps] == [1, 1]
    assert [one.on_grid((4, 4)).axes for one in seen.maps] == [("batch", "heads", "query", "height", "width")] * 2


def test_nothing_to_watch_says_so() -> None:
    plain = torchvision.models.resnet18()
    with pytest.raises(NoMapError, match=r"has 68 modules, and none of them is a mechanism.*regard\.insert"):
        watch(plain)


def test_a_missing_map_says_why(model: nn.Module) -> None:
    with pytest.raises(NoMapError, match=r"no mechanism of ResNet lies at 'layer9'; it has layer"):
        watch(model, "layer9")
    with pytest.raises(NoMapError, match="lies at 'layer9'"):
        watch(model, ["layer1", "layer9"])
    with watch(model, "layer1") as seen:
        with pytest.raises(NoMapError, match="run the model inside the with block"):
            _ = seen.maps
        with pytest.raises(NoMapError, match="nothing was run inside the with block"):
            _ = seen["layer1"]
        model(image())
    with pytest.raises(NoMapError, match="not among the layers"):
        _ = seen["layer4"]
    with pytest.raises(LookupError, match="no mechanism of ResNet lies there"):
        _ = seen["layer9"]
    seen.clear()
    idle = nn.ModuleDict({"used": SqueezeExcitation(3), "idle": SqueezeExcitation(3)})
    with watch(idle) as seen:
        idle["used"](image())
    with pytest.raises(NoMapError, match="'idle': it was never called"):
        _ = seen["idle"]


def test_a_forward_that_fails_leaves_no_listener(model: nn.Module) -> None:
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with pytest.raises(RuntimeError), watch(model):
        model(image(2, 4, 32, 32))
    assert not offering.listening()
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def square() -> AttentionMap:
    values = torch.rand(2, 3, 4, 6).softmax(-1)
    return AttentionMap(values, ("batch", "heads", "query", "key"), "a", "m", "attention", 0, (2, 3), 0, ("key",))


def test_selecting_by_axis() -> None:
    one = square()
    part = one.select(batch=1, heads=-1)
    assert part.axes == ("query", "key")
    assert torch.equal(part.values, one.values[1, 2])
    assert (part.sums_to_one, part.grid) == (("key",), (2, 3))
    assert one.select(query=slice(1, 3)).values.shape == (2, 3, 2, 6)
    assert one.select(key=[0, 1]).sums_to_one == ()
    assert one.select(key=[0, 1]).grid is None
    with pytest.raises(UserError, match="no axis 'channel': it has batch, heads, query, key"):
        one.select(channel=0)
    with pytest.raises(UserError, match=r"lies outside the axis 'heads'.*0 to 2"):
        one.select(heads=3)


def test_means_and_grids() -> None:
    one = square()
    mean = one.mean("heads")
    assert (mean.axes, mean.sums_to_one) == (("batch", "query", "key"), ("key",))
    torch.testing.assert_close(mean.values.sum(-1), torch.ones(2, 4))
    laid = mean.on_grid()
    assert (laid.axes, laid.sums_to_one) == (("batch", "query", "height", "width"), ("height", "width"))
    assert torch.equal(laid.values.flatten(2), mean.values)
    assert laid.on_grid() is laid
    tokens = AttentionMap(
        torch.rand(2, 7), ("batch", "key"), "a", "m", "l", grid=(2, 3), extra_tokens=1, sums_to_one=("key",)
    )
    assert torch.equal(tokens.on_grid().values.flatten(1), tokens.values[:, 1:])
    assert tokens.on_grid().sums_to_one == ()
    with pytest.raises(UserError, match="neither the axis 'key' nor"):
        AttentionMap(torch.rand(2, 7), ("batch", "channel"), "a", "m", "l").on_grid()
    with pytest.raises(ValueError, match="name each axis once"):
        AttentionMap(torch.rand(2, 7), ("batch",), "a", "m", "l")


def tokens(keys: int, extra_tokens: int = 0) -> AttentionMap:
    values = torch.rand(2, 5, keys)
    return AttentionMap(values, ("batch", "query", "key"), "a", "m", "l", 0, None, extra_tokens, ("key",))


@pytest.mark.parametrize("grid", [(3, 7), [7, 3], (21,), (1, 3, 7)], ids=str)
def test_a_grid_that_is_said_lays_the_keys_out(grid: Any) -> None:
    one = tokens(22, 1)
    laid = one.on_grid(grid)
    axes = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}[len(grid)]
    assert laid.axes == ("batch", "query", *axes)
    assert laid.values.shape == (2, 5, *grid)
    assert torch.equal(laid.values.flatten(2), one.values[..., 1:])
    assert torch.equal(one.on_grid(grid, extra_tokens=1).values, laid.values)


def test_extra_tokens_that_are_said_are_left_out() -> None:
    one = tokens(23)
    assert torch.equal(one.on_grid((3, 7), extra_tokens=2).values.flatten(2), one.values[..., 2:])
    none = tokens(21, 1)
    assert torch.equal(none.on_grid((3, 7), extra_tokens=0).values.flatten(2), none.values)


def test_what_is_said_goes_before_what_is_known() -> None:
    one = square()
    assert one.on_grid((3, 2)).values.shape == (2, 3, 4, 3, 2)
    laid = one.on_grid()
    assert laid.on_grid((2, 3)) is laid
    with pytest.raises(UserError, match="lies on a grid of 2 x 3 already, not of 3 x 2"):
        laid.on_grid((3, 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"grid of .* is not known: its keys are 22 tokens, of which 1 come before the cells"),
        ({"grid": (2, 11)}, r"2 x 11 and 1 extra tokens are 23 keys, and .* has 22"),
        ({"grid": (3, 7), "extra_tokens": 0}, r"3 x 7 and 0 extra tokens are 21 keys, and .* has 22"),
        ({"grid": (4, 6), "extra_tokens": -2}, "4 x 6 and -2 extra tokens"),
        ({"grid": (-3, -7)}, r"\(-3, -7\) is no grid"),
        ({"grid": (1, 1, 3, 7)}, "is no grid: give one to three sizes"),
        ({"grid": ()}, "is no grid"),
        ({"grid": 21}, "21 is no grid"),
        ({"grid": (3.0, 7)}, "is no grid"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_grid_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokens(22, 1).on_grid(**given)


class Host(nn.Module):
    """What knows a mechanism's place, as what `insert` puts into a model does."""

    def __init__(self, attention: nn.Module, extra_tokens: int, grid: tuple[int, ...] | None) -> None:
        super().__init__()
        self.place, self.extra_tokens, self.grid = "blocks.0", extra_tokens, grid
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


@pytest.mark.parametrize(
    ("grid", "keys", "expected"),
    [
        ((3, 5), 16, (3, 5)),
        ((3, 5), 61, (6, 10)),
        ((3, 5), 18, None),
        ((3, 5), 17, None),  # a square of 16, which nobody said
        ((3, 5), 1, None),
        (None, 17, None),
        ((2, 3, 5), 241, (4, 6, 10)),
    ],
    ids=str,
)
@pytest.mark.parametrize("attention", ["multi_head_self", "separable", "nystrom"])
def test_tokens_lie_on_the_grid_of_their_place(
    attention: str, grid: tuple[int, ...] | None, keys: int, expected: tuple[int, ...] | None
) -> None:
    model = Host(create(attention, 16), 1, grid).eval()
    with watch(model) as seen:
        model(image(2, keys, 16))
    maps = [one for one in seen.maps if "key" in one.axes]
    assert maps
    assert all((one.grid, one.extra_tokens) == (expected, 1) for one in maps)
    for one in maps:
        if expected is None:
            with pytest.raises(UserError, match="is not known"):
                one.on_grid()
        else:
            at = one.axes.index("key")
            assert torch.equal(one.on_grid().values.flatten(at, at + len(expected) - 1), one.values[..., 1:])


class Quarters(Refine):
    """Reads from four quarters of a map, of which it does not say where they lie."""

    name, layout = "quarters", "map"
    maps = (MapFact("attention", ("batch", "key")),)
    channels = 16

    def forward(self, x: Tensor) -> Tensor:
        self.offer("attention", x.new_ones(len(x), 4))
        return x


def test_keys_that_are_no_tokens_do_not_lie_on_the_grid_of_the_place() -> None:
    """A quarter of the cells has the proportions of all cells, and is something else."""
    model = Host(OnTokens(Quarters(), 0, (4, 4)), 0, (4, 4)).eval()
    with watch(model) as seen:
        model(image(2, 16, 16))
    assert [one.grid for one in seen.maps] == [None]
