"""The parts that a recipe names: what there is, what each takes, and what builds it."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import Parameter, formatannotation, signature
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regard.errors import UserError, nearest
from regard.models.naming import one_line
from regard.models.vqa.cores import cores
from regard.models.vqa.huggingface import colours_of, tokenizer_of, with_weights
from regard.models.vqa.model import Vocabulary
from regard.models.vqa.sight import DetectedRegions, GridEncoder, RegionEncoder, convolutions, pooled_convolutions
from regard.models.vqa.view import View
from regard.models.vqa.vocabulary import WordVocabulary
from regard.models.vqa.words import BagOfWords, HuggingFaceQuestion, PlacedWords, QuestionEncoder, QuestionVector
from regard.running import undisturbed

WHOLE = ("vilt", "blip")
"""Models of `transformers` that read pictures and questions themselves, in place of a core."""

backbones: dict[str, Callable[..., nn.Module]] = {
    "convolutions": convolutions,
    "pooled_convolutions": pooled_convolutions,
}
"""Networks of convolutions by the names that a recipe's `image` takes; all but these and the two below are timm's."""

REGIONS, DETECTOR = "regions", "detector"
"""What a recipe's `image` is where a picture comes as features of regions, and where these are found on the spot."""

encoders: dict[str, Callable[..., nn.Module]] = {
    "lstm": partial(QuestionEncoder, recurrence="lstm"),
    "gru": partial(QuestionEncoder, recurrence="gru"),
    "bag": BagOfWords,
    "placed": PlacedWords,
    "vector": QuestionVector,
}
"""Encoders of questions by the names that a recipe's `question` takes; all others are checkpoints of Hugging Face."""

Options = Mapping[str, Parameter]
"""The arguments that a part may be given, by name."""


def core_options(core: str) -> Options:
    """What a recipe's `arguments` may hold.

    Raises:
        UserError: there is no such core.
    """
    if core in WHOLE:
        return {}
    if core not in cores:
        raise UserError(f"unknown model {core!r}: {nearest(core, [*cores, *WHOLE])}")
    return _options(cores[core], "sight_width", "words_width")


def image_options(core: str, image: str) -> Options:
    """What a recipe's `image_arguments` may hold.

    Raises:
        UserError: there is no such image encoder.
    """
    if core in WHOLE:
        return _options(colours_of, "checkpoint")
    if image == REGIONS:
        return _options(RegionEncoder)
    if image == DETECTOR:
        return _options(detected, "size")
    if image in backbones:
        return {**_options(backbones[image]), **_options(GridEncoder, "backbone", "width", "pretrained")}
    import timm

    if not timm.is_model(image):
        own = [*backbones, REGIONS, DETECTOR]
        near = get_close_matches(image, [*own, *timm.list_models()], n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"unknown image {image!r}: {hint}the choices are {', '.join(own)} and any name of timm")
    return _options(GridEncoder, "backbone", "width", "colours")


def question_options(core: str, question: str) -> Options:
    """What a recipe's `question_arguments` may hold."""
    if core in WHOLE:
        return {}
    if question in encoders:
        return _options(encoders[question], "words", "recurrence", "padding", "vectors")
    return _options(HuggingFaceQuestion, "encoder", "padding")


# `Any`: the arguments are those of the part that they are for.
def require(what: str, given: Mapping[str, Any], options: Options) -> None:
    """Refuse arguments that a part does not take, or such values, or that it lacks one.

    Raises:
        UserError: one of these.
    """
    for name, value in given.items():
        if name not in options:
            raise UserError(f"{what} takes no {name!r}: {nearest(name, options)}")
        if not _fits(value, kind := options[name].annotation):
            wanted = formatannotation(kind).replace("typing.", "").replace("collections.abc.", "")
            raise UserError(f"{what} takes no {name}={value!r}: expected {wanted}")
    missing = [name for name, one in options.items() if one.default is Parameter.empty and name not in given]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}: give {'it' if len(missing) == 1 else 'them'}")


def see(image: str, arguments: Mapping[str, Any], size: int, fresh: bool) -> tuple[nn.Module, View | None]:
    """The image encoder, and what it sees of a picture; None where it takes regions from files.

    Args:
        image, arguments, size: as a recipe has them.
        fresh: whether published weights are wanted, if the arguments say so, and nothing else will follow.

    Raises:
        UserError: it cannot be built, or not for pictures of that size.
    """
    given = dict(arguments)
    pretrained = given.pop("pretrained", False) and fresh
    if image == REGIONS:
        return RegionEncoder(**given), None
    if image == DETECTOR:
        return detected(size, pretrained=pretrained, **given), View(size)
    if image in backbones:
        around = {name: given.pop(name) for name in _options(GridEncoder) if name in given}
        body = backbones[image](**given)
        *_, last = (layer for layer in body.modules() if isinstance(layer, nn.Conv2d))
        grid = GridEncoder(body, last.out_channels, **around)
        return grid, View(size, (grid.ground / 255,) * 3, (grid.scale / 255,) * 3)
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    hub = "with its published weights, which come from the Hugging Face Hub or its cache on this machine (HF_HOME)"
    with one_line(f"the image encoder {image!r} cannot be built {hub if pretrained else ''}".rstrip()):
        grid = GridEncoder(image, pretrained=pretrained, **given)
    with one_line(f"the image encoder {image!r} takes no pictures of {size} x {size}"), undisturbed(grid):
        grid(torch.zeros(1, 3, size, size))
    settings = get_pretrained_cfg(image)
    data = resolve_data_config(pretrained_cfg=settings.to_dict() if settings else {})
    return grid, View(size, tuple(data["mean"]), tuple(data["std"]))


