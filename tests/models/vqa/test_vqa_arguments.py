"""What every core makes of its arguments: all are used, in every part that they are for, as its paper has it."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vqa_small import ANSWERS, SIGHT, VOCABULARY, WORDS, seen_and_asked, small_core

from regard.attention import ShapeError
from regard.models.vqa import cores

# --- every argument --------------------------------------------------------------------------------------------------

# By name, since an argument of a name is the same everywhere; none is the default, nor what `SMALL` has.
OTHER: dict[str, object] = {
    "activation": "relu",
    "arguments": {"hidden_width": 13},
    "attention_dropout": 0.75,
    "bias": True,
    "blocks": 3,
    "cells": 16,
    "channels": 13,
    "classifier_width": 19,
    "coordinates": False,
    "directions": (7,),
    "distinct": True,
    "dropout": 0.75,
    "estimator": "straight_through",
    "expansion": 3,
    "f_widths": (29,),
    "factors": 7,
    "fused_width": 17,
    "g_widths": (29, 31),
    "gate": True,
    "glimpses": 4,
    "heads": 1,
    "hidden_width": 13,
    "hops": 3,
    "initialization": "he",
    "joint_width": 20,
    "key_width": 4,
    "latents": 7,
    "layers": 4,
    "learned_states": False,
    "linear_per_glimpse": True,
    "mixing": 2,
    "normalize": False,
    "normalized": True,
    "question_scale": 3.0,
    "rank": 7,
    "read": "hard",
    "self_attention": True,
    "sharpness": 3.0,
    "sketch_width": 29,
    "stem": "linear",
    "steps": 4,
    "temperature": 0.5,
    "token_width": 13,
    "unary_widths": (13, 17),
    "variant": "code",
    "width": 18,
    "words": VOCABULARY,
}
BESIDES: dict[str, dict[str, object]] = {"directions": {"words": VOCABULARY}, "linear_per_glimpse": {"joint_width": 12}}
"""What an argument needs to be of use."""


def outcome(name: str, arguments: dict[str, object]) -> list[Tensor] | None:
    """Parameters, answers and gradients, from the same seeds, in training; None where the picture is refused."""
    torch.manual_seed(1)
    core = small_core(name, **arguments)
    classifier = core.classifier(ANSWERS)
    torch.manual_seed(2)
    sight, words = seen_and_asked()
    words.tokens.retain_grad()  # not what was given: zero where no word is
    try:
        answers = classifier(core(sight, words))
    except ShapeError:
        return None
    answers.square().sum().backward()
    gradients = [x.grad for x in (sight.tokens, words.tokens, words.summary) if x.grad is not None]
    return [*core.parameters(), *classifier.parameters(), answers, *gradients]


def alike(one: list[Tensor] | None, other: list[Tensor] | None) -> bool:
    if one is None or other is None:
        return one is other
    return [x.shape for x in one] == [x.shape for x in other] and all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", cores)
def test_every_argument_of_a_core_is_used(name: str) -> None:
    arguments = [one.name for one in signature(cores[name]).parameters.values() if one.default is not Parameter.empty]
    plain = outcome(name, {})
    assert alike(plain, outcome(name, {}))
    for argument in arguments:
        besides = BESIDES.get(argument, {})
        before = outcome(name, besides) if besides else plain
        assert not alike(before, outcome(name, {**besides, argument: OTHER[argument]})), argument


# What begins larger, of a matrix all or the last columns, by core, what it is built with besides, and argument.
LARGER: list[tuple[str, dict[str, object], str, dict[str, slice]]] = [
    ("flattened", {}, "question_scale", {"f.0.weight": slice(-WORDS, None)}),
    ("relation_network", {}, "question_scale", {"question.weight": slice(None)}),
    ("relation_network", {"unary_widths": (13,)}, "question_scale", {"unary.question.weight": slice(None)}),
    ("entity_stream", {}, "sharpness", {"ask.weight": slice(None), "ask.bias": slice(None)}),
]


@pytest.mark.parametrize(("name", "besides", "argument", "larger"), LARGER)
def test_what_begins_larger_is_that_many_times_what_it_would_have_been_and_nothing_else_is(
    name: str, besides: dict[str, object], argument: str, larger: dict[str, slice]
) -> None:
    begun = []
    for times in (1.0, 3.0):
        torch.manual_seed(1)
        begun.append(small_core(name, **besides, **{argument: times}).state_dict())
    for parameter, columns in larger.items():
        begun[0][parameter][..., columns] *= 3
    assert alike(list(begun[0].values()), list(begun[1].values()))


# What only one of these got would still be used.
SHARED: dict[str, dict[str, tuple[str, ...]]] = {
    "question_channel_spatial": {"hidden_width": ("channel", "spatial")},
    "alternating_co_attention": {"hidden_width": ("summarize", "look", "listen")},
    "hierarchical_co_attention": {"hidden_width": ("levels", "outputs")},
    "dual_attention": {"hidden_width": ("look", "listen")},
    "mlb": {"joint_width": ("read", "fuse")},
    "mutan": {"joint_width": ("read", "fuse"), "rank": ("read", "fuse")},
    "tucker": {"joint_width": ("read", "fuse")},
    **{
        name: {
            "joint_width": ("read", "fuse"),
            "factors": ("read", "fuse"),
            "hidden_width": ("question", "read"),
            "glimpses": ("question", "read"),
        }
        for name in ("mfb", "mfh")
    },
    "block": {
        "joint_width": ("read", "fuse"),
        "blocks": ("read", "fuse"),
        "rank": ("read", "fuse"),
        "hidden_width": ("question", "read"),
        "glimpses": ("question", "read"),
    },
}


@pytest.mark.parametrize("name", SHARED)
def test_an_argument_of_several_parts_reaches_each_of_them(name: str) -> None:
    def shapes(part: str, **arguments: object) -> list[torch.Size]:
        return [parameter.shape for parameter in small_core(name, **arguments).get_submodule(part).parameters()]

    for argument, parts in SHARED[name].items():
        for part in parts:
            assert shapes(part) != shapes(part, **{argument: OTHER[argument]}), (argument, part)


LAYERS: dict[str, tuple[dict[str, object], int]] = {
    "mcan": ({"width": 14, "layers": 3}, 3 + 3),
    "cross_attention": ({"width": 14, "blocks": 3, "mixing": 2}, 3 + 2),
    "perceiver": ({"width": 14, "blocks": 3, "layers": 2}, 3 + 2),
    "query_former": ({"width": 14, "blocks": 3, "layers": 2}, 3 + 2),
}
"""Arguments of the transformers, and how many layers they have in all."""


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_a_transformer_has_its_heads_and_its_expansion(name: str) -> None:
    arguments, layers = LAYERS[name]
    modules = list(small_core(name, **arguments, heads=7, expansion=5).modules())
    assert {module.heads for module in modules if hasattr(module, "heads")} == {7}
    wide = [one for one in modules if isinstance(one, nn.Linear) and one.out_features == 5 * 14]
    back = [one for one in modules if isinstance(one, nn.Linear) and one.in_features == 5 * 14]
    assert len(wide) == len(back) == layers


# --- dropout ---------------------------------------------------------------------------------------------------------

# Every tensor that is dropped from, in order: the rate, and the tensor's width at the sizes of `SMALL`.
DROPS: dict[str, list[tuple[float, int]]] = {
    "question_only": [(0.5, 11), (0.5, 11)],
    "image_only": [(0.5, 11), (0.5, 11)],
    "product": [(0.5, 17), (0.5, 17)],
    "flattened": [(0.5, 17)],
    "reader": [(0.25, WORDS)] * 4,  # behind read and network of two blocks
    "find_then_move": [(0.25, WORDS)] * 2,
    "hierarchical_co_attention": [(0.5, WORDS), (0.5, WORDS + 11), (0.5, WORDS + 11)],
    "dual_attention": [(0.5, WORDS)],
    "stacked_attention": [(0.5, WORDS)],
    # before every layer: of cells, question and scores, then the classifier's
    "show_ask_attend_answer": [(0.5, SIGHT), (0.5, WORDS), (0.5, 11), (0.5, 2 * SIGHT + WORDS), (0.5, 17)],
    "top_down_product": [(0.2, 11), (0.5, 22)],
    # what is asked, what is seen and their fusion, to look (where only MUTAN drops the third), then to answer
    "mlb": [(0.5, WORDS), (0.5, SIGHT), (0.5, WORDS), (0.5, 2 * SIGHT), (0.5, 11)],
    "mutan": [(0.5, WORDS), (0.5, SIGHT), (0.5, 11), (0.5, WORDS), (0.5, 2 * SIGHT), (0.5, 11)],
    "tucker": [(0.5, WORDS), (0.5, SIGHT), (0.5, WORDS), (0.5, 2 * SIGHT), (0.5, 11)],
    "mfb": [(0.1, 11), (0.1, 33)],  # three products of 11 each, to look, then to answer
    "mfh": [(0.1, 11), (0.1, 33), (0.1, 33)],
    "block": [(0.1, 15)] * 4,  # question and sight, to look, then to answer
    "ban": [(0.5, 2 * WORDS)],
    # sum, hidden layer and sum in SA, one sum more in SGA, and what flattens either side; the weights' is in a kernel
    "mcan": [(0.1, 10), (0.1, 40), (0.1, 10)] * 2 + [(0.1, 10), (0.1, 10), (0.1, 40), (0.1, 10)] * 2 + [(0.1, 10)] * 2,
    "relation_network": [(0.5, 23)],
    "mac": [(0.15, 10)] * (1 + 3),  # the picture once, the memory in every step
    "cross_attention": [(0.25, 12)] * 2 * (1 + 2),
}
NONE_IN_THE_PAPER = ("reader", "find_then_move", "cross_attention")
"""The default of these is 0."""


@pytest.mark.parametrize("name", cores)
def test_a_core_drops_what_its_paper_drops_at_its_rate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[tuple[float, int]] = []

    def dropout(x: Tensor, p: float, training: bool, *_: Any) -> Tensor:
        dropped.extend([(p, x.shape[-1])] * (training and p > 0))
        return x

    monkeypatch.setattr(F, "dropout", dropout)
    core = small_core(name, **({"dropout": 0.25} if name in NONE_IN_THE_PAPER else {}))
    classifier = core.classifier(ANSWERS)
    classifier(core(*seen_and_asked()))
    assert dropped == DROPS.get(name, [])
    classifier.eval()(core.eval()(*seen_and_asked()))
    assert dropped == DROPS.get(name, [])


# --- classifiers -----------------------------------------------------------------------------------------------------


def of_three_tanh(layers: Any, z: Tensor) -> Tensor:
    return layers[6](torch.tanh(layers[3](torch.tanh(layers[0](z)))))


def rectified(layers: Any, z: Tensor) -> Tensor:
    first, last = (layer for layer in layers if list(layer.parameters()))
    return last(first(z).clamp(min=0))


def gated(layers: Any, z: Tensor) -> Tensor:
    return layers[1](torch.tanh(layers[0].content(z)) * torch.sigmoid(layers[0].gate(z)))


def normalized(layers: Any, z: Tensor) -> Tensor:
    hidden, norm = layers.hidden(z), layers.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return layers.output(((hidden - norm.running_mean) * scale + norm.bias).clamp(min=0))


def exponential(layers: Any, z: Tensor) -> Tensor:
    hidden = layers[0](z)
    return layers[2](torch.where(hidden > 0, hidden, hidden.exp() - 1))


CLASSIFIERS: dict[str, tuple[Callable[[Any, Tensor], Tensor], list[int]]] = {
    "question_only": (of_three_tanh, [11, 11]),
    "image_only": (of_three_tanh, [11, 11]),
    "product": (of_three_tanh, [17, 17]),
    "show_ask_attend_answer": (rectified, [17]),
    "top_down": (gated, [11, 11]),
    "top_down_product": (rectified, [22]),
    "ban": (rectified, [2 * WORDS]),
    "film": (normalized, [17]),
    "mac": (exponential, [10]),
}
"""What those say that have more than one layer, and the widths of their hidden layers."""


@pytest.mark.parametrize("name", cores)
def test_the_classifiers_are_the_papers(name: str) -> None:
    core = small_core(name)
    classifier = core.classifier(ANSWERS).double().eval()
    for module in classifier.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    says, widths = CLASSIFIERS.get(name, (lambda layer, z: z @ layer.weight.T + layer.bias, []))
    z = torch.randn(2, 3, core.joint_width, dtype=torch.float64)
    torch.testing.assert_close(classifier(z), says(classifier, z))
    assert [one.shape[0] for one in classifier.parameters() if one.ndim == 2] == [*widths, ANSWERS]
