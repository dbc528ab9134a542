"""Region features from files: what a detector saw in each of 10 to 100 boxes of a picture.

Anderson et al., “Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering”, CVPR 2018. The
field passes them on as one `.npz` a picture (openvqa, MILVLG/bottom-up-attention.pytorch) or one HDF5 file for all
(hengyuan-hu/bottom-up-attention-vqa with 36 boxes, jnhwkim/ban-vqa with 10 to 100, GQA with up to 100).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from regard.commands import pip_install
from regard.errors import UserError
from regard.models.vqa import sight
from regard.tasks.vqa.question import Identifier

MOST = 100
"""Boxes of a picture at most, as in the adaptive features of the paper."""

_features = ("x", "features", "image_features")
_boxes = ("bbox", "boxes", "bboxes", "image_bb")
_counts = ("num_bbox", "num_boxes")
_widths = ("image_w", "width")
_heights = ("image_h", "height")
_ranges = ("pos_boxes",)
_ids = ("image_ids", "image_id", "ids")


@dataclass(frozen=True)
class Regions:
    """The regions of one picture.

    Attributes:
        features: a vector for each box.
        boxes: left, top, right and bottom, in pixels of the picture.
        size: width and height of the picture, where the file says.
    """

    features: Float[Tensor, "boxes channels"]
    boxes: Float[Tensor, "boxes 4"]
    size: tuple[float, float] | None = None

    def relative(self) -> Float[Tensor, "boxes 4"]:
        """The boxes with the picture's width and height as 1.

        Raises:
            UserError: the file does not say how large the picture is.
        """
        if self.size is None:
            raise UserError(
                "the file of these regions does not say how large the picture is: expected its width and height for "
                "relative boxes; divide the boxes by them yourself"
            )
        width, height = self.size
        return self.boxes / self.boxes.new_tensor([width, height, width, height])

    def for_model(self) -> sight.Regions:
        """What a model takes; without boxes where the file does not say how large the picture is."""
        return sight.Regions(self.features, None, None if self.size is None else self.relative())


@dataclass(frozen=True)
class RegionBatch:
    """The regions of several pictures, filled up with zeros to the most that one of them has.

    Attributes:
        features: a vector for each box.
        boxes: as in `Regions`.
        mask: True for what is a box.
    """

    features: Float[Tensor, "B boxes channels"]
    boxes: Float[Tensor, "B boxes 4"]
    mask: Bool[Tensor, "B boxes"]


def padded(regions: Sequence[Regions], *, relative: bool = False, length: int | None = None) -> RegionBatch:
    """A batch of pictures.

    Args:
        regions: of each picture.
        relative: give the boxes relative to the pictures' sizes.
        length: fill up to so many boxes, as where all batches must have one shape, instead of to the most there are.

    Raises:
        UserError: there are none, they differ in width, or a picture has more boxes than `length`.
    """
    widths = {one.features.shape[1] for one in regions}
    if len(widths) != 1:
        found = ", ".join(map(str, sorted(widths))) or "nothing"
        raise UserError(
            f"region features of widths {found}: expected one width in a batch; take them from one detector"
        )
    most = max(one.features.shape[0] for one in regions)
    if length is not None and most > length:
        raise UserError(f"a picture with {most} boxes: expected at most length={length}; read fewer with most={length}")
    shape = (len(regions), most if length is None else length)
    features = regions[0].features.new_zeros(*shape, *widths)
    boxes = regions[0].boxes.new_zeros(*shape, 4)
    mask = torch.zeros(shape, dtype=torch.bool, device=features.device)
    for at, one in enumerate(regions):
        count = one.features.shape[0]
        features[at, :count] = one.features
        boxes[at, :count] = one.relative() if relative else one.boxes
        mask[at, :count] = True
    return RegionBatch(features, boxes, mask)


def read_regions(path: Path, *, most: int = MOST) -> Regions:
    """The regions in an `.npz` file: `x` or `features`, `bbox` or `boxes`, and `num_bbox` where it is filled up.

    Features may lie in rows or, as those for openvqa's VQA do, in columns; the number of boxes tells which.

    Args:
        path: the file, often named after the picture: `COCO_val2014_000000000042.jpg.npz`.
        most: take the first so many boxes.

    Raises:
        UserError: the file is missing, broken, or does not hold that.
    """
    try:
        # NumPy leaves a broken file open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            values = {
                what: archive[name]
                for what, known in (
                    ("features", _features),
                    ("boxes", _boxes),
                    ("count", _counts),
                    ("width", _widths),
                    ("height", _heights),
                )
                if (name := next((name for name in known if name in names), None)) is not None
            }
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: expected region features in .npz; check the path") from error
    except Exception as error:  # whatever NumPy stumbles over in a broken archive
        raise UserError(f"{path} cannot be read ({error}): expected an .npz file of numbers; write it anew") from error
    for what, known in (("features", _features), ("boxes", _boxes)):
        if what not in values:
            raise UserError(
                f"{path} holds {', '.join(names) or 'nothing'} and no {what}: expected them under "
                f"{' or '.join(map(repr, known))}; rename them"
            )
    size = (
        (float(values["width"].item()), float(values["height"].item()))
        if {"width", "height"} <= values.keys()
        else None
    )
    return _regions(values["features"], values["boxes"], values.get("count"), size, most, str(path))


class RegionArchive:
    """Region features in HDF5, of which one picture is read at a time. Needs h5py.

    Three layouts are known: `image_features` and `image_bb` with the same number of boxes for all pictures; the same in
    one long row with `pos_boxes`, where each picture's begin and end (ban-vqa); `features` and `bboxes` with the
    numbers of boxes in a JSON file beside them, over several files (GQA).

    Args:
        paths: the file, or several in the order that the index counts them.
        index: where each picture is: a mapping from its id to its place, a JSON file of one, or
            `gqa_objects_info.json`. Without it, the file's own `image_ids`.
        most: take the first so many boxes of a picture.

    Raises:
        UserError: a file is missing or not in one of these layouts, or h5py is not installed.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        index: Mapping[Any, Any] | Path | None = None,
        *,
        most: int = MOST,
    ) -> None:
        self._paths = [paths] if isinstance(paths, Path) else list(paths)
        self._most = most
        self._files: dict[tuple[int, int], Any] = {}
        if isinstance(index, Path):
            index = _read_index(index)
        if index is None:
            index = {_plain(name): place for place, name in enumerate(self._member(0, _ids, "ids of pictures")[:])}
        # JSON has no integers for keys.
        self._places = {str(name): place for name, place in index.items()}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, image_id: object) -> bool:
        return str(image_id) in self._places

    def __getitem__(self, image_id: Identifier) -> Regions:
        """The regions of one picture.

        Raises:
            UserError: the archive does not have it.
        """
        if image_id not in self:
            raise UserError(
                f"{self._paths[0]} has no regions of picture {image_id}, only of {len(self)} others: extract them, or "
                "leave out the questions about it"
            )
        file, place, count, size = _place(self._places[str(image_id)])
        features = self._member(file, _features, "features")
        boxes = self._member(file, _boxes, "boxes")
        name = f"{self._paths[file]}, picture {image_id}"
        if features.ndim == 2:
            start, end = (
                int(value) for value in self._member(file, _ranges, "first and last boxes of pictures")[place]
            )
            return _regions(features[start:end], boxes[start:end], None, size, self._most, name)
        return _regions(features[place], boxes[place], count, size, self._most, name)

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay behind, as in `_open`."""
        return self.__dict__ | {"_files": {}}

    def _member(self, file: int, names: Sequence[str], what: str) -> Any:
        archive = self._open(file)
        found = next((name for name in names if name in archive), None)
        if found is None:
            raise UserError(
                f"{self._paths[file]} holds {', '.join(archive) or 'nothing'} and no {what}: expected them under "
                f"{' or '.join(map(repr, names))}" + ("; or give index=" if names is _ids else "")
            )
        return archive[found]

    def _open(self, file: int) -> Any:
        # Each worker of a data loader opens its own: HDF5 does not bear a file that a forked process has open too.
        key = (os.getpid(), file)
        if key not in self._files:
            try:
                import h5py  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise UserError(f"reading HDF5 needs h5py, which is not installed: {pip_install('h5py')}") from error
            if file >= len(self._paths):
                raise UserError(
                    f"the index counts file {file}: expected at most {len(self._paths) - 1}; give all files"
                )
            try:
                self._files[key] = h5py.File(self._paths[file], "r")
            except OSError as error:
                raise UserError(
                    f"{self._paths[file]} cannot be read ({error}): expected region features in HDF5; check the path"
                ) from error
        return self._files[key]


def _regions(
    features: np.ndarray,
    boxes: np.ndarray,
    count: Any,
    size: tuple[float, float] | None,
    most: int,
    name: str,
) -> Regions:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or features.ndim != 2 or len(boxes) not in features.shape:
        raise UserError(
            f"{name}: features of shape {features.shape} with boxes of shape {boxes.shape}: expected (boxes, width) "
            "and (boxes, 4); write them anew"
        )
    if features.shape[0] != len(boxes):
        features = features.T
    used = min(most, len(boxes) if count is None else int(np.asarray(count).item()))
    return Regions(
        torch.from_numpy(np.ascontiguousarray(features[:used], np.float32)),
        torch.from_numpy(np.ascontiguousarray(boxes[:used], np.float32)),
        size,
    )


def _place(entry: Any) -> tuple[int, int, int | None, tuple[float, float] | None]:
    """File, place in it, number of boxes and size of the picture; GQA's index has all, others the place alone."""
    if isinstance(entry, Mapping):
        size = (float(entry["width"]), float(entry["height"])) if {"width", "height"} <= entry.keys() else None
        count = entry.get("objectsNum")
        return int(entry.get("file", 0)), int(entry["index"]), None if count is None else int(count), size
    return 0, int(entry), None, None


def _read_index(path: Path) -> Mapping[Any, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected the places of pictures in JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}: expected an object from ids of pictures to places")
    return value


def _plain(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
