"""A model of questions by the names of its parts: built, saved into a folder, and taken up from there."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard import files
from regard.errors import UserError, in_one_line
from regard.extras import naming_extras
from regard.models.naming import one_line
from regard.models.vqa import parts
from regard.models.vqa.cores import cores, create
from regard.models.vqa.huggingface import BlipAnswering, ViltAnswering, colours_of
from regard.models.vqa.model import Answering, VisualQuestionAnswering
from regard.models.vqa.view import View
from regard.models.vqa.vocabulary import WordVocabulary

RECIPE, WORDS, ANSWERS, WEIGHTS = "recipe.json", "words.json", "answers.json", "model.safetensors"
"""The files of a model's folder."""

READER = "question"
"""The folder in it that has the tokenizer, and the architecture, of what came from Hugging Face."""


# `Any`: the arguments are those of the part that they are for.
@dataclass(frozen=True)
class Recipe:
    """A model that answers questions about pictures, by the names of its parts. It can be written as JSON.

    Args:
        core: a name of `regard.models.vqa.cores`; or `"vilt"` or `"blip"`, whose checkpoint is `question`. Default
            `"cross_attention"`.
        arguments: of the core, behind its widths.
        image: a name of timm, default `"resnet18"`; `"convolutions"`, the small network of sort-of-CLEVR, or
            `"pooled_convolutions"`, that of digit scenes; `"regions"` for features of regions from files; `"detector"`
            for regions that a detector of torchvision finds. ViLT and BLIP do not use it.
        image_arguments: of the network of convolutions and of `GridEncoder`, behind the backbone and its width; of
            `RegionEncoder`; or of `parts.detected`. With `pretrained`, published weights are there at the beginning.
            For ViLT and BLIP, `mean` and `deviation` of the colours, default the checkpoint's.
        size: side in pixels of what is seen of a picture; default 224.
        question: `"lstm"`, the default, `"gru"`, `"bag"`, `"placed"`, `"vector"`, or a checkpoint of Hugging Face, by
            name or folder.
        question_arguments: of that encoder, behind the number of words.
        independent: whether each answer is trained to be right or wrong by itself; default None: as in the core's
            paper.

    Raises:
        UserError: a part is unknown, does not take such arguments, or does not go with the others.
    """

    core: str = "cross_attention"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    image: str = "resnet18"
    image_arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int = 224
    question: str = "lstm"
    question_arguments: Mapping[str, Any] = field(default_factory=dict)
    independent: bool | None = None

    def __post_init__(self) -> None:
        for name in ("arguments", "image_arguments", "question_arguments"):
            given = getattr(self, name)
            try:  # what JSON makes of it, so that a recipe that is read equals the one that was written
                object.__setattr__(self, name, json.loads(json.dumps(dict(given))))
            except (TypeError, ValueError) as error:
                raise UserError(f"{name}={given!r}: expected names with numbers, texts and lists alone") from error
        if self.size < 1:
            raise UserError(f"size={self.size}: expected the side of a picture in pixels, at least 1")
        parts.require(f"model {self.core!r}", self.arguments, parts.core_options(self.core))
        parts.require(f"image {self.image!r}", self.image_arguments, parts.image_options(self.core, self.image))
        wanted = parts.question_options(self.core, self.question)
        parts.require(f"question {self.question!r}", self.question_arguments, wanted)
        by_regions = self.core not in parts.WHOLE and self.image in (parts.REGIONS, parts.DETECTOR)
        # MAC alone has another stem for them.
        if by_regions and cores[self.core].grid and self.arguments.get("stem") != "linear":
            raise UserError(
                f"model {self.core!r} convolves over a picture's grid, and image {self.image!r} gives regions: take "
                "another image, mac with stem='linear', or one of "
                + ", ".join(name for name, core in cores.items() if not core.grid)
            )

    def as_json(self) -> dict[str, Any]:
        """The recipe as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Recipe":
        """The inverse of `as_json`.

        Raises:
            UserError: it is no recipe.
        """
        names = [one.name for one in fields(cls)]
        if not isinstance(value, dict) or not value.keys() <= set(names):
            raise UserError(f"{str(value)[:60]!r} is no recipe: expected an object with {', '.join(names)}")
        return cls(**value)


def build(
    recipe: Recipe,
    vocabulary: WordVocabulary | None = None,
    answers: Sequence[str] | None = None,
    vectors: Float[Tensor, "V E"] | None = None,
) -> Answering:
    """A fresh model, in training mode. What is not pretrained is drawn from PyTorch's global generator.

    Args:
        recipe: what it is made of.
        vocabulary: its words; what comes from Hugging Face brings its own, and takes none.
        answers: their texts, in the order of their numbers; ViLT has its own, unless others are given, for which its
            classifier then is fresh.
        vectors: of the words to start from, such as GloVe's; they decide how wide the words are.

    Raises:
        UserError: the parts cannot be built so, pretrained weights cannot be had, or words or answers are missing.
    """
    if vectors is not None and recipe.question in parts.encoders:
        options = parts.question_options(recipe.core, recipe.question)
        width = "embedding_width" if "embedding_width" in options else "width"
        recipe = replace(recipe, question_arguments={width: vectors.shape[1], **recipe.question_arguments})
    return _network(recipe, vocabulary, answers, vectors, None).train()  # what comes from Hugging Face does not yet


def save(model: Answering, folder: Path | str) -> None:
    """Write all that is needed to use a model again: its recipe, words, answers and weights.

    Args:
        model: one that `build` or `load` gave.
        folder: where to; what a model wrote there before is replaced. The recipe is written last.

    Raises:
        UserError: the model has no recipe, or the folder cannot be written.
    """
    folder = Path(folder)
    if model.recipe is None:
        raise UserError(
            f"a {type(model).__name__} without recipe cannot be saved: make it with regard.models.vqa.build"
        )
    words = model.vocabulary.as_json() if isinstance(model.vocabulary, WordVocabulary) else None
    files.write_json(folder / ANSWERS, list(model.answers or ()))
    if words is None:
        (folder / WORDS).unlink(missing_ok=True)
    else:
        files.write_json(folder / WORDS, words)
    fresh = folder / f"{READER}.partial"  # beside the old one, of which a tokenizer may still copy a file
    shutil.rmtree(fresh, ignore_errors=True)
    for part in _from_hugging_face(model):
        part.save_pretrained(fresh)
    shutil.rmtree(folder / READER, ignore_errors=True)
    if fresh.exists():
        fresh.rename(folder / READER)
    files.save_weights(model, folder / WEIGHTS)
    files.write_json(folder / RECIPE, model.recipe.as_json())


@naming_extras()
def load(folder: Path | str, device: torch.device | str = "cpu") -> Answering:
    """The model in a folder, in evaluation mode. Nothing is downloaded.

    >>> load("runs/photos").answer("photo.jpg", "what color is the cat?")

    Args:
        folder: where `save` wrote it, or a run with a single model.
        device: where the model is to be.

    Raises:
        UserError: there is no model, or it is broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / RECIPE).is_file():
        inside = sorted(path.parent for path in folder.glob(f"*/{RECIPE}"))
        if len(inside) > 1:
            raise UserError(f"{folder} holds several models: load one of {', '.join(map(str, inside))}")
        if not inside:
            raise UserError(f"{folder} holds no model of questions: expected {RECIPE} and what is saved with it")
        folder = inside[0]
    recipe = Recipe.from_json(files.read_json(folder / RECIPE))
    vocabulary = WordVocabulary.from_json(files.read_json(folder / WORDS)) if (folder / WORDS).exists() else None
    model = _network(recipe, vocabulary, files.read_json(folder / ANSWERS), None, folder / READER)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS} does not hold the weights of this recipe ({in_one_line(error)[:200]}): put back what "
            "was written with it, or train it anew if an earlier version wrote it"
        ) from error
    return model.to(device).eval()