def read(
    question: str,
    arguments: Mapping[str, Any],
    vocabulary: WordVocabulary | None,
    vectors: Float[Tensor, "V E"] | None,
    saved: Path | None,
) -> tuple[nn.Module, Vocabulary | None]:
    """The encoder of questions, and what makes numbers of words for it.

    Args:
        question, arguments: as a recipe has them.
        vocabulary, vectors: as of `recipe.build`.
        saved: the folder that has the architecture and the tokenizer of what came from Hugging Face, whose weights will
            follow; None where they are to be fetched.

    Raises:
        UserError: it cannot be built or fetched, or words are missing or of no use.
    """
    if question not in encoders:
        if vocabulary is not None or vectors is not None:
            raise UserError(f"question {question!r} has words of its own: leave out vocabulary and vectors")
        try:
            encoder, fresh = with_weights("AutoModel", saved or question, saved is None)
        except UserError as error:
            raise UserError(f"unknown question {question!r}: {nearest(question, encoders)}; {error}") from error
        read = HuggingFaceQuestion(encoder, **arguments)
        read.fresh = [name for name in fresh if not name.startswith("pooler.")]  # which nothing reads here
        return read, tokenizer_of(saved or question)
    takes, given = signature(encoders[question]).parameters, dict(arguments)
    if "words" in takes:
        if vocabulary is None:
            raise UserError(f"question {question!r} reads words: give them as vocabulary=")
        given["words"] = len(vocabulary)
    if vectors is not None:
        if "vectors" not in takes:
            raise UserError(f"question {question!r} has no vectors of words: leave out vectors")
        given["vectors"] = vectors
    return encoders[question](**given), vocabulary


def detected(
    size: int,
    detector: str = "fasterrcnn_resnet50_fpn",
    pretrained: bool = False,
    regions: int = 36,
    frozen: bool = True,
) -> DetectedRegions:
    """The regions that a detector of torchvision proposes.

    Args:
        size: side of the pictures in pixels, of which the detector sees all.
        detector: its name in `torchvision.models.detection`, of two stages.
        pretrained: whether it starts from the weights that torchvision publishes.
        regions, frozen: as of `DetectedRegions`.

    Raises:
        UserError: torchvision has none of that name, or its weights cannot be had.
    """
    from torchvision.models import detection, get_model, list_models

    names = list_models(detection)
    if detector not in names:
        raise UserError(f"unknown detector {detector!r}: {nearest(detector, names)}")
    weights = {"weights": "DEFAULT"} if pretrained else {"weights": None, "weights_backbone": None}
    hub = "with its published weights, which come from download.pytorch.org or the cache on this machine (TORCH_HOME)"
    with one_line(f"the detector {detector!r} cannot be built {hub if pretrained else ''}".rstrip()):
        found = get_model(detector, min_size=size, max_size=size, **weights)
    _with_common_norms(found)
    return DetectedRegions(found, regions, frozen)


def _with_common_norms(detector: nn.Module) -> None:
    """Let the frozen norms that torchvision has with published weights compute what those that it has without would.

    They have another epsilon, and without the weights one could not tell: a model that is loaded would see otherwise.
    """
    from torchvision.ops import FrozenBatchNorm2d

    common = nn.BatchNorm2d(1).eps
    # `Any`: a module says of no buffer that it is one.
    norms: list[Any] = [module for module in detector.modules() if isinstance(module, FrozenBatchNorm2d)]
    for norm in norms:
        norm.weight *= ((norm.running_var + common) / (norm.running_var + norm.eps)).sqrt()
        norm.eps = common


def _options(make: Callable[..., Any], *own: str) -> dict[str, Parameter]:
    """The arguments of a part, but those that are not the recipe's to choose."""
    return {name: one for name, one in signature(make).parameters.items() if name not in own}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value that JSON can hold is of the kind that a signature names."""
    outer, inner = get_origin(kind), get_args(kind)
    if kind is Any or kind is Parameter.empty:
        return True
    if outer is Literal:
        return value in inner
    if outer in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if outer is not None and issubclass(outer, Sequence):
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    return isinstance(value, outer or kind)
