"""A model of questions as a file that runs without regard, compared with the model before it is put in place."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from regard import files
from regard.errors import UserError, in_one_line
from regard.models.vqa import parts
from regard.models.vqa.model import Answering
from regard.models.vqa.sight import Regions
from regard.models.vqa.vocabulary import LENGTH, WordVocabulary
from regard.running import undisturbed

TOLERANCE = 1e-3
"""By which a logit may differ, absolutely and of its size: other engines add up in another order."""

_axes: dict[str, tuple[str | None, ...]] = {
    "pictures": ("pictures", None, None, None),
    "features": ("pictures", "regions", None),
    "mask": ("pictures", "regions"),
    "boxes": ("pictures", "regions", None),
    "questions": ("pictures", "questions", "words"),
    "vectors": ("pictures", "questions", None),
}
"""The inputs that a file may have, and which of their sizes may be free."""

# `Any`: what runs an exported file is its engine's.
_Run = Callable[..., Any]


def export(model: Answering, path: Path, words: int | None = None) -> dict[str, Any]:
    """Write a model for PyTorch alone (`.pt2`) or for ONNX (`.onnx`), and beside it, as JSON, all else that it needs.

    The file takes `pictures` `(pictures, 3, size, size)`, or `features`, `mask` and `boxes` of regions, and
    `questions`, the numbers of their words `(pictures, questions, words)`, filled up with 0. It gives the answers'
    logits `(pictures, questions, answers)`. Before it is put in place it is run on more of each than it was made with,
    and on one of each, and compared with the model. ViLT and BLIP answer one question about one picture there.

    Args:
        model: one that `build` or `load` gave.
        path: the file; its ending says which kind.
        words: of a question, where the file fixes their number, as it does of recurrent networks; default 14, or as
            many as the model reads if these are fewer.

    Returns:
        What stands in the JSON: `inputs` with their sizes, as names where any size will do; `view`, the size of a
        picture and by what its colours, from 0 to 1, are normalised; `longest`, the most words of a question, if there
        is a limit; `words` with what parts a question into them; `answers`; `each_alone`, whether their probabilities
        are sigmoids; `compared`, which without onnxruntime a file for ONNX is not. The tokenizer of what came from
        Hugging Face is in the model's folder.

    Raises:
        UserError: the kind is unknown, the model cannot be exported, or the file says something else than the model.
    """
    if path.suffix not in _kinds:
        raise UserError(f"{path} is of no kind that is known: end its name in {' or '.join(_kinds)}")
    if model.recipe is None:
        raise UserError(f"a {type(model).__name__} without recipe has no export: make it with regard.models.vqa.build")
    if model.recipe.image == parts.DETECTOR:
        raise UserError(
            "a model with a detector cannot be exported, since how many regions there are is decided while it runs: "
            "take one that reads a grid, or regions from files"
        )
    most = min(LENGTH, model.longest or LENGTH) if words is None else words
    if most < 1 or (model.longest is not None and most > model.longest):
        raise UserError(
            f"words={most}: expected at least 1, and no more than the model reads, {model.longest or 'any'}"
        )
    sizes = {"pictures": 2, "questions": 3, "regions": 7, "words": most}
    fixed: set[str] = set()
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        fixed = {"words"}  # a recurrent network is written down word by word
    if model.recipe.core in parts.WHOLE:  # their masks are made for the sizes at hand
        fixed = {"pictures", "questions"}
        sizes |= {"pictures": 1, "questions": 1}
    flat, given = _Flat(model), _inputs(model, sizes)
    try:
        with undisturbed(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters' own parts
            free = [
                {at: torch.export.Dim.AUTO for at, axis in enumerate(_axes[name]) if axis and axis not in fixed}
                for name in given
            ]
            program = torch.export.export(flat, tuple(given.values()), dynamic_shapes=(tuple(free),))
            shapes = _shapes(program, given)
            named = {axis for shape in shapes.values() for axis in shape if isinstance(axis, str)}
            more = {axis: size + (axis in named) for axis, size in sizes.items()}
            more["words"] = min(more["words"], model.longest or more["words"])
            one = {axis: 1 if axis in named else size for axis, size in sizes.items()}
            compared = True

            def fill(partial: Path) -> None:
                nonlocal compared
                run = _kinds[path.suffix](program, list(given), partial)
                compared = run is not None
                if run is None:
                    return
                for others in (more, one):
                    inputs = tuple(_inputs(model, others).values())
                    # Other engines answer on the CPU, wherever the model is.
                    close = {"rtol": TOLERANCE, "atol": TOLERANCE, "check_device": False}
                    torch.testing.assert_close(run(*inputs), flat(*inputs), **close)

            files.write(path, fill)
    except UserError:
        raise
    except Exception as error:  # whatever an exporter, or a comparison, stumbles over
        reason = in_one_line(error)[:400]
        raise UserError(f"model {model.recipe.core!r} cannot be exported as {path.suffix}: {reason}") from error
    about = {
        "inputs": shapes,
        "view": None if model.view is None else vars(model.view),
        "longest": model.longest,
        "words": model.vocabulary.as_json() if isinstance(model.vocabulary, WordVocabulary) else None,
        "answers": list(model.answers or ()),
        "each_alone": model.independent,
        "compared": compared,
    }
    files.write_json(path.with_suffix(".json"), about)
    return about


class _Flat(nn.Module):
    """A model whose inputs are tensors, each by itself."""

    def __init__(self, model: Answering) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        *seen, questions = inputs
        return self.model(seen[0] if len(seen) == 1 else Regions(*seen), questions)


def _inputs(model: Answering, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Noise as a model's inputs, with gaps in what may have some, and questions of any of its words."""
    recipe: Any = model.recipe
    weight = next(model.parameters())
    if model.view is None:
        shape = sizes["pictures"], sizes["regions"]
        width = recipe.image_arguments.get("features", 2048)
        corners = torch.rand(*shape, 2, 2).sort(2).values.flatten(2)
        seen = {"features": torch.rand(*shape, width), "mask": _there(shape), "boxes": corners}
    else:
        seen = {"pictures": torch.rand(sizes["pictures"], 3, recipe.size, recipe.size)}
    asked = sizes["pictures"], sizes["questions"]
    # `Any`: every vocabulary here has a length, of which its protocol says nothing.
    vocabulary: Any = model.vocabulary
    if vocabulary is None:
        questions = {"vectors": torch.rand(*asked, recipe.question_arguments["in_width"])}
    else:
        numbers = torch.randint(1, len(vocabulary), (*asked, sizes["words"]))
        padded = isinstance(vocabulary, WordVocabulary)  # others have a number of their own for that
        questions = {"questions": numbers * _there(numbers.shape) if padded else numbers}
    return {name: value.to(weight.device) for name, value in {**seen, **questions}.items()}


