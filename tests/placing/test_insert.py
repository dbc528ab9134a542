"""Attention goes into real models at the places it names, changes nothing at the start, and leaves without a trace."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import timm
import torch
import torchvision
from inserting import attention_of, is_inserted, strengthen
from residual import Residual, residual_network
from torch import Tensor, nn

from regard.attention import OnMap, OnTokens, Refine, mechanisms
from regard.attention.channel import SqueezeExcitation
from regard.errors import UserError
from regard.placing import Placed, insert, inserted, parameter_groups, places, remove, switched_off

SHAPE = (2, 3, 64, 64)


def image(*shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(0))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm_resnet18": lambda: timm.create_model("resnet18", num_classes=5),
    "timm_resnet50": lambda: timm.create_model("resnet50", num_classes=5),
    "timm_convnext": lambda: timm.create_model("convnext_atto", num_classes=5),
    "timm_mobilenet": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "timm_vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, depth=3),
    "torchvision_resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "sequential": lambda: residual_network(16, 5, stride=2),
}
FOUND = {
    "timm_resnet18": {"input": 1, "stem": 1, "stage": 4, "block": 8, "branch": 8, "pool": 1},
    "timm_resnet50": {"input": 1, "stem": 1, "stage": 4, "block": 16, "branch": 16, "pool": 1},
    "timm_convnext": {"input": 1, "stem": 1, "stage": 4, "block": 12, "branch": 12, "pool": 1},
    "timm_mobilenet": {"input": 1, "stem": 1, "stage": 4, "block": 10, "branch": 7, "pool": 1},
    "timm_vit": {"input": 1, "stem": 1, "stage": 1, "block": 3, "branch": 6, "pool": 1},
    "torchvision_resnet18": {"input": 1, "stem": 1, "stage": 4, "block": 8, "branch": 8, "pool": 1},
    "sequential": {"input": 1, "stem": 1, "block": 2, "branch": 2, "pool": 1},
}


EVERYDAY = ("timm_resnet18", "timm_vit", "sequential")


@pytest.fixture(params=[pytest.param(name, marks=[] if name in EVERYDAY else [pytest.mark.slow]) for name in MODELS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def snapshot(model: nn.Module) -> dict[str, object]:
    """All that `remove` promises to give back; objects by identity."""
    return {
        "modules": [(path, id(module)) for path, module in model.named_modules()],
        "training": [module.training for module in model.modules()],
        "parameters": [(path, id(value)) for path, value in model.named_parameters()],
        "hooks": [
            (dict(module._forward_hooks), dict(module._forward_pre_hooks), len(module._forward_hooks_with_kwargs))
            for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "state": {key: value.clone().numpy().tobytes() for key, value in model.state_dict().items()},
    }


def mechanism_for(name: str) -> str:
    return "multi_head_self" if name == "timm_vit" else "se"


def test_places_have_the_roles_of_the_architecture(name: str) -> None:
    model = build(name)
    before = snapshot(model)
    state = torch.get_rng_state()
    table = places(model, SHAPE)
    assert table.roles() == FOUND[name]
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert "block" in str(table)
    assert all(len(line) < 120 for line in str(table).splitlines())


@pytest.mark.parametrize(
    ("name", "role", "paths"),
    [
        ("timm_resnet18", "branch", ["layer1.0.bn2", "layer1.1.bn2"]),
        ("timm_resnet50", "branch", ["layer1.0.bn3", "layer1.1.bn3"]),
        ("torchvision_resnet18", "branch", ["layer1.0.bn2", "layer1.1.bn2"]),
        ("timm_mobilenet", "branch", ["blocks.1.1.bn3", "blocks.2.1.bn3"]),
        ("timm_convnext", "branch", ["stages.0.blocks.0.mlp"]),
        ("timm_vit", "branch", ["blocks.0.attn", "blocks.0.mlp"]),
        ("sequential", "branch", ["1.norm", "2.norm"]),
        ("timm_resnet18", "stage", ["layer1", "layer2", "layer3", "layer4"]),
        ("timm_convnext", "stage", ["stages.0", "stages.1", "stages.2", "stages.3"]),
        ("timm_resnet18", "stem", ["maxpool"]),
        ("timm_resnet18", "pool", ["global_pool"]),
        ("timm_convnext", "pool", ["head.global_pool"]),
        ("timm_mobilenet", "pool", ["global_pool"]),
        ("torchvision_resnet18", "pool", ["avgpool"]),
        ("timm_vit", "pool", ["norm"]),
        ("sequential", "pool", ["3"]),
    ],
)
def test_a_role_is_where_the_literature_puts_it(name: str, role: str, paths: list[str]) -> None:
    found = [place.path for place in places(build(name), SHAPE) if place.role == role]
    assert found[: len(paths)] == paths


@pytest.mark.parametrize("size", [32, 64])
def test_the_pool_is_found_at_every_input_size(size: int) -> None:
    table = places(build("torchvision_resnet18"), (1, 3, size, size))
    assert [(place.path, place.side, place.channels) for place in table.of("pool")] == [("avgpool", "input", 512)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "count"), [("res2net50_14w_8s", 16), ("swin_tiny_patch4_window7_224", 24)], ids=["split", "reshaped"]
)
def test_a_branch_is_as_large_as_its_block(model: str, count: int) -> None:
    """The additions among the parts of a split are no branches; one in another layout is."""
    assert len(places(timm.create_model(model)).of("branch")) == count


def test_layouts_follow_the_channels_and_not_the_shape() -> None:
    swin = places(torchvision.models.swin_t(), (1, 3, 64, 64))
    assert {place.layout for place in swin.of("block")} == {"BHWC"}
    vit = places(build("timm_vit"), SHAPE)
    assert {(place.layout, place.extra_tokens, place.channels) for place in vit.of("block")} == {("BNC", 1, 192)}
    volume = places(nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU()), (1, 1, 5, 6, 7))
    assert [(place.role, place.layout) for place in volume] == [
        (role, "BCDHW") for role in ("input", None, None, "output")
    ]
    signal = places(nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU()), (1, 2, 9))
    assert {(place.layout, place.resolution) for place in signal} == {("BCL", "9"), ("BCL", "7")}


def test_examples_of_every_kind() -> None:
    model = build("timm_resnet18")
    expected = places(model).roles()
    for example in (image(), (image(),), {"x": image()}, torch.Size(SHAPE), SHAPE):
        assert places(model, example).roles() == expected
    with pytest.raises(UserError, match="give one as example="):
        places(build("torchvision_resnet18"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "total"), [("resnet18", 11_778_592), ("resnet34", 21_958_868), ("resnet50", 28_088_024)]
)
@pytest.mark.parametrize("library", [timm.create_model, torchvision.models.get_model], ids=["timm", "torchvision"])
def test_published_parameter_totals(library: Callable[[str], nn.Module], model: str, total: int) -> None:
    attended = insert(library(model), "se", at="branch", start="paper", example=(1, 3, 32, 32))
    assert sum(parameter.numel() for parameter in attended.parameters()) == total


@pytest.mark.parametrize("at", ["input", "block", "branch", "pool", "stem"])
def test_the_model_is_exactly_what_it_was_right_after_insertion(name: str, at: str) -> None:
    model = build(name)
    expected = model(image())
    insert(model, "se" if at == "input" else mechanism_for(name), at, example=SHAPE)
    assert torch.equal(model(image()), expected)


@pytest.mark.parametrize("mechanism", sorted(key for key, kind in mechanisms.items() if issubclass(kind, Refine)))
def test_every_refinement_can_be_inserted(mechanism: str) -> None:
    model = build("sequential")
    shape = (2, 3, 21, 27)
    expected = model(image(*shape))
    kind = mechanisms[mechanism]
    if kind.layout == "map" and 2 not in kind.spatial_ranks:
        with pytest.raises(UserError, match=f"{mechanism!r} takes 3 spatial axes"):
            insert(model, mechanism, "block", example=shape)
        return
    torch.testing.assert_close(insert(model, mechanism, "block", example=shape)(image(*shape)), expected)


def test_identity_start_trains_the_strength_at_once_and_all_new_parameters_from_the_second_step(name: str) -> None:
    mechanism = "multi_head_self" if name == "timm_vit" else "coordinate"
    model = insert(build(name).train(), mechanism, "block", example=SHAPE)
    optimizer = torch.optim.Adam(parameter_groups(model, lr=0.0, new_lr=0.003))
    new = {key: value for key, value in model.named_parameters() if is_inserted(key)}
    before = {key: value.clone() for key, value in new.items()}
    for step in range(2):
        optimizer.zero_grad()
        model(image()).square().sum().backward()
        assert all(value.grad is not None for value in model.parameters())
        learning = {key for key, value in new.items() if value.grad is not None and value.grad.any()}
        assert learning == (new.keys() if step else {key for key in new if key.endswith("raw_strength")})
        optimizer.step()
    assert not any(torch.equal(value, before[key]) for key, value in new.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_start_is_exact_in_every_precision(dtype: torch.dtype) -> None:
    model = build("sequential").to(dtype)
    expected = model(image().to(dtype))
    insert(model, "cbam", ["block", "pool"], example=image().to(dtype))
    assert torch.equal(model(image().to(dtype)), expected)


@pytest.mark.parametrize("mechanism", [key for key, kind in mechanisms.items() if getattr(kind, "zero_start", "")])
def test_the_strength_takes_over_from_a_gain_of_zero(mechanism: str) -> None:
    """Two zeros in a row would never learn: each waits for the other."""
    model = build("sequential")
    expected = model(image())
    insert(model, mechanism, "1", example=SHAPE)
    (placed,) = attention_of(model)
    assert torch.equal(model(image()), expected)
    inner = placed.attention[0]
    inner = getattr(inner, "refine", inner)
    assert all(inner.get_parameter(zero).all() for zero in inner.zero_start)
    strengthen(model, 0.5)
    assert not torch.allclose(model(image()), expected)
    insert(remove(model), mechanism, "1", start="paper", example=SHAPE)
    (placed,) = attention_of(model)
    inner = getattr(placed.attention[0], "refine", placed.attention[0])
    assert not any(inner.get_parameter(zero).any() for zero in inner.zero_start)
    assert placed.strength is None


def test_the_strength_moves_32_times_as_far_as_other_parameters_under_every_optimizer() -> None:
    plain = build("sequential")
    model = insert(copy.deepcopy(plain), "se", "1", example=SHAPE)
    (placed,) = attention_of(model)
    y = plain[:2](image()).detach()
    strength = torch.zeros(16, requires_grad=True)
    plain[2:](y + strength[:, None, None] * (placed.attention(y) - y)).square().sum().backward()
    model(image()).square().sum().backward()
    torch.testing.assert_close(placed.raw_strength.grad, strength.grad)  # the derivative by the strength itself
    for optimizer, step in ((torch.optim.SGD, strength.grad), (torch.optim.Adam, strength.grad.sign())):
        nn.init.zeros_(placed.raw_strength)
        optimizer([placed.raw_strength], lr=1e-3).step()
        torch.testing.assert_close(placed.strength, -32 * 1e-3 * step, rtol=1e-3, atol=1e-8)


def test_parts_of_a_model_take_their_attention_with_them() -> None:
    """By its children, by FX, and by the feature extractors of torchvision and timm."""
    model = insert(torchvision.models.resnet18(num_classes=5).eval(), "se", "block", start="paper", example=SHAPE)
    with torch.no_grad():
        expected = model.layer4(model.layer3(model.layer2(model.layer1(model.maxpool(
            model.relu(model.bn1(model.conv1(image())))
        )))))  # fmt: skip
    own = sum(value.numel() for placed in attention_of(model) for value in placed.parameters())
    assert own > 0
    part = nn.Sequential(*list(model.children())[:-2])
    torch.testing.assert_close(part(image()), expected)
    assert sum(value.numel() for key, value in part.named_parameters() if is_inserted(key)) == own
    getter = torchvision.models._utils.IntermediateLayerGetter(model, {"layer4": "features"})
    torch.testing.assert_close(getter(image())["features"], expected)
    assert sum(value.numel() for key, value in getter.named_parameters() if is_inserted(key)) == own
    remove(part)
    torch.testing.assert_close(
        part(image()), nn.Sequential(*list(build("torchvision_resnet18").children())[:-2])(image())
    )


def test_modules_that_pass_their_input_in_evaluation_alone_keep_their_side() -> None:
    """What is the identity in evaluation (stochastic depth, augmentation) may change its tensor in training."""

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x if self.training else x

    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU())
    model = nn.ModuleDict({"before": Twice(), "body": model, "after": Twice()})

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["after"](self.parts["body"](self.parts["before"](x)))

    whole = insert(Whole().eval(), {"input": "simam", "output": "simam"}, start="paper", example=SHAPE).train()
    simam = mechanisms["simam"]
    first, last = simam(3), simam(5)
    torch.testing.assert_close(whole(image()), last(2 * copy.deepcopy(model["body"])(2 * first(image()))))


def test_an_empty_container_is_no_host() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Sequential(), nn.ReLU()).eval()
    expected = model(image())
    with pytest.raises(UserError, match="goes through its children"):
        insert(model, "se", "1", example=SHAPE)
    assert torch.equal(model(image()), expected)


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_attention_can_be_switched_off(start: str) -> None:
    model = build("sequential")
    expected = model(image())
    insert(model, {"block": "se", "input": "eca"}, start=start, example=SHAPE)  # pyright: ignore[reportArgumentType]
    strengthen(model, 0.5)
    attended = model(image())
    with switched_off(model) as off:
        assert set(off) == set(attention_of(model))
        assert torch.equal(model(image()), expected)
        with ThreadPoolExecutor(1) as other:
            assert torch.equal(other.submit(model, image()).result(), attended)
    assert torch.equal(model(image()), attended)


def test_attention_called_as_a_layer_says_what_it_is() -> None:
    model = insert(build("timm_resnet18"), "se", "layer1.0", example=SHAPE)
    with pytest.raises(UserError, match=r"inserted at 'layer1\.0' was called as a layer"):
        nn.Sequential(*model.layer1[0].children())(image(2, 64, 8, 8))


def test_attention_that_nothing_reads_is_refused_or_left_out() -> None:
    """Between the last block and a head that reads the class token alone, where other tokens change nothing."""
    model = build("timm_vit")
    before = snapshot(model)
    with pytest.raises(UserError, match=r"'blocks\.2' cannot change an output"):
        insert(model, "se", "blocks.2", example=SHAPE)
    assert snapshot(model) == before
    with pytest.warns(UserWarning, match=r"'blocks\.2' cannot change an output.*left out"):
        insert(model, "se", "block", start="paper", example=SHAPE)
    model(image()).square().sum().backward()
    assert [placed.place for placed in attention_of(model)] == ["blocks.0", "blocks.1"]
    assert all(value.grad.any() for placed in attention_of(model) for value in placed.parameters())
    mean = timm.create_model("test_vit", img_size=64, num_classes=5, global_pool="avg")
    assert len(attention_of(insert(mean, "se", "block", example=SHAPE))) == len(mean.blocks)
    insert(remove(model), "multi_head_self", "blocks.2", example=SHAPE)  # it refines the class token too


def test_attention_goes_where_its_paper_puts_it() -> None:
    for mechanism, host in (("se", "bn2"), ("cbam", "bn2"), ("multi_head_self", ""), ("sk", "conv")):
        model = build("timm_resnet18")
        insert(model, mechanism, start="paper", example=SHAPE)
        assert all(host in placed.place for placed in attention_of(model)), mechanism
    flat = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 24, 3), nn.ReLU()).eval()
    assert {placed.place for placed in attention_of(insert(flat, "se", example=SHAPE))} <= {"1", "2", "4"}  # stages
    with pytest.raises(UserError, match=r"different places by default.*say where with at="):
        insert(build("timm_resnet18"), ["se", "attention_gate"], example=SHAPE)
    with pytest.raises(UserError, match="no place 'skip'"):
        insert(build("timm_resnet18"), "attention_gate", example=SHAPE)


@pytest.mark.parametrize(
    ("attention", "arguments", "reductions"),
    [
        ("se", {"reduction": 4}, {4}),
        (("se", {"reduction": 8}), {}, {8}),
        (["se", ("cbam", {"reduction": 8})], {"reduction": 4}, {4, 8}),
        (partial(SqueezeExcitation, reduction=2), {"bias": False}, {2}),
    ],
)
def test_mechanisms_take_arguments(attention: object, arguments: dict[str, object], reductions: set[int]) -> None:
    model = insert(build("timm_resnet18"), attention, "stage2", example=SHAPE, **arguments)  # pyright: ignore
    (placed,) = attention_of(model)
    assert {128 // one.hidden_channels for one in placed.attention} == reductions


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("attention", "arguments", "message"),
    [
        ("cbam", {"reducton": 4}, "cbam.*takes no argument 'reducton': did you mean 'reduction'"),
        (("cbam", {"heads": 4}), {}, "cbam.*takes no argument 'heads'"),
        (["se", "eca"], {"reduction": 4}, "eca.*takes no argument 'reduction'"),
        (lambda channels: SqueezeExcitation(channels), {"reduction": 4}, "builds its module itself"),
        (("cbam", 4), {}, "4 is no mechanism"),
    ],
)
def test_wrong_arguments_are_named(attention: object, arguments: dict[str, object], message: str) -> None:
    model = build("timm_resnet18")
    before = snapshot(model)
    with pytest.raises(UserError, match=message):
        insert(model, attention, "stage2", example=SHAPE, **arguments)  # pyright: ignore
    assert snapshot(model) == before


def test_remove_restores_the_model_exactly(name: str) -> None:
    model = build(name)
    model.requires_grad_(False)
    model.train()
    next(iter(model.children())).eval()
    before = snapshot(model)
    insert(model, mechanism_for(name), ["block", "pool"], example=SHAPE)
    assert len(snapshot(model)["modules"]) > len(before["modules"])  # pyright: ignore[reportArgumentType]
    assert remove(model) is model
    assert snapshot(model) == before
    with pytest.raises(UserError, match="no inserted attention"):
        remove(model)


def test_remove_leaves_hooks_of_others() -> None:
    model = build("timm_resnet18")
    heard: list[str] = []
    model.get_submodule("layer1.0").register_forward_hook(lambda *_: heard.append("mine"))
    remove(insert(model, "se", example=SHAPE))
    heard.clear()
    model(image())
    assert heard == ["mine"]


def test_names_and_values_of_the_model_stay(name: str) -> None:
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    insert(model, mechanism_for(name), example=SHAPE)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(is_inserted(key) for key in after.keys() - before.keys())


def test_a_plain_checkpoint_loads_strictly() -> None:
    plain = build("timm_resnet18")
    attended = insert(build("timm_resnet18"), "se", "block", example=SHAPE)
    strengthen(attended, 1.0)
    kept = {key: value.clone() for key, value in attended.state_dict().items() if is_inserted(key)}
    attended.load_state_dict(plain.state_dict(), strict=True)
    assert all(torch.equal(attended.state_dict()[key], value) for key, value in kept.items())
    attended.load_state_dict(plain.state_dict(), strict=True, assign=True)
    own = attended.state_dict()
    attended.load_state_dict(own, strict=True)
    missing = plain.load_state_dict(own, strict=False)
    assert missing.missing_keys == []
    del own["layer1.0.regard.output.raw_strength"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layer1\.0\.regard\.output\.raw_strength"):
        attended.load_state_dict(own, strict=True)
    wrapped = nn.Sequential(attended)
    wrapped.load_state_dict({f"0.{key}": value for key, value in plain.state_dict().items()}, strict=True)


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deep", "pickle"]
)
@pytest.mark.parametrize("name", ["timm_resnet18", "sequential"], indirect=True)
def test_a_copy_is_independent(name: str, copier: Callable[[nn.Module], nn.Module]) -> None:
    model = insert(build(name), "se", ["block", "pool"], start="paper", example=SHAPE)
    expected = model(image())
    twin = copier(model)
    assert torch.equal(twin(image()), expected)
    for placed in attention_of(twin):
        for parameter in placed.parameters():
            nn.init.constant_(parameter, 0.3)
    assert torch.equal(model(image()), expected)
    assert not torch.equal(twin(image()), expected)
    plain = remove(copier(model))
    assert not torch.equal(plain(image()), expected)
    assert torch.equal(model(image()), expected)
    assert not any(is_inserted(path) for path, _ in plain.named_modules())


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_compiles_into_one_graph(start: str) -> None:
    model = insert(build("sequential"), "se", ["block", "pool"], start=start, example=SHAPE)  # pyright: ignore[reportArgumentType]
    strengthen(model, 0.7)
    expected = model(image())
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image()), expected)
    with pytest.raises(UserError, match="insert first"):
        insert(compiled, "se", "stem", example=SHAPE)


def test_autocast_half_precision_and_memory_format() -> None:
    model = insert(build("torchvision_resnet18"), ["se", "multi_head_self"], example=SHAPE)
    strengthen(model, 0.5)
    seen: list[Tensor] = []
    model.get_submodule("layer2").register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(image()).isfinite().all()
    model.to(memory_format=torch.channels_last)
    model(image().to(memory_format=torch.channels_last))
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)
    half = insert(build("sequential").to(torch.bfloat16), "se", example=SHAPE)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_exports() -> None:
    model = insert(build("sequential"), "se", ["block", "pool"], example=SHAPE)
    expected = model(image())
    exported = torch.export.export(model, (image(),))
    torch.testing.assert_close(exported.module()(image()), expected)


def test_several_mechanisms_are_applied_in_order() -> None:
    model = insert(
        build("sequential"), [SqueezeExcitation, partial(SqueezeExcitation, reduction=4), "se"], "1", example=SHAPE
    )
    (placed,) = attention_of(model)
    assert isinstance(placed, Placed)
    assert [path for path, _ in placed.attention.named_children()] == ["se", "se_2", "se_3"]
    assert placed.attention.get_submodule("se_2.squeeze").weight.shape == (4, 16)
    assert "1.regard.output.attention.se_2.squeeze.weight" in model.state_dict()


@pytest.mark.parametrize(
    ("at", "count"),
    [
        ("stage3", 1),
        ("layer3.*.conv2", 2),
        ("bn?", 17),
        ("layer4.*", 2),
        ("layer4.**", 2 + 2 * 8 + 3),
        (["block", "layer1.0", "layer1.1"], 8),
        (lambda place: place.role == "block" and place.channels >= 256, 4),
    ],
)
def test_ways_to_say_where(at: object, count: int) -> None:
    model = insert(build("timm_resnet18"), "se", at, example=SHAPE)  # pyright: ignore[reportArgumentType]
    assert len(attention_of(model)) == count


def test_tokens_and_maps_meet_through_the_adapter() -> None:
    model = insert(build("timm_resnet18"), "multi_head_self", "stage4", example=SHAPE)
    assert isinstance(attention_of(model)[0].attention.multi_head_self, OnMap)
    swin = torchvision.models.swin_t(num_classes=5).eval()
    expected = swin(image())
    insert(swin, ["se", "multi_head_self"], "block", example=SHAPE)
    torch.testing.assert_close(swin(image()), expected)
    vit = insert(build("timm_vit"), "cbam", "blocks.0", example=SHAPE)
    adapter = attention_of(vit)[0].attention.cbam
    assert isinstance(adapter, OnTokens)
    assert (adapter.extra_tokens, adapter.grid) == (1, (4, 4))


def test_a_shared_module_shares_its_attention() -> None:
    shared = Residual(3)
    model = nn.Sequential(shared, shared, nn.Flatten()).eval()
    (block,) = places(model, SHAPE).of("block")
    assert (block.path, block.calls) == ("0", 2)
    expected = model(image())
    torch.testing.assert_close(insert(model, "se", example=SHAPE)(image()), expected)
    assert len(attention_of(model)) == 1
    assert torch.equal(remove(model)(image()), expected)


def test_later_insertions_at_other_places() -> None:
    model = insert(build("timm_resnet18"), "se", "branch", example=SHAPE)
    insert(model, "se", "block", example=SHAPE)
    assert len(attention_of(model)) == 16
    before = snapshot(model)
    with pytest.raises(UserError, match=r"'layer1\.0' has attention already"):
        insert(model, "se", ["stage", "layer1.0"], example=SHAPE)
    assert snapshot(model) == before


class Late(SqueezeExcitation):
    """Fails when it is built for the last stage, after those before it were built."""

    def __init__(self, channels: int) -> None:
        if channels == 512:
            raise RuntimeError("not at 512")
        super().__init__(channels)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("attention", "at", "error", "message"),
    [
        ("see", "block", UserError, "did you mean 'se'"),
        ("additive", "block", UserError, r"'additive' cannot be inserted: it is a Read.*those are .*se"),
        (nn.ReLU, "block", UserError, "'ReLU' cannot be inserted: it is no mechanism of regard"),
        (lambda channels: nn.Identity(), "block", UserError, "'Identity' cannot be inserted"),
        (SqueezeExcitation(64), "block", UserError, "built already"),
        (lambda channels: SqueezeExcitation(7), "block", UserError, "built for 7 channels"),
        (Late, "block", RuntimeError, "not at 512"),
        ([], "block", UserError, "no attention was given"),
        ("se", [], UserError, "no place was given"),
        ("se", "layer5", UserError, r"no place 'layer5'.*stem \(1\), stage \(4\).*nearest paths are layer"),
        ("se", "layer1.0.bn9", UserError, r"nearest paths are layer1\.0\.bn"),
        ("se", "stage9", UserError, "no place 'stage9'"),
        ("se", "fc", UserError, r"'fc': it gives a tensor of shape \(2, 5\), neither a map nor tokens"),
        ("se", lambda place: False, UserError, "no place passes the test"),
        ("se", 3, UserError, "3 is no place"),
    ],
)
def test_a_failure_leaves_the_model_as_it_was(attention: object, at: object, error: type, message: str) -> None:
    model = build("timm_resnet18")
    before = snapshot(model)
    with pytest.raises(error, match=message):
        insert(model, attention, at, example=SHAPE)  # pyright: ignore[reportArgumentType]
    assert snapshot(model) == before


def test_a_model_that_fails_on_its_example_keeps_no_hooks() -> None:
    model = build("timm_resnet18").train()
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        places(model, (1, 4, 32, 32))
    assert snapshot(model) == before


def test_channels_that_cannot_be_told_apart_are_asked_for() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bchw,cd->bdhw", x, torch.eye(3))

    model = nn.Sequential(Opaque(), nn.ReLU())
    with pytest.raises(UserError, match=r"shape \(2, 3, 64, 64\) whose channels could not be told apart.*layout="):
        insert(model, "se", "0", example=SHAPE)
    expected = model(image())
    torch.testing.assert_close(insert(model, "se", "0", layout="BCHW", example=SHAPE)(image()), expected)


def test_parameter_groups_part_the_model() -> None:
    model = insert(build("timm_resnet18"), "se", example=SHAPE)
    backbone, new = parameter_groups(model, lr=1e-4, new_lr=1e-2)
    assert (backbone["lr"], new["lr"]) == (1e-4, 1e-2)
    assert {id(value) for value in new["params"]} == {
        id(value) for name, value in model.named_parameters() if is_inserted(name)
    }
    assert len(backbone["params"]) + len(new["params"]) == len(list(model.parameters()))
    (only,) = parameter_groups(model, lr=None, new_lr=1e-2)
    assert only["params"] == new["params"]
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        name for name, _ in model.named_parameters() if is_inserted(name)
    }
    with pytest.raises(UserError, match="no inserted attention"):
        parameter_groups(remove(model), 1.0, 1.0)


class Iterating(nn.Sequential):
    """Goes through its children in its own forward, so that none can be added, as the dense blocks of torchvision."""

    def forward(self, input: Tensor) -> Tensor:
        for child in self._modules.values():
            input = torch.cat([input, child(input)], 1)
        return input


def test_what_a_norm_asks_of_a_tensor_is_no_use_of_it() -> None:
    """`nn.BatchNorm2d` asks for the number of axes: the tensor still has one taker, in which attention can live."""
    model = nn.Sequential(Iterating(nn.Conv2d(3, 5, 1)), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())).eval()
    insert(model, "eca", "0", example=torch.randn(2, 3, 11, 7))
    assert list(inserted(model)) == ["1.0.regard.input"]
