"""A classifier of timm: what it expects, and building it."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import resolve_data_config
from torch import nn

from regard.errors import UserError, in_one_line
from regard.running import undisturbed


@dataclass(frozen=True)
class Backbone:
    """A model of timm by its name.

    Attributes:
        name: as in `timm.list_models()`, with or without the tag of its weights.
        pretrained: whether it starts from published weights.
        mean, deviation: of the colours that it was trained with.
        interpolation: by which its pictures were resized.
        own_size: the side of the pictures that it was made for.
        fixed_size: whether it must be told another one.
    """

    name: str
    pretrained: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: Image.Resampling
    own_size: int
    fixed_size: bool

    def build(self, classes: int, size: int, seed: int) -> nn.Module:
        """A fresh model in training mode. Draws from PyTorch's global generator, seeded anew.

        Raises:
            UserError: it cannot take pictures of that size, or its weights cannot be had.
        """
        # `Any`: which arguments a model of timm takes depends on its name.
        arguments: dict[str, Any] = {"num_classes": classes, **({"img_size": size} if self.fixed_size else {})}
        torch.default_generator.manual_seed(seed)
        try:
            model = timm.create_model(self.name, pretrained=False, **arguments)
            with undisturbed(model):
                gives = model(torch.zeros(1, 3, size, size)).shape
            # Some models of timm refuse such a size themselves, others cut off what makes no whole patch.
            patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
            if isinstance(patch, (tuple, list)) and any(size % side for side in patch):
                raise ValueError(f"{size} pixels are no whole number of its patches of {patch[0]}")
        except Exception as error:
            raise UserError(
                f"the backbone {self.name!r} cannot be built for pictures of {size} x {size} ({_line(error)}): "
                f"its own size is {self.own_size}; try --size {self.own_size} or another backbone"
            ) from error
        if gives != (1, classes):
            raise UserError(
                f"the backbone {self.name!r} gives {tuple(gives)} for one picture, expected (1, {classes}), one number "
                "a class: choose a classifier"
            )
        if not self.pretrained:
            return model
        torch.default_generator.manual_seed(seed)
        try:
            return timm.create_model(self.name, pretrained=True, **arguments)
        except Exception as error:
            raise UserError(
                f"the pretrained weights of {self.name!r} cannot be had ({_line(error)}): they come from the Hugging "
                "Face Hub or from its cache on this machine (HF_HOME); connect, copy a cache, or leave out --pretrained"
            ) from error


def backbone(name: str, pretrained: bool) -> Backbone:
    """The backbone of that name.

    Raises:
        UserError: timm has none, or none with weights where they are wanted.
    """
    if not timm.is_model(name):
        raise UserError(f"unknown backbone {name!r}: {_nearest(name, timm.list_models())}")
    if ("." in name or pretrained) and not timm.is_model_pretrained(name):
        own = timm.list_pretrained(name.partition(".")[0])
        if "." in name:
            raise UserError(f"unknown weights {name!r}: {_nearest(name, own)}")
        raise UserError(
            f"timm has no pretrained weights for {name!r}, expected a backbone that has some: choose another one or "
            "leave out --pretrained"
        )
    settings = timm.models.get_pretrained_cfg(name)
    data = resolve_data_config(pretrained_cfg=settings.to_dict() if settings else {})
    interpolation = data["interpolation"].upper()
    return Backbone(
        name=name,
        pretrained=pretrained,
        mean=tuple(data["mean"]),
        deviation=tuple(data["std"]),
        interpolation=Image.Resampling[interpolation if interpolation in Image.Resampling.__members__ else "BICUBIC"],
        own_size=data["input_size"][-1],
        fixed_size=bool(settings and settings.fixed_input_size),
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "the nearest are " + ", ".join(near)
    return f"expected one of timm's {len(known)}, such as resnet18; `timm.list_models()` lists them"


def _line(error: Exception) -> str:
    text = in_one_line(error)
    return text.rstrip(".") if len(text) <= 200 else text[:199] + "…"
