"""The catalogue says what the classes say."""

import ast
import re

import pytest

from regard.attention import Refine, SqueezeExcitation, catalogue, mechanisms
from regard.errors import UserError


def test_every_mechanism_has_its_entry() -> None:
    entries = catalogue.catalog()
    assert [entry.name for entry in entries] == list(mechanisms)
    for entry in entries:
        mechanism = mechanisms[entry.name]
        assert entry.class_name == mechanism.__name__
        assert f".{entry.family}." in mechanism.__module__
        assert entry.year == mechanism.paper.year
        assert list(entry.map_axes) == [fact.label for fact in mechanism.maps]
        assert (entry.layout is None) == (not issubclass(mechanism, Refine))
        assert entry.aliases == mechanism.aliases


def test_create_passes_its_arguments_on() -> None:
    module = catalogue.create("se", 64, reduction=8)
    assert isinstance(module, SqueezeExcitation)
    assert module.hidden_channels == 8


def test_create_swallows_no_typo() -> None:
    with pytest.raises(TypeError, match="redcution"):
        catalogue.create("se", 64, redcution=8)


@pytest.mark.parametrize(
    ("asked", "nearest"), [("cbma", "cbam"), ("multi-had-self", "multi_head_self"), ("swinn", "shifted_window")]
)
def test_an_unknown_name_is_answered_with_the_nearest(asked: str, nearest: str) -> None:
    with pytest.raises(catalogue.UnknownMechanismError) as caught:
        catalogue.create(asked, 64)
    message = str(caught.value)
    assert repr(asked) in message
    assert f"did you mean {nearest!r}?" in message
    assert all(name in message for name in mechanisms)
    assert "\n" not in message
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)


def test_a_name_near_nothing_gets_the_choices_alone() -> None:
    with pytest.raises(catalogue.UnknownMechanismError, match=r"^unknown mechanism 'xyzzy': the choices are "):
        catalogue.get("xyzzy")


# Other names


NAMES_OF_PAPERS = {
    "cbam": "CBAM",
    "se": "SE SENet",
    "shifted_window": "Swin",
    "dual": "DANet",
    "neighbourhood": "NATTEN",
    "latent": "MLA",
    "multi_head_self": "MHA MHSA",
    "grouped_query": "GQA",
    "gc": "GCNet",
    "sk": "SKNet",
    "criss_cross": "CCNet",
    "additive": "Bahdanau",
    "dot": "Luong",
    "split": "ResNeSt",
    "eca": "ECA-Net",
    "bottleneck_self": "BoTNet",
    "coordinate": "CoordAtt",
    "non_local": "nonlocal",
    "object_context": "OCR",
    "spatial_transformer": "STN",
    "omni_dimensional": "ODConv",
    "conditional_convolution": "CondConv",
    "cross_covariance": "XCiT",
    "frequency_channel": "FcaNet",
    "large_kernel": "VAN",
    "large_selective_kernel": "LSKNet",
    "external": "EANet",
    "double_attention": "A2-Net",
    "divided_space_time": "TimeSformer",
    "halo": "HaloNet",
    "bi_level_routing": "BiFormer",
    "focal_modulation": "FocalNet",
    "grid": "MaxViT",
    "outlook": "VOLO",
    "stand_alone": "SASA",
    "pooling_mixer": "PoolFormer",
    "nystrom": "Nystromformer",
    "top_down": "BUTD",
    "tucker": "MUTAN",
    "guided": "MCAN",
    "co_attentional": "ViLBERT",
    "class_attention": "CaiT",
    "class_residual": "CSRA",
    "gated_instance": "ABMIL",
    "query_former": "Q-Former",
    "iterative_aff": "iAFF",
    "pyramid_split": "EPSANet",
    "involution": "Involution",
}
NAMES_IN_LIBRARIES = {
    # timm, segmentation_models_pytorch, mmcv, MONAI, torchvision, Keras
    "se": "SEModule ChannelSELayer SqueezeExcitation",
    "ese": "EffectiveSEModule",
    "eca": "EcaModule",
    "gather_excite": "GatherExcite",
    "cbam": "CbamModule",
    "coordinate": "CoordAttn",
    "sk": "SelectiveKernel",
    "split": "SplitAttn",
    "lambda_layer": "LambdaLayer",
    "halo": "HaloAttn",
    "non_local": "NonLocalAttn NonLocal2d",
    "class_attention": "ClassAttn",
    "clip_pool": "AttentionPool2d",
    "multi_head_pool": "AttentionPoolLatent",
    "scse": "SCSEModule",
    "gc": "ContextBlock",
    "multi_head_self": "SABlock MultiheadAttention",
    "multi_head_cross": "CrossAttentionBlock",
    "shifted_window": "ShiftedWindowAttention",
    "additive": "AdditiveAttention",
    "grouped_query": "GroupQueryAttention",
}
USED = [
    *(
        (asked, name)
        for table in (NAMES_OF_PAPERS, NAMES_IN_LIBRARIES)
        for name in table
        for asked in table[name].split()
    ),
    ("squeeze_excitation", "se"),
    ("Squeeze and-Excitation", "se"),
    ("multi head self", "multi_head_self"),
    ("global_context", "gc"),
    ("neighborhood attention", "neighbourhood"),
]


