"""Pictures as a model takes them, and what a frozen encoder makes of them, computed once and kept."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from regard import files
from regard.errors import UserError
from regard.models.decoding import KEPT_BYTES
from regard.models.vqa import Answering, Regions, Sight
from regard.models.vqa.view import View
from regard.running import undisturbed
from regard.tasks.batching import Epoch, in_batches
from regard.tasks.vqa.question import Identifier, Question, Questions
from regard.tasks.vqa.regions import RegionArchive, read_regions

Seen = Tensor | Regions
"""What a model takes for a picture, without the axis of a batch."""

SOME = 64
"""Pictures in a forward without gradients."""


class RegionFiles:
    """The regions of each picture from files.

    Args:
        path: an HDF5 file, see `RegionArchive`, or a folder of one `.npz` a picture.

    Raises:
        UserError: there is no such file or folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UserError(f"there is no {path}: expected an HDF5 file of region features, or a folder of .npz")
        self._path = path
        self._archive = None if path.is_dir() else RegionArchive(path)

    def __call__(self, question: Question) -> Regions:
        """Those of the picture of a question, found by its `image_id` or by the name of its file.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        name = self.find(question)
        return (read_regions(self._path / f"{name}.npz") if self._archive is None else self._archive[name]).for_model()

    def find(self, question: Question) -> Identifier:
        """What the picture of a question is called there.

        Raises:
            UserError: it is not there.
        """
        file = question.image if isinstance(question.image, Path) else None
        own = [] if file is None else [file.name, file.stem]
        for name in (*own, question.image_id):
            if name is not None and self._has(name):
                return name
        raise UserError(
            f"{self._path} has no regions of {file or f'picture {question.image_id}'}: expected them under the name of "
            "the file or its image_id; extract them, or leave out the questions about it"
        )

    def _has(self, name: Identifier) -> bool:
        return (self._path / f"{name}.npz").is_file() if self._archive is None else name in self._archive


def seeing(
    questions: Questions, view: Callable[[Any], Any] | None, size: int, regions: RegionFiles | None
) -> Callable[[int], Seen]:
    """What gives what a model takes for the picture of a question: bytes, to be normalised where the model is."""
    if regions is not None:
        return lambda index: regions(questions[index])
    if isinstance(view, View):
        return lambda index: view.pixels(questions.picture(index, size))
    raise UserError("the model sees no pictures: give regions=, the features that it reads")


class Features:
    """What a frozen encoder makes of pictures, each computed once.

    In memory they are exactly what the encoder gives. In a file, which takes those of more than `KEPT_BYTES` if there
    is a folder for it, they have 16 bits, and are found again by a later run over the same pictures and encoder.

    Args:
        model: whose encoder; nothing in it may be trained.
        encoder: its `digest`.
        first: a question about each picture.
        see: as of `Asked`.
        names: what tells each picture from others, and from what it was before it was changed.
        folder: as of `Asked`.
        report: told how many pictures more were seen.
    """

    def __init__(
        self,
        model: Answering,
        encoder: str,
        first: Sequence[int],
        see: Callable[[int], Seen],
        names: Sequence[str],
        folder: Path | None,
        report: Callable[[int], None],
    ) -> None:
        self.encoder, self.dtype = encoder, weight_of(model).dtype
        self._first, self._see = first, see
        sight = self._encoded(model, [see(first[0])])
        self._grid, self._width = sight.grid, sight.tokens.shape[2]
        # A detector proposes fewer regions in some pictures than in others; what is not there is marked.
        tokens = sight.tokens.shape[1] if sight.mask is None else int(getattr(encoder_of(model), "regions", 0))
        shape = (len(first), tokens, self._width + (0 if sight.mask is None else 5))
        if folder is None or 4 * math.prod(shape) <= KEPT_BYTES:
            self._values = np.zeros(shape, np.float32)
            self._fill(model, self._values, report)
        else:
            known = hashlib.sha256("\n".join([encoder, str(shape), *names]).encode()).hexdigest()[:16]
            path = folder / f"features-{known}.npy"
            if not path.exists():
                files.write(path, lambda partial: self._fill(model, _on_disk(partial, shape), report))
            self._values = np.load(path, mmap_mode="r")

    def sight(self, pictures: Int[Tensor, " B"], model: Answering) -> Sight:
        """What was made of these pictures, where a model of this encoder is and in its number format."""
        weight = weight_of(model)
        values = torch.from_numpy(self._values[pictures.cpu().numpy()]).to(weight.device, weight.dtype)
        if values.shape[2] == self._width:
            return Sight(values, grid=self._grid)
        tokens, boxes, there = values.split([self._width, 4, 1], 2)
        return Sight(tokens, there[..., 0] > 0.5, boxes=boxes)

    def _fill(self, model: Answering, values: np.ndarray, report: Callable[[int], None]) -> None:
        epoch = Epoch(
            in_batches(range(len(self._first)), SOME),
            lambda picture: self._see(self._first[picture]),
            lambda pictures, seen: (pictures, seen),
        )
        for pictures, seen in epoch:
            sight = self._encoded(model, seen)
            columns = [sight.tokens]
            if sight.mask is not None and sight.boxes is not None:
                columns += [sight.boxes, sight.mask[..., None].to(sight.tokens.dtype)]
            found = torch.cat(columns, 2).float().cpu().numpy()
            values[pictures, : found.shape[1]] = found
            report(len(pictures))

    @staticmethod
    def _encoded(model: Answering, seen: list[Seen]) -> Sight:
        device = weight_of(model).device
        # As it is outside of training, where some arithmetic may have fewer bits.
        with undisturbed(model), torch.autocast(device.type, enabled=False):
            return model.see(like(together(seen, device), model))


def together(seen: Sequence[Seen], device: torch.device) -> Seen:
    """What the model takes for several pictures: regions are filled up to the most that one of them has."""
    pictures = [one for one in seen if isinstance(one, Tensor)]
    if pictures:
        return torch.stack(pictures).to(device)
    regions = [one for one in seen if isinstance(one, Regions)]
    there = [torch.ones(len(one.features), dtype=torch.bool) if one.mask is None else one.mask for one in regions]
    boxes = [one.boxes for one in regions if one.boxes is not None]
    features, mask, *places = (
        pad_sequence(each, batch_first=True).to(device)
        for each in ([one.features for one in regions], there, *([boxes] if len(boxes) == len(regions) else []))
    )
    return Regions(features, mask, *places)


def like(seen: Seen, model: Answering) -> Seen:
    """As the model takes them: where it is, in its number format, and pixels in the colours that it expects."""
    weight = weight_of(model)
    if isinstance(seen, Regions):
        features, mask, boxes = (None if x is None else x.to(weight.device) for x in seen)
        boxes = None if boxes is None else boxes.to(weight.dtype)
        return Regions(cast(Tensor, features).to(weight.dtype), mask, boxes)
    seen = seen.to(weight.device)
    if not seen.is_floating_point() and isinstance(model.view, View):
        seen = model.view.normalized(seen)
    return seen.to(weight.dtype)


def weight_of(model: Answering) -> Tensor:
    """One of its weights, which tells where the model is, and its number format."""
    return next(weight for weight in model.parameters() if weight.is_floating_point())


def fixed(model: Answering) -> bool:
    """Whether the encoder of pictures is one that training does not change."""
    weights = list(encoder_of(model).parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def encoder_of(model: Answering) -> nn.Module:
    """What sees the pictures: of models of `transformers`, all of it."""
    return getattr(model, "sight", model)


def digest(model: Answering) -> str:
    """What tells one encoder of pictures from others: its weights."""
    found = hashlib.sha256()
    for name, value in encoder_of(model).state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def identify(identity: object) -> str:
    """What tells a picture from others, and a file from what it was before it was changed."""
    if isinstance(identity, Path):
        about = identity.stat()
        return f"{identity} {about.st_size} {about.st_mtime_ns}"
    return str(identity)


def _on_disk(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
