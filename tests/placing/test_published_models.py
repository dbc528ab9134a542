"""One `insert` into a plain network makes the published one: every parameter of it, and what it computes.

Totals are those of ImageNet-1k models as their authors, timm or pytorchcv count them. Networks are built on the meta
device, since a count needs no values. The last section compares timm's own attended networks, with random weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from inserting import attention_of
from timm.models.byobnet import ByobNet, model_cfgs
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from regard import insert, remove
from regard.attention.branch import SelectiveKernel, SplitAttention
from regard.attention.channel import AttentionRefinement, ChannelSelfAttention, SqueezeExcitation
from regard.attention.channel_spatial import (
    CBAM,
    BottleneckAttention,
    ConcurrentSqueezeExcitation,
    CoordinateAttention,
    ResidualAttention,
    TripletAttention,
)
from regard.attention.context import GlobalContext, NonLocal, PositionAttention
from regard.placing import Placed
from regard.placing.building import Maker

Network = Callable[[], nn.Module]

# Shape checks of thousands of calls would take most of the time; what is inserted is checked in its own tests.
pytestmark = [pytest.mark.usefixtures("unchecked_shapes"), pytest.mark.slow]

SHAPE = (1, 3, 64, 64)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def built(network: str | Network) -> nn.Module:
    """A torchvision network by its name, or any other by its function, without values."""
    with torch.device("meta"):
        return torchvision.models.get_model(network) if isinstance(network, str) else network()


@cache
def total_of(network: str | Network, attention: Maker, at: str | tuple[str, ...] = "branch") -> int:
    """The parameters of a network after one insertion; some tests look at the same from two sides."""
    where = at if isinstance(at, str) else list(at)
    return parameters(insert(built(network), attention, where, start="paper", example=SHAPE))


# Totals of residual networks


SE_WITHOUT_BIAS = partial(SqueezeExcitation, bias=False)
AUTHORS_BAM = partial(BottleneckAttention, variant="code")
BETWEEN_STAGES = ("stage1", "stage2", "stage3")

PLAIN = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,  # 66,821,848 with squeeze-and-excitation, less what that adds
}
RESNETS: dict[str, tuple[Maker, str | tuple[str, ...], tuple[int, ...]]] = {
    "SE": ("se", "branch", (11_778_592, 21_958_868, 28_088_024, 49_326_872, 66_821_848)),
    "CBAM": (CBAM, "branch", (11_779_392, 21_960_468, 28_089_624, 49_330_172, 66_826_848)),
    "BAM": (AUTHORS_BAM, BETWEEN_STAGES, (11_712_503, 21_820_663, 25_915_099, 44_907_227, 60_550_875)),
}


# `Any`: pytest does not name the type.
def cases(networks: Sequence[str]) -> list[Any]:
    """A parameter each; the deep networks are not for the everyday loop."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in ("resnet101", "resnet152"))) for name in networks]


@pytest.mark.parametrize("module", RESNETS)
@pytest.mark.parametrize("network", cases(list(PLAIN)))
def test_residual_networks_of_every_depth(network: str, module: str) -> None:
    attention, at, totals = RESNETS[module]
    total = totals[list(PLAIN).index(network)]
    assert parameters(built(network)) == PLAIN[network]
    assert total_of(network, attention, at) == total


RESNET_50: dict[str, tuple[Maker, str, int]] = {
    "SE without biases": (SE_WITHOUT_BIAS, "branch", 28_071_976),
    "CBAM of timm": (partial(CBAM, bias=False), "branch", 28_073_576),
    "ECA": ("eca", "branch", 25_557_118),
    "gated channel": ("gated_channel", "branch", 25_602_344),
    "SRM": ("style_recalibration", "branch", 25_617_448),
    "SGE": ("spatial_group", "branch", 25_559_080),
    "shuffle": ("shuffle", "branch", 25_557_740),
    "triplet": ("triplet", "branch", 25_561_832),
    "triplet, 3x3": (partial(TripletAttention, kernel_size=3), "branch", 25_557_992),
    "SimAM": ("simam", "branch", 25_557_032),
    "scSE, r = 16": (partial(ConcurrentSqueezeExcitation, reduction=16), "branch", 28_103_144),
    "GC": ("gc", "branch", 28_105_032),
    "GC in the last three stages": ("gc", "layer[234].*.bn3", 28_078_773),
    "coordinate": ("coordinate", "branch", 27_474_864),
    "FcaNet": ("frequency_channel", "branch", 28_071_976),
}


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "at", "total"), RESNET_50.values(), ids=RESNET_50)
def test_resnet_50_with_one_module_in_every_block(attention: Maker, at: str, total: int) -> None:
    assert total_of("resnet50", attention, at) == total