def _network(
    recipe: Recipe,
    vocabulary: WordVocabulary | None,
    answers: Sequence[str] | None,
    vectors: Float[Tensor, "V E"] | None,
    saved: Path | None,
) -> Answering:
    """The model; with the folder of what came from Hugging Face, one whose weights will follow: none are fetched."""
    if recipe.core in parts.WHOLE:
        if vocabulary is not None or vectors is not None:
            raise UserError(f"model {recipe.core!r} has words of its own: leave out vocabulary and vectors")
        if recipe.independent is not None:
            raise UserError(f"model {recipe.core!r} has a loss of its own: leave out independent")
        make = ViltAnswering if recipe.core == "vilt" else BlipAnswering
        colours = colours_of(recipe.question, **recipe.image_arguments)
        recipe = replace(recipe, image_arguments=colours)
        view = View(recipe.size, *map(tuple, colours.values()))
        model = make.fetch(saved or recipe.question, answers, view, weights=saved is None)
    else:
        if not answers:
            raise UserError(f"model {recipe.core!r} chooses among answers: give at least one")
        sight, view = parts.see(recipe.image, recipe.image_arguments, recipe.size, fresh=saved is None)
        words, tokenizer = parts.read(recipe.question, recipe.question_arguments, vocabulary, vectors, saved)
        # `Any`: a module says of no attribute what it is.
        widths: tuple[Any, Any] = sight.width, words.width
        with one_line(f"model {recipe.core!r} cannot be built with {dict(recipe.arguments)}"):
            core = create(recipe.core, *widths, **recipe.arguments)
        model = VisualQuestionAnswering(sight, words, core, len(answers), tokenizer, answers, view)
    if recipe.independent is not None:
        model.independent = recipe.independent
    model.recipe = recipe
    return model


def _from_hugging_face(model: Answering) -> list[Any]:
    """What saves itself beside the rest: a tokenizer, and the architecture of what came with it."""
    if model.vocabulary is None or isinstance(model.vocabulary, WordVocabulary):
        return []
    # `Any`: what they are is known to Hugging Face.
    whole: Any = model
    return [model.vocabulary, whole.words.encoder.config if hasattr(model, "words") else whole.config]
