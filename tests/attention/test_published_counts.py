"""How many parameters each mechanism has at the widths of ResNet, as integers that were written down elsewhere.

One table: the module as it is built, the closed form that its class declares, and the number. The numbers come from
whole models whose totals were published, and from closed forms read in the papers and the authors' code.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from regard.attention import Attention
from regard.attention.channel import (
    EffectiveSqueezeExcitation,
    EfficientChannelAttention,
    GatedChannelTransformation,
    LinearContextTransform,
    SqueezeExcitation,
    StyleRecalibration,
)
from regard.attention.channel_spatial import (
    CBAM,
    BottleneckAttention,
    ConcurrentSqueezeExcitation,
    CoordinateAttention,
    EfficientMultiScaleAttention,
    ShuffleAttention,
    TripletAttention,
)
from regard.attention.context import (
    CrissCrossAttention,
    DoubleAttention,
    ExternalAttention,
    GlobalContext,
    MultiHeadSelfAttention,
    NonLocal,
    PositionAttention,
)
from regard.attention.spatial import LargeKernelAttention, SpatialGroupEnhance

Build = Callable[[int], Attention]

WIDTHS = (64, 256, 512, 1024, 2048)


def timm_s(channels: int) -> SqueezeExcitation:
    """timm's bottleneck is a multiple of eight."""
    return SqueezeExcitation(channels, reduction=min(16, channels // 8))


# name: how it is built, what that adds to the closed form, which the class declares for its defaults, and the counts.
TABLE: dict[str, tuple[Build, str, tuple[int, ...]]] = {
    "SE": (SqueezeExcitation, "", (580, 8_464, 33_312, 132_160, 526_464)),
    "SE without biases": (
        partial(SqueezeExcitation, bias=False),
        "- d - C",
        (512, 8_192, 32_768, 131_072, 524_288),
    ),
    "SE of timm": (timm_s, "", (1_096, 8_464, 33_312, 132_160, 526_464)),
    "eSE": (EffectiveSqueezeExcitation, "", (4_160, 65_792, 262_656, 1_049_600, 4_196_352)),
    "ECA": (EfficientChannelAttention, "", (3, 5, 5, 5, 7)),
    "gated channel": (GatedChannelTransformation, "", (192, 768, 1_536, 3_072, 6_144)),
    "linear context": (LinearContextTransform, "", (128, 512, 1_024, 2_048, 4_096)),
    "SRM": (StyleRecalibration, "", (256, 1_024, 2_048, 4_096, 8_192)),
    "SGE, 64 groups": (SpatialGroupEnhance, "", (128, 128, 128, 128, 128)),
    # Three numbers for every channel of a group give 3 at 64 channels; but then a group is one channel and has no half,
    # and 32 groups are taken.
    "shuffle, 64 groups": (ShuffleAttention, "", (6, 12, 24, 48, 96)),
    "triplet": (TripletAttention, "", (300, 300, 300, 300, 300)),
    "triplet, 3x3": (partial(TripletAttention, kernel_size=3), "", (60, 60, 60, 60, 60)),
    "CBAM of its authors": (CBAM, "", (680, 8_564, 33_412, 132_260, 526_564)),
    "CBAM of timm": (partial(CBAM, bias=False), "- d - C", (612, 8_292, 32_868, 131_172, 524_388)),
    "BAM of its authors": (
        partial(BottleneckAttention, variant="code"),
        "- 2*C + 8*d - 2",
        (1_173, 17_361, 68_513, 272_193, 1_085_057),
    ),
    "scSE, r = 16": (
        partial(ConcurrentSqueezeExcitation, reduction=16),
        "",
        (645, 8_721, 33_825, 133_185, 528_513),
    ),
    "coordinate": (CoordinateAttention, "", (1_688, 6_680, 25_648, 100_448, 397_504)),
    "GC": (GlobalContext, "", (653, 8_753, 33_889, 133_313, 528_769)),
    "non-local": (NonLocal, "", (8_416, 131_968, 526_080, 2_100_736, 8_395_776)),
    "position": (PositionAttention, "", (5_201, 82_241, 328_321, 1_312_001, 5_245_441)),
    "criss-cross": (CrissCrossAttention, "", (5_201, 82_241, 328_321, 1_312_001, 5_245_441)),
    "double": (DoubleAttention, "", (4_208, 65_984, 263_040, 1_050_368, 4_197_888)),
    "external": (ExternalAttention, "", (8_192, 32_768, 65_536, 131_072, 262_144)),
    "large kernel": (LargeKernelAttention, "", (9_024, 85_248, 301_568, 1_127_424, 4_352_000)),
    "efficient multi-scale": (EfficientMultiScaleAttention, "", (48, 672, 2_624, 10_368, 41_216)),
    "multi-head": (MultiHeadSelfAttention, "", (16_640, 263_168, 1_050_624, 4_198_400, 16_785_408)),
}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("build", "change", "counts"), TABLE.values(), ids=TABLE)
def test_built_and_declared_are_the_number_that_was_written_down(
    build: Build, change: str, counts: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        modules = [build(channels) for channels in WIDTHS]
    assert tuple(map(parameters, modules)) == counts
    assert tuple(eval(f"{module.parameter_count} {change}", {}, letters(module)) for module in modules) == counts


def letters(module: Attention) -> dict[str, int]:
    return {letter: getattr(module, attribute) for letter, attribute in module.letters.items()}
