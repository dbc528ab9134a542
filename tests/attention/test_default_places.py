"""Where a mechanism goes by default is where its paper puts it, as written down here and in the words of its class."""

import re
from typing import get_args

import pytest

from regard.attention import Convolve, Merge, Read, Refine, Select, catalogue, contract, mechanisms
from regard.placing.place import ROLES

# Read in the papers, apart from the classes: where each is drawn or said to be inserted.
PAPERS = {
    # Inside a residual block, on its branch before the addition: the SE block's figure 3 and those after it ...
    "branch": (
        "se ese eca frequency_channel gated_channel gather_excite gaussian_context linear_context "
        "normalization_attention style_recalibration spatial_gate spatial_group cbam coordinate polarized shuffle "
        "simam strip_pooling triplet gc generalized pyramid_pooling film "
        # ... in place of the 3x3 convolution of it, whose output the branch ends with ...
        "bottleneck_self lambda_layer contextual_transformer halo stand_alone "
        # ... as the token mixer of a transformer's block, inside its residual.
        "multi_head_self cross_covariance large_kernel large_selective_kernel multi_scale_convolutional external "
        "divided_space_time axial bi_level_routing deformable focal_modulation grid neighbourhood outlook "
        "shifted_window agent cascaded_group cosine differential efficient entmax grouped_query linear linformer "
        "latent multi_scale_linear nystrom patterned performer pooling_mixer separable spatial_reduction talking_heads"
    ),
    # Between residual blocks, with a residual of their own.
    "block": "non_local double_attention efficient_multi_scale",
    # Once a resolution: BAM at the bottlenecks, scSE behind encoder and decoder blocks, the modules of ResAttNet.
    "stage": "bam scse spatial_squeeze residual_attention attention_refinement",
    # The head on what the dilated backbone gives.
    "last_stage": (
        "position channel_self dual criss_cross disentangled_non_local object_context hamburger feature_pyramid"
    ),
    # Where an encoder's map meets a coarser one.
    "skip": "attention_gate feature_fusion global_attention_upsample aff iterative_aff attention_fusion",
    # On class scores.
    "output": "mean_field pyramid_weights",
    "convolution": (
        "attention_augmented conditional_convolution dynamic_convolution omni_dimensional involution pyramid_split sk "
        "split"
    ),
}

WORDS = {
    "branch": r"residual block|inside (a|its) residual|in a residual\b|inverted residual|block of a|transformer"
    r"|in place of .*attention|before every convolution|decoder",
    "block": r"between residual blocks|after a convolutional block",
    "stage": r"\bstages?\b",
    "last_stage": r"after the last stage",
    "skip": r"skip connection|\bmeets?\b|in place of an addition",
    "output": r"logits|predictions",
    "convolution": r"in place of (a|the 3x3) convolution",
}
"""What the words of `placement` say if the place is this one."""

TABLE = {name: place for place, names in PAPERS.items() for name in names.split()}
PLACED = {name: kind for name, kind in mechanisms.items() if issubclass(kind, Refine | Convolve | Merge)}


def test_the_papers_table_holds_each_once() -> None:
    assert sorted(name for names in PAPERS.values() for name in names.split()) == sorted(PLACED)


@pytest.mark.parametrize("name", PLACED)
def test_the_default_place_is_that_of_the_paper_and_of_the_words(name: str) -> None:
    kind = PLACED[name]
    assert kind.place == TABLE[name]
    assert re.search(WORDS[kind.place], kind.placement), kind.placement


def test_words_of_another_place_do_not_agree() -> None:
    assert not re.search(WORDS["last_stage"], mechanisms["cbam"].placement)
    assert not re.search(WORDS["branch"], mechanisms["bam"].placement)
    assert not re.search(WORDS["block"], mechanisms["se"].placement)


def test_every_place_is_a_role_of_a_model_or_one_of_the_two_beside_them() -> None:
    assert get_args(contract.Role) == ROLES
    assert {kind.place for kind in PLACED.values()} <= {*ROLES, "last_stage", "convolution"}


def test_what_replaces_a_convolution_and_nothing_else_has_its_place() -> None:
    for kind in PLACED.values():
        assert (kind.place == "convolution") == issubclass(kind, Convolve)


def test_the_catalogue_states_it() -> None:
    for entry in catalogue.catalog():
        kind = mechanisms[entry.name]
        assert entry.place == TABLE.get(entry.name)
        assert (entry.place is None) == issubclass(kind, Read | Select)