def _there(shape: Sequence[int]) -> Bool[Tensor, "..."]:
    """Half of all, so that a file that reads what fills up is found out, and the first of every row."""
    there = torch.rand(shape) < 0.5
    there[..., 0] = True
    return there


def _shapes(program: Any, given: dict[str, Tensor]) -> dict[str, list[int | str]]:
    """The sizes of a program's inputs, by name where they are free."""
    inputs = set(program.graph_signature.user_inputs)
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in inputs]
    return {
        name: [
            int(size) if is_concrete_int(size) else axis or "" for size, axis in zip(shape, _axes[name], strict=True)
        ]
        for name, shape in zip(given, shapes, strict=True)
    }


def _pytorch(program: Any, names: list[str], path: Path) -> _Run:
    """Write a program, and read it again to run it."""
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _onnx(program: Any, names: list[str], path: Path) -> _Run | None:
    """Write a program for ONNX, and read it again to run it where there is an engine."""
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells what it leaves as it is
    # One file, weights and all: those of more than two GB would not fit, and say so.
    torch.onnx.export(
        program, (), path, input_names=names, output_names=["logits"], dynamo=True, verbose=False, external_data=False
    )
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda *inputs: torch.from_numpy(
        session.run(None, {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)})[0]
    )


_kinds = {".pt2": _pytorch, ".onnx": _onnx}