@pytest.mark.parametrize("network", cases(["resnet18", "resnet34", "resnet50", "resnet101"]))
def test_efficient_channel_attention_adds_next_to_nothing(network: str) -> None:
    added = {"resnet18": 36, "resnet34": 74, "resnet50": 86, "resnet101": 171}
    assert total_of(network, "eca") == PLAIN[network] + added[network]


@pytest.mark.parametrize(
    ("network", "total"),
    [
        (partial(timm.create_model, "resnext50_32x4d"), 27_559_896),
        pytest.param(partial(timm.create_model, "resnext101_32x4d"), 48_955_416, marks=pytest.mark.slow),
        # An empty `block_args` leaves out timm's own squeeze-and-excitation.
        pytest.param(partial(timm.create_model, "senet154", block_args={}), 115_088_984, marks=pytest.mark.slow),
    ],
    ids=["SE-ResNeXt-50", "SE-ResNeXt-101", "SENet-154"],
)
def test_squeeze_and_excitation_of_grouped_networks(network: Network, total: int) -> None:
    assert total_of(network, "se") == total


# Conventions that silently change a number


def test_the_biases_of_squeeze_and_excitation_are_16048_in_resnet_50() -> None:
    assert total_of("resnet50", "se") - total_of("resnet50", SE_WITHOUT_BIAS) == 16_048


@pytest.mark.parametrize(
    ("attention", "printed"),
    [("simam", 24.37), (SE_WITHOUT_BIAS, 26.77), ("eca", 24.37)],
    ids=["plain", "SE", "ECA"],
)
def test_the_authors_of_efficient_channel_attention_count_in_units_of_two_to_the_twenty(
    attention: Maker, printed: float
) -> None:
    """The first adds nothing: it is ResNet-50."""
    assert round(total_of("resnet50", attention) / 2**20, 2) == printed


