"""A model by its name: of timm, of torchvision, or anybody's own function. Random weights; nothing is downloaded."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial, reduce
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regard.commands import pip_install
from regard.errors import UserError, in_one_line
from regard.extras import naming_extras, requirement_of
from regard.running import inputs_of

_VIDEO_FRAMES = 16


@dataclass(frozen=True)
class Named:
    """A model that was found by its name.

    Attributes:
        name: where it was found: `"timm:resnet50"`, `"torchvision:resnet50"`, `"package.module:function"`.
        _make: builds it, for pictures of that side where it must know, else of its own.
        _example: from the built model, the side of pictures (its own without one) and the batch size to its inputs.
    """

    name: str
    _make: Callable[[int | None], nn.Module]
    _example: Callable[[nn.Module, int | None, int], tuple[Any, ...]]

    def build(self, size: int | None = None) -> nn.Module:
        """The model, with the same random weights each time; the global random state stays as it was.

        Args:
            size: the side of the pictures that it will be given; None for those that it was made for.

        Raises:
            UserError: it cannot be built, or not for that size.
        """
        doing = f"{self.name} cannot be built" + (f" for pictures of {size}×{size}" if size else "")
        with one_line(doing), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how a library means to initialise or to name things in future
            torch.manual_seed(0)
            model = self._make(size)
        if not isinstance(model, nn.Module):
            raise UserError(
                f"{self.name} gives a {type(model).__name__}, expected an nn.Module or a function that does"
            )
        return model

    def example(self, model: nn.Module, size: int | None = None, batch: int = 1) -> tuple[Any, ...]:
        """Noise as inputs of the model that `build` gave.

        Raises:
            UserError: its inputs are not known.
        """
        return self._example(model, size, batch)


def find(name: str, others: tuple[str, ...] = ()) -> Named:
    """The model of that name.

    Args:
        name: a name of timm, or of torchvision where timm has none; `timm:NAME` and `torchvision:NAME` say which;
            `package.module:function` is a function that is called without arguments, or a model itself. The current
            folder is searched for that package too.
        others: what else could have been meant, for the message.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    library, colon, rest = name.partition(":")
    if colon and library not in ("timm", "torchvision"):
        return Named(name, partial(_own, library, rest), _known_example)
    for each in (library,) if colon else ("timm", "torchvision"):
        found = _LIBRARIES[each](rest if colon else name)
        if found:
            return found
    there = _names(*((library,) if colon else ("timm", "torchvision")))
    known = {*there, *others}
    near = get_close_matches((rest if colon else name).lower(), known, n=3, cutoff=0.6)
    if not there and not near:
        raise UserError(
            f"{name!r} cannot be looked up, since neither timm nor torchvision is installed: "
            f"{pip_install(requirement_of('timm') or 'timm')}, or give package.module:function"
        )
    hint = f"did you mean {' or '.join(near)}?" if near else "give a name of timm or torchvision."
    raise UserError(f"unknown model {name!r}: {hint} A model of your own is package.module:function")


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """Whatever goes wrong in somebody's model becomes one line that begins with `doing`."""
    try:
        with naming_extras():
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{doing}: {in_one_line(error)}") from error


def _timm(name: str) -> Named | None:
    try:
        import timm
    except ImportError:
        return None
    if not timm.is_model(name):
        return None

    def make(size: int | None) -> nn.Module:
        settings = timm.models.get_pretrained_cfg(name)
        # `Any`: which arguments a model of timm takes depends on its name.
        arguments: dict[str, Any] = {"img_size": size} if size and settings and settings.fixed_input_size else {}
        return timm.create_model(name, pretrained=False, **arguments)

    return Named(f"timm:{name}", make, _known_example)


def _torchvision(name: str) -> Named | None:
    try:
        from torchvision import models
    except ImportError:
        return None
    if name not in models.list_models():
        return None
    builder = models.get_model_builder(name)
    kind = builder.__module__

    def make(size: int | None) -> nn.Module:
        arguments: dict[str, Any] = {"weights": None}
        if "weights_backbone" in signature(builder).parameters:
            arguments["weights_backbone"] = None  # by default a detector or segmenter downloads it
        if size and kind.endswith(".vision_transformer"):
            arguments["image_size"] = size
        return builder(**arguments)

    def example(model: nn.Module, size: int | None, batch: int) -> tuple[Any, ...]:
        side = size or _own_size(models.get_model_weights(name), model)
        if ".detection." in kind:
            return ([_noise(model, 3, side, side) for _ in range(batch)],)
        if ".optical_flow." in kind:
            return _noise(model, batch, 3, side, side), _noise(model, batch, 3, side, side)
        if ".video." in kind:
            return (_noise(model, batch, 3, _VIDEO_FRAMES, side, side),)
        return (_noise(model, batch, 3, side, side),)

    return Named(f"torchvision:{name}", make, example)


_LIBRARIES: dict[str, Callable[[str], Named | None]] = {"timm": _timm, "torchvision": _torchvision}


def _own(module: str, attribute: str, size: int | None) -> Any:
    """What stands in somebody's module: a model, or what a function gives that is called without arguments."""
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does
    try:
        found = import_module(module)
    finally:
        sys.path.remove(here)
    try:
        value = reduce(getattr, attribute.split("."), found)
    except AttributeError:
        near = get_close_matches(attribute, [key for key in vars(found) if not key.startswith("_")], n=3)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"module {module!r} has no {attribute!r}{hint}") from None
    return value if isinstance(value, nn.Module) or not callable(value) else value()


def _names(*libraries: str) -> list[str]:
    names: list[str] = []
    for library in libraries:
        try:
            names += (import_module("timm") if library == "timm" else import_module("torchvision.models")).list_models()
        except ImportError:
            continue
    return names


# `Any`: an enumeration of torchvision's own, whose members hold how pictures are prepared.
def _own_size(weights: Any, model: nn.Module) -> int:
    """The side of the pictures that a model of torchvision was made for."""
    built = getattr(model, "image_size", None)  # of a vision transformer
    if isinstance(built, int):
        return built
    arguments = getattr(weights.DEFAULT.transforms, "keywords", {})
    size = arguments.get("crop_size", arguments.get("resize_size", 224))
    return size[0] if isinstance(size, (tuple, list)) else size


def _known_example(model: nn.Module, size: int | None, batch: int) -> tuple[Any, ...]:
    """One picture a sample, of the channels and size that timm notes in its models."""
    channels, height, width = 3, size, size
    settings = getattr(model, "pretrained_cfg", None) or {}
    known = settings.get("input_size") if isinstance(settings, dict) else None
    if known:
        channels, height, width = known[0], size or known[1], size or known[2]
    if height is None or width is None:
        raise UserError(
            f"the input of {type(model).__name__} is not known: give --size 224 for pictures (batch, 3, 224, 224), "
            "or a --shape such as 1,3,16,112,112"
        )
    return (_noise(model, batch, channels, height, width),)


def _noise(model: nn.Module, *shape: int) -> Tensor:
    return inputs_of(model, shape).positional[0]