@pytest.mark.parametrize(("asked", "name"), USED)
def test_a_mechanism_is_found_by_the_names_that_people_use(asked: str, name: str) -> None:
    assert catalogue.get(asked) is mechanisms[name]


def test_the_names_of_the_factory_of_timm_are_known() -> None:
    """What `timm.layers.create_attn` takes, but for variants and what this library does not have."""
    names = "se ese eca gc gca cbam coord strip sk splat lambda halo nl ge"
    found = "se ese eca gc gc cbam coordinate strip_pooling sk split lambda_layer halo non_local gather_excite"
    assert [catalogue.get(name).name for name in names.split()] == found.split()


def test_every_name_in_any_spelling_belongs_to_one_mechanism() -> None:
    owner: dict[str, str] = {}
    for name, kind in mechanisms.items():
        assert all(alias == alias.lower() for alias in kind.aliases)
        known = {"".join(filter(str.isalnum, each.lower())) for each in (name, kind.__name__)}
        aliases = ["".join(filter(str.isalnum, each)) for each in kind.aliases]
        assert len(set(aliases)) == len(aliases), f"an alias of {name} twice"
        assert not known & set(aliases), f"an alias of {name} is its name already"
        for each in (*known, *aliases):
            assert owner.setdefault(each, name) == name, f"{each} of {name} and {owner[each]}"
        for each in (name, kind.__name__, *kind.aliases):
            assert catalogue.get(each) is catalogue.get(each.upper().replace("_", "-")) is kind
    for word, several in catalogue.AMBIGUOUS.items():
        assert "".join(filter(str.isalnum, word)) not in owner
        assert len(several) > 1
        assert set(several) <= set(mechanisms)


def test_a_word_for_several_mechanisms_is_answered_with_them() -> None:
    with pytest.raises(
        catalogue.UnknownMechanismError, match=r"^'PSA' .* polarized \(Liu et al. 2021\), pyramid_split"
    ):
        catalogue.get("PSA")
    with pytest.raises(catalogue.UnknownMechanismError, match=r"gated_channel .* gaussian_context"):
        catalogue.create("g-c-t", 64)


@pytest.mark.parametrize("asked", [5, None, ["se"], SqueezeExcitation])
@pytest.mark.usefixtures("unchecked_shapes")
def test_what_is_no_string_is_no_name(asked: object) -> None:
    with pytest.raises(catalogue.UnknownMechanismError, match="give a string"):
        catalogue.get(asked)


@pytest.mark.parametrize(
    ("word", "mechanism", "argument"), [(word, *variant) for word, variant in catalogue.VARIANTS.items()]
)
def test_a_word_for_a_mechanism_with_another_argument_says_which(word: str, mechanism: str, argument: str) -> None:
    """Built by that name alone it would have another formula than the one that is meant."""
    with pytest.raises(catalogue.UnknownMechanismError, match=re.escape(f"{mechanism!r} with {argument}")):
        catalogue.get(word)
    name, value = argument.split("=")
    assert catalogue.get(mechanism)(**{**WIDTHS[mechanism], name: ast.literal_eval(value)}) is not None


WIDTHS = {
    "co_attentional": {"query_width": 16, "memory_width": 16},
    "entmax": {"channels": 16},
    "grouped_query": {"channels": 16},
    "shifted_window": {"channels": 16},
}