def timm_s(channels: int) -> SqueezeExcitation:
    """timm's bottleneck is a multiple of eight, which fewer than 128 channels divided by 16 are not."""
    return SqueezeExcitation(channels, reduction=min(16, channels // 8))


@pytest.mark.parametrize("network", cases(["resnet18", "resnet34", "resnet50", "resnet101"]))
def test_the_multiple_of_eight_of_timm_s_bottleneck_matters_in_the_narrow_networks_alone(network: str) -> None:
    theirs = parameters(built(partial(timm.create_model, f"se{network}")))
    assert total_of(network, timm_s) == theirs
    assert (total_of(network, "se") != theirs) == (network in ("resnet18", "resnet34"))


# Other places, other networks


# The authors' inverted residual attends to what its depthwise convolution gives; one that does not expand has none.
AFTER_DEPTHWISE = "features.*.conv.1.2"


@pytest.mark.parametrize(
    ("attention", "total"),
    [
        (CoordinateAttention, 3_950_648),
        (partial(SqueezeExcitation, reduction=24), 3_888_208),
    ],
    ids=["coordinate", "SE, r = 24"],
)
def test_mobilenet_v2_has_the_sizes_that_the_authors_of_coordinate_attention_print(
    attention: Maker, total: int
) -> None:
    """They print 3.95 and 3.89 million; the rest of the digits is the closed forms' at the published widths."""
    model = insert(built("mobilenet_v2"), attention, AFTER_DEPTHWISE, start="paper", example=SHAPE)
    assert sum(isinstance(module, Placed) for module in model.modules()) == 16
    assert parameters(model) == total


# Where mmaction2's I3D has kernels that see three frames: every second block, and all of the first stage.
THREE_FRAMES = ("layer1.*.conv1", "layer[23].[024].conv1", "layer4.1.conv1")


def i3d() -> nn.Module:
    """ResNet-50 inflated into time, for the 400 classes of Kinetics, as mmaction2's I3D is configured."""
    model = torchvision.models.resnet50(num_classes=400)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            frames = 5 if name == "conv1" else 3 if any(fnmatchcase(name, glob) for glob in THREE_FRAMES) else 1
            inflated = nn.Conv3d(
                module.in_channels,
                module.out_channels,
                (frames, module.kernel_size[0], module.kernel_size[1]),
                stride=(1, module.stride[0], module.stride[1]),
                padding=(frames // 2, module.kernel_size[0] // 2, module.kernel_size[1] // 2),
                bias=False,
            )
        elif isinstance(module, nn.BatchNorm2d):
            inflated = nn.BatchNorm3d(module.num_features)
        elif isinstance(module, nn.MaxPool2d):
            inflated = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            inflated = nn.AdaptiveAvgPool3d(1)
        else:
            continue
        model.set_submodule(name, inflated)
    return model


FIVE = ("layer2.[13]", "layer3.[135]")
TEN = ("layer2.*", "layer3.*")


@pytest.mark.parametrize(
    ("attention", "at", "added", "printed"),
    [
        (NonLocal, FIVE, 7_354_368, 35.4),
        (partial(NonLocal, mode="dot_product"), FIVE, 7_354_368, 35.4),
        (partial(NonLocal, mode="gaussian"), FIVE, 3_680_256, 31.7),
        (NonLocal, TEN, 2 * 7_354_368, None),
    ],
    ids=["embedded gaussian", "dot product", "gaussian", "ten blocks"],
)
def test_non_local_blocks_in_a_network_of_video(
    attention: Maker, at: str | tuple[str, ...], added: int, printed: float | None
) -> None:
    """The paper's five blocks are behind every second block of the two middle stages, its ten behind each."""
    model = built(i3d)
    plain = parameters(model)
    assert round(plain / 1e6, 1) == 28.0
    insert(model, attention, at, start="paper", example=(1, 3, 2, 32, 32))
    assert parameters(model) - plain == added
    assert printed is None or round(parameters(model) / 1e6, 1) == printed


# Mechanisms that stand in place of a convolution or around blocks, which `insert` does not express


# `Any`: what timm takes.
def resnet(depths: tuple[int, ...], **arguments: Any) -> nn.Module:
    return ResNet(Bottleneck, depths, **arguments)  # pyright: ignore[reportArgumentType] - timm wants the class


def with_convolutions(model: nn.Module, mechanism: type[nn.Module]) -> nn.Module:
    """`mechanism` for the middle convolution of every block and for the normalisation that follows it."""
    blocks = {path: block for path, block in model.named_modules() if isinstance(block, Bottleneck)}
    for path, block in blocks.items():
        old = block.conv2
        model.set_submodule(f"{path}.conv2", mechanism(old.in_channels, old.out_channels, groups=old.groups))
        model.set_submodule(f"{path}.bn2", nn.Identity())
    return model


@pytest.mark.parametrize(
    ("mechanism", "network", "total"),
    [
        pytest.param(
            mechanism,
            partial(resnet, depths, **arguments),
            total,
            marks=[pytest.mark.slow] * deep,
            id=f"{mechanism.__name__}-{3 * sum(depths) + 2}",
        )
        for mechanism, depths, arguments, total, deep in [
            (SelectiveKernel, (3, 4, 6, 3), {"cardinality": 32, "base_width": 4}, 27_479_784, False),
            (SelectiveKernel, (3, 4, 23, 3), {"cardinality": 32, "base_width": 4}, 48_736_040, False),
            (SelectiveKernel, (3, 8, 36, 3), {"cardinality": 32, "base_width": 4}, 66_295_656, True),
            (SplitAttention, (1, 1, 1, 1), {"stem_type": "deep", "stem_width": 32}, 10_611_688, False),
            (SplitAttention, (2, 2, 2, 2), {"stem_type": "deep", "stem_width": 32}, 17_069_448, False),
            (SplitAttention, (3, 4, 6, 3), {"stem_type": "deep", "stem_width": 32}, 27_483_240, False),
            (SplitAttention, (3, 4, 23, 3), {"stem_type": "deep", "stem_width": 64}, 48_275_016, False),
            (SplitAttention, (3, 24, 36, 3), {"stem_type": "deep", "stem_width": 64}, 70_201_544, True),
            (SplitAttention, (3, 30, 48, 8), {"stem_type": "deep", "stem_width": 64}, 110_929_480, True),
        ]
    ],
)
def test_networks_of_selective_kernels_and_of_split_attention(
    mechanism: type[nn.Module], network: Network, total: int
) -> None:
    with torch.device("meta"):
        assert parameters(with_convolutions(network(), mechanism)) == total


def residual_unit(inputs: int, outputs: int) -> int:
    """A unit of the residual attention network: normalisation first, a projection where the width changes."""
    d = outputs // 4
    return 2 * inputs + inputs * d + 2 * d + 9 * d * d + 2 * d + d * outputs + inputs * outputs * (inputs != outputs)


@pytest.mark.parametrize(
    ("modules", "scales", "total"),
    [
        ((1, 1, 1), (1, 2, 1), 31_810_728),
        ((1, 2, 3), (1, 2, 1), 52_466_344),
        ((2, 3, 4), (1, 2, 1), 65_294_504),
        ((3, 4, 5), (1, 2, 1), 78_122_664),
        ((4, 5, 6), (1, 2, 1), 90_950_824),
        ((5, 6, 7), (1, 2, 1), 103_778_984),
        ((5, 6, 7), (2, 4, 3), 182_285_224),
    ],
    ids=[f"Attention-{depth}" for depth in (56, 92, 128, 164, 200, 236, 452)],
)
def test_residual_attention_networks(modules: tuple[int, int, int], scales: tuple[int, int, int], total: int) -> None:
    """`scales` are the paper's p, t and r: units before the branches, in the trunk, and between two changes of size.

    The network that was counted has one unit behind the branches and one in each skip of the mask, whatever p and r
    are; the mechanism has r in a skip. Both are one but in Attention-452.
    """
    before, trunk, r = scales
    counted = 64 * 3 * 49 + 2 * 64 + 2 * 2048 + 2048 * 1000 + 1000  # stem, last normalisation and classifier
    counted += sum(residual_unit(*widths) for widths in ((64, 256), (256, 512), (512, 1024), (1024, 2048)))
    counted += 2 * residual_unit(2048, 2048)
    for channels, levels, number in zip((256, 512, 1024), (3, 2, 1), modules, strict=True):
        with torch.device("meta"):
            mask = parameters(ResidualAttention(channels, levels, units=r))
        units = before + trunk + 1 - (r - 1) * (levels - 1)
        counted += number * (mask + units * residual_unit(channels, channels))
    assert counted == total


def layer(inputs: int, outputs: int, size: int) -> int:
    """A convolution and its normalisation."""
    return size**2 * inputs * outputs + 2 * outputs


@pytest.mark.parametrize(
    ("trunk", "total"), [("resnet50s", 47_586_427), pytest.param("resnet101s", 66_578_555, marks=pytest.mark.slow)]
)
def test_dual_attention_networks_for_the_19_classes_of_cityscapes(trunk: str, total: int) -> None:
    """One branch attends to positions, one to channels; a classifier judges each, and one their sum."""
    with torch.device("meta"):
        counted = parameters(timm.create_model(trunk, num_classes=0))
        counted += parameters(PositionAttention(512)) + parameters(ChannelSelfAttention(512))
    counted += 2 * (layer(2048, 512, 3) + layer(512, 512, 3)) + 3 * (512 * 19 + 19)
    assert counted == total


def test_the_bilateral_network_for_the_19_parts_of_a_face() -> None:
    """Two stages of ResNet-18 are refined on their way up, and fused with an earlier one; a head judges each.

    That fusion gives the channels of both maps together, where the mechanism `feature_fusion` gives those of one.
    """
    with torch.device("meta"):
        counted = parameters(timm.create_model("resnet18", num_classes=0))
        counted += 2 * parameters(AttentionRefinement(128))
    counted += layer(2 * 128, 256, 1) + 2 * 256 * 64  # the fusion
    counted += layer(256, 128, 3) + layer(512, 128, 3) + layer(512, 128, 1) + 2 * layer(128, 128, 3)
    counted += layer(256, 256, 3) + 256 * 19 + 2 * (layer(128, 64, 3) + 64 * 19)
    assert counted == 13_300_416


# What timm's own attended networks compute


# How timm names the parts of its modules, and how this library does. Its linear layers are 1x1 convolutions.
PARTS = {
    "se": {"fc1": "squeeze", "fc2": "excite"},
    "eca": {"conv": "mix"},
    "gc": {"conv_attn": "score", "mlp_add.fc1": "squeeze", "mlp_add.norm": "norm", "mlp_add.fc2": "excite"},
}
# In its residual networks attention is the block's `se`, before the addition; in the others `attn`, after the 3x3.
BASIC, BOTTLENECK, MIDDLE = ("se", "bn2"), ("se", "bn3"), ("attn", "conv2_kxk")
TIMM_S_CONTEXT = partial(GlobalContext, reduction=8)


def plain_gcresnet50t() -> nn.Module:
    """timm lists no host of `gcresnet50t`: its `resnet50t` pools in its stem, and names its parts otherwise."""
    return ByobNet(replace(model_cfgs["gcresnet50t"], attn_layer=None))


TIMM: dict[str, tuple[str | Network, Maker, tuple[str, str], float]] = {
    "seresnet18": ("resnet18", timm_s, BASIC, 11.78),
    "seresnet34": ("resnet34", timm_s, BASIC, 21.96),
    "seresnet50": ("resnet50", "se", BOTTLENECK, 28.09),
    "ecaresnet50d": ("resnet50d", "eca", BOTTLENECK, 25.58),
    "ecaresnet50t": ("resnet50t", "eca", BOTTLENECK, 25.57),
    "seresnext26ts": ("resnext26ts", timm_s, MIDDLE, 10.39),
    "eca_resnext26ts": ("resnext26ts", "eca", MIDDLE, 10.30),
    "gcresnext26ts": ("resnext26ts", TIMM_S_CONTEXT, MIDDLE, 10.48),
    "seresnet33ts": ("resnet33ts", timm_s, MIDDLE, 19.78),
    "eca_resnet33ts": ("resnet33ts", "eca", MIDDLE, 19.68),
    "gcresnet33ts": ("resnet33ts", TIMM_S_CONTEXT, MIDDLE, 19.88),
    "gcresnet50t": (plain_gcresnet50t, TIMM_S_CONTEXT, MIDDLE, 25.90),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_s_attended_network_is_its_plain_one_after_one_insertion(name: str) -> None:
    host, attention, (part, path), millions = TIMM[name]
    theirs = randomize(built(partial(timm.create_model, name)).to_empty(device="cpu")).eval()
    ours = built(partial(timm.create_model, host) if isinstance(host, str) else host).eval()
    insert(ours, attention, "branch" if part == "se" else f"stages.*.*.{path}", start="paper", example=SHAPE)
    assert round(parameters(ours) / 1e6, 2) == millions

    ours.load_state_dict(translated(theirs.state_dict(), part, path, ours), assign=True)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
        assert (remove(ours)(x) - expected).std() > 0.1 * expected.std()  # without attention it is not so


def translated(state: dict[str, Tensor], part: str, path: str, model: nn.Module) -> dict[str, Tensor]:
    """The values of timm's network by the names that they have in ours."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        block, found, rest = key.partition(f".{part}.")
        if found:
            layer, _, kind = rest.rpartition(".")
            name, parts = next((name, parts) for name, parts in PARTS.items() if layer in parts)
            key = f"{block}.{path}.regard.output.attention.{name}.{parts[layer]}.{kind}"
        renamed[key] = value.reshape(shapes[key])
    return renamed


def randomize(model: nn.Module) -> nn.Module:
    """Random weights that keep the size of what they are applied to, and random statistics."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


SELECTIVE = {
    "conv1.conv": "conv1",
    "conv1.bn": "bn1",
    "conv3.conv": "conv3",
    "conv3.bn": "bn3",
    "conv2.paths.0.conv": "convolutions.0.0",
    "conv2.paths.0.bn": "convolutions.0.1",
    "conv2.paths.1.conv": "convolutions.1.0",
    "conv2.paths.1.bn": "convolutions.1.1",
    "conv2.attn.fc_reduce": "squeeze.0",
    "conv2.attn.bn": "squeeze.1",
    "conv2.attn.fc_select": "select",
}


@pytest.mark.slow
def test_timm_s_selective_kernel_network_is_its_plain_one_with_another_convolution() -> None:
    """Of timm's, this one has the paper's kernels. They end in norm and ReLU: the host's norm becomes the identity."""
    theirs = randomize(timm.create_model("skresnext50_32x4d")).eval()
    ours = timm.create_model("resnext50_32x4d").eval()
    own = {key: torch.zeros_like(value) for key, value in ours.state_dict().items() if ".bn2." in key}
    own |= {key: torch.ones_like(value) for key, value in own.items() if key.endswith("running_var")}
    own |= {key: torch.full_like(value, (1 + 1e-5) ** 0.5) for key, value in own.items() if key.endswith("weight")}
    insert(ours, "sk", "layer?.*.conv2", start="paper", example=SHAPE)
    assert all(placed.attention[0].convolutions[0][0].groups == 32 for placed in attention_of(ours))

    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    state = own | {key: value for key, value in ours.state_dict().items() if key.endswith(".conv2.weight")}
    for key, value in theirs.state_dict().items():
        block, number, rest = key.partition(".")[0], *key.partition(".")[2].partition(".")[::2]
        layer, _, kind = rest.rpartition(".")
        if layer.startswith("conv2."):
            key = f"{block}.{number}.conv2.regard.output.attention.sk.{SELECTIVE[layer]}.{kind}"
        elif layer in SELECTIVE:
            key = f"{block}.{number}.{SELECTIVE[layer]}.{kind}"
        state[key] = value.reshape(shapes[key])
    ours.load_state_dict(state)
    x = torch.randn(SHAPE)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
        assert (remove(ours)(x) - expected).std() > 0.1 * expected.std()
