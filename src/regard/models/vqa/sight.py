"""The image side: what a picture is to whoever reads it, and what makes that of pixels or of given regions."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from regard import functional
from regard.attention import ShapeError, offering
from regard.attention.layout import map_to_tokens
from regard.errors import UserError

WAVELENGTHS = (4, 8, 16, 32)
"""Of the sines and cosines that say where a cell lies, in cells."""


class Regions(NamedTuple):
    """Features of the regions of pictures, as a detector or a file of features gives them.

    Attributes:
        features: one vector a region; pictures of fewer regions are filled up.
        mask: True = a region of the picture; None: all are.
        boxes: left, top, right and bottom of each, in shares of the picture's width and height.
    """

    features: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"] | None = None
    boxes: Float[Tensor, "B N 4"] | None = None


@dataclass(frozen=True)
class Sight:
    """A picture, encoded once for all of its questions.

    Attributes:
        tokens: its cells, row by row, or its regions; zero where none takes part, whatever is given there.
        mask: True = takes part; None: all do.
        grid: `(height, width)` of the cells; None for regions.
        boxes: of regions, left, top, right and bottom in shares of the picture's width and height; zero as the tokens.
    """

    tokens: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"] | None = None
    grid: tuple[int, int] | None = None
    boxes: Float[Tensor, "B N 4"] | None = None

    def __post_init__(self) -> None:
        if self.mask is not None:  # here once for every core: what fills up a picture may hold NaN
            nothing = ~self.mask[..., None]
            object.__setattr__(self, "tokens", self.tokens.masked_fill(nothing, 0.0))
            if self.boxes is not None:
                object.__setattr__(self, "boxes", self.boxes.masked_fill(nothing, 0.0))

    def repeated(self, questions: int) -> "Sight":
        """The picture once for each of its questions, `(B·Q, N, D)`: for what cannot read for several at once."""

        def each(x: Tensor) -> Tensor:
            return x[:, None].expand(-1, questions, *x.shape[1:]).flatten(0, 1)

        mask, boxes = (None if x is None else each(x) for x in (self.mask, self.boxes))
        return Sight(each(self.tokens), mask, self.grid, boxes)

    def looking(self) -> AbstractContextManager[None]:
        """Inside, whoever watches learns over which grid the tokens that are read lie; regions lie in a row."""
        return offering.over_grid(self.grid or (self.tokens.shape[1],)) if offering.listening() else nullcontext()

    def mean(self) -> Float[Tensor, "B D"]:
        """The mean of the tokens that take part."""
        if self.mask is None:
            return self.tokens.mean(1)
        share = self.mask.to(self.tokens.dtype)
        share = share / share.sum(1, keepdim=True).clamp(min=1)
        return torch.bmm(share[:, None], self.tokens)[:, 0]

    def as_map(self) -> Float[Tensor, "B D h w"]:
        """The cells where they lie.

        Raises:
            UserError: the tokens are no cells of a grid, or some of them do not take part.
        """
        if self.grid is None or self.mask is not None:
            raise UserError(
                "this model convolves over the picture's grid and got regions: encode pictures with GridEncoder, "
                "or take a model that reads regions"
            )
        return self.tokens.transpose(1, 2).unflatten(2, self.grid)

    def coordinates(self) -> Float[Tensor, "B N 2"]:
        """Where every token's centre lies, x before y, from -1 to 1.

        The outermost cells of a grid lie at -1 and 1, as in FiLM; a region at its box's centre.

        Raises:
            UserError: neither a grid nor boxes are known.
        """
        if self.boxes is not None:
            return self.boxes.unflatten(2, (2, 2)).sum(2) - 1  # (left + right, top + bottom) - 1
        if self.grid is None:
            raise UserError(
                "where the regions lie is not known: give them with boxes, or build the model with coordinates=False"
            )
        like = {"device": self.tokens.device, "dtype": self.tokens.dtype}
        across, down = (
            torch.linspace(-1, 1, size, **like) if size > 1 else torch.zeros(1, **like) for size in self.grid[::-1]
        )
        xy = torch.stack((across.expand(*self.grid), down[:, None].expand(*self.grid)), 2)  # (h, w, 2)
        return xy.flatten(0, 1).expand(self.tokens.shape[0], -1, -1)


class GridPosition(nn.Module):
    """Where a cell lies: a projection of its row and column and of their sines and cosines.

    Wavelengths of 4, 8, 16 and 32 cells, as in Vaswani et al. 2017 but for a grid: a step to the side is a rotation,
    and the plain coordinates make "further left" a difference. Any grid size.

    Args:
        width: width `D` of a cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * (1 + 2 * len(WAVELENGTHS)), width)

    def forward(self, rows: int, columns: int) -> Float[Tensor, "D h w"]:
        weight = self.project.weight
        axes = []
        for cells in (rows, columns):
            place = torch.arange(cells, device=weight.device, dtype=weight.dtype)
            angles = [2 * torch.pi * place / wavelength for wavelength in WAVELENGTHS]
            axes.append(torch.stack([place / 8, *(wave(angle) for angle in angles for wave in (torch.sin, torch.cos))]))
        down, across = axes  # (features, h), (features, w)
        grid = torch.cat([down[:, :, None].expand(-1, -1, columns), across[:, None].expand(-1, rows, -1)])
        return self.project(grid.movedim(0, -1)).movedim(-1, 0)  # (D, h, w)


class LearnedPosition(nn.Module):
    """Where a cell lies: a learned vector of its row and one of its column, added up.

    Args:
        width: width `D` of a cell.
        rows: most rows of cells that a picture has.
        columns: most columns.
    """

    def __init__(self, width: int, rows: int, columns: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(width, rows, 1) * 0.02)
        self.column = nn.Parameter(torch.randn(width, 1, columns) * 0.02)

    def forward(self, rows: int, columns: int) -> Float[Tensor, "D h w"]:
        most = self.row.shape[1], self.column.shape[2]
        if rows > most[0] or columns > most[1]:
            raise ShapeError(
                f"LearnedPosition got {rows} by {columns} cells, expected at most {most[0]} by {most[1]}, as many as "
                "were learned: give smaller pictures, or take positions='sines'."
            )
        return self.row[:, :rows] + self.column[:, :, :columns]


class GridEncoder(nn.Module):
    """The last feature map of a convolutional network or vision transformer: every cell is a token.

    Args:
        backbone: a name of timm (`timm.list_models()`), or a module from pictures to maps `(B, D, h, w)`.
        width: the channels `D` of a module's maps; a timm model knows its own.
        pretrained: whether a timm model starts from published weights.
        frozen: whether the backbone stays as it is, in evaluation mode, as in all of the earlier papers.
        positions: what is added to a cell to say where it lies: `"sines"`, a projection of waves (`GridPosition`);
            `"learned"`, vectors of its row and column (`LearnedPosition`); default None, nothing.
        grid: most rows and columns of cells, for which positions are learned.
        colours: `(ground, scale)`: of a byte `x` the backbone sees `(x - ground) / scale`; default (0, 255).

    Shapes:
        pictures `(B, 3, H, W)`: bytes, or numbers just as the backbone expects them. Gives a `Sight` with its grid.

    Raises:
        UserError: timm has no such model, or it gives no feature maps; or a module came without `width`; or positions
            of another kind, or to be learned without `grid`.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        width: int | None = None,
        pretrained: bool = False,
        frozen: bool = False,
        positions: Literal["sines", "learned"] | None = None,
        grid: Sequence[int] | None = None,
        colours: Sequence[int | float] = (0, 255),
    ) -> None:
        super().__init__()
        if isinstance(backbone, str):
            self.backbone, self.width = _timm_features(backbone, pretrained)
        elif width is None:
            raise UserError(f"GridEncoder got a {type(backbone).__name__} without its width: give width=, its channels")
        else:
            self.backbone, self.width = backbone, width
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
            self.backbone.eval()
        self.position = _position(self.width, positions, grid)
        self.ground, self.scale = colours

    def train(self, mode: bool = True) -> "GridEncoder":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, pictures: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B 3 H W"]) -> Sight:
        if not pictures.is_floating_point():
            weight = next(self.backbone.parameters(), torch.empty(0))
            # Convolutions are fastest so, and bytes are copied here anyway.
            pictures = pictures.to(weight.dtype, memory_format=torch.channels_last)
            pictures = (pictures - self.ground) / self.scale
        maps = self.backbone(pictures)
        x: Tensor = maps[-1] if isinstance(maps, (list, tuple)) else maps
        if x.ndim == 4 and x.shape[1] != self.width and x.shape[3] == self.width:
            x = x.movedim(3, 1)  # timm's hierarchical transformers keep channels last
        if x.ndim != 4 or x.shape[1] != self.width:
            raise ShapeError(
                f"GridEncoder got maps of shape {tuple(x.shape)} from its backbone, expected "
                f"(batch, {self.width}, height, width): give width= as its channels, and leave its pooling out."
            )
        if self.position is not None:
            x = x + self.position(x.shape[2], x.shape[3])
        return Sight(map_to_tokens(x), grid=(x.shape[2], x.shape[3]))


def _position(width: int, kind: str | None, grid: Sequence[int] | None) -> nn.Module | None:
    if kind not in (None, "sines", "learned"):
        raise UserError(f"positions={kind!r}: choose one of 'sines', 'learned', None")
    if (kind == "learned") != (grid is not None):
        raise UserError(f"positions={kind!r} with grid={grid}: positions are learned for a grid, (rows, columns)")
    if grid is not None:
        return LearnedPosition(width, *grid)
    return None if kind is None else GridPosition(width)


def convolutions(
    widths: Sequence[int] = (24, 24, 24, 24),
    normalization: Literal["batch", "group"] = "batch",
    strides: Sequence[int] | None = None,
    normalize_first: bool = False,
) -> nn.Sequential:
    """The small network that sort-of-CLEVR is read with: 3 by 3 convolutions, each with a `relu` and a normalisation.

    Four of 24 and of stride 2 as in the relation network (Santoro et al., NeurIPS 2017): pictures of 75 by 75 become
    5 by 5 cells.

    Args:
        widths: channels behind every layer; the last one is the `width` that `GridEncoder` is told.
        normalization: `"batch"`, the paper's, or `"group"`: eight groups, or as many below as divide the width.
        strides: of every layer; default 2.
        normalize_first: whether the normalisation stands between a convolution, which then has no bias, and its
            `relu`; default False: behind both, as in the paper.

    Raises:
        UserError: not as many strides as widths.
    """
    strides = (2,) * len(widths) if strides is None else strides
    if len(strides) != len(widths):
        raise UserError(f"{len(widths)} widths and {len(strides)} strides: give each layer both")
    layers: list[nn.Module] = []
    for (width, out_width), stride in zip(pairwise((3, *widths)), strides, strict=True):
        groups = functional.largest_divisor(out_width, 8)
        norm = nn.BatchNorm2d(out_width) if normalization == "batch" else nn.GroupNorm(groups, out_width)
        convolution = nn.Conv2d(width, out_width, 3, stride, padding=1, bias=not normalize_first)
        layers += [convolution, norm, nn.ReLU()] if normalize_first else [convolution, nn.ReLU(), norm]
    return nn.Sequential(*layers)


def pooled_convolutions(widths: Sequence[int] = (16, 48, 96)) -> nn.Sequential:
    """The small network that digit scenes are read with: one cell for four by four pixels.

    Convolutions of 3 by 3 with batch normalisation and `relu`; behind all but the last one, maxima of two by two. Of
    three layers a cell sees 18 by 18 pixels around its centre: itself and what is close, never two objects and their
    relation.

    Args:
        widths: channels behind every layer; the last one is the `width` that `GridEncoder` is told.
    """
    layers: list[nn.Module] = []
    for width, out_width in pairwise((3, *widths)):
        # Maxima, not strides: a digit is a few pixels of many, and a stride would blur it with the ground.
        layers += [nn.MaxPool2d(2)] if layers else []
        convolution = nn.Conv2d(width, out_width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(out_width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _timm_features(name: str, pretrained: bool) -> tuple[nn.Module, int]:
    import timm

    if not timm.is_model(name):
        raise UserError(f"unknown backbone {name!r}: `timm.list_models()` lists timm's {len(timm.list_models())}")
    try:
        # `Any`: what timm puts around a model to make it give its feature maps depends on the model.
        backbone: Any = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=(-1,))
    except RuntimeError as error:
        raise UserError(f"the backbone {name!r} gives no feature maps ({error}): choose another one") from error
    return backbone, backbone.feature_info.channels()[-1]


class RegionEncoder(nn.Module):
    """Regions whose features are given, 10 to 100 a picture, as bottom-up attention made them.

    Args:
        features: width of a region's features; 2048 in the published files.
        geometry: whether left, top, right, bottom and area of the box are put beside them; default False.

    Attributes:
        width: width `D` of a token: the features', and 5 more with geometry.

    Shapes:
        `Regions`, or features `(B, N, features)` alone if all take part and have no boxes. Gives a `Sight`.

    Raises:
        UserError: geometry is wanted of regions without boxes.
    """

    def __init__(self, features: int = 2048, geometry: bool = False) -> None:
        super().__init__()
        self.geometry = geometry
        self.width = features + 5 * geometry

    def forward(self, regions: Regions | Float[Tensor, "B N D"]) -> Sight:
        features, mask, boxes = regions if isinstance(regions, tuple) else Regions(regions)
        if not self.geometry:
            return Sight(features, mask, boxes=boxes)
        if boxes is None:
            raise UserError("RegionEncoder got regions without boxes, expected boxes: give them, or geometry=False")
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1, keepdim=True)  # (B, N, 1)
        return Sight(torch.cat((features, boxes, area), 2), mask, boxes=boxes)


class DetectedRegions(nn.Module):
    """Regions that a detector of torchvision proposes on the spot, with the features that it would classify them by.

    The most likely objects of the region proposal network, after its suppression of doubles, each pooled and passed
    through the box head: no file of features is needed.

    Args:
        detector: a `torchvision.models.detection.FasterRCNN` or `MaskRCNN`.
        regions: how many proposals at most; default 36, as many as the files of bottom-up attention have.
        frozen: whether the detector stays as it is, in evaluation mode; default True.

    Attributes:
        width: width of a region's features, those of the box head.

    Shapes:
        pictures `(B, 3, H, W)` in 0..1, or a list of pictures of different sizes. Gives a `Sight` with mask and boxes.
    """

    def __init__(self, detector: nn.Module, regions: int = 36, frozen: bool = True) -> None:
        super().__init__()
        from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

        if not isinstance(detector, GeneralizedRCNN):
            raise UserError(
                f"DetectedRegions got a {type(detector).__name__}, expected a detector of two stages: "
                "torchvision.models.detection.fasterrcnn_resnet50_fpn, for example"
            )
        self.detector = detector
        self.regions = regions
        self.frozen = frozen
        heads: Any = detector.roi_heads
        self.width: int = heads.box_predictor.cls_score.in_features
        if frozen:
            detector.requires_grad_(False)
        detector.eval()

    def train(self, mode: bool = True) -> "DetectedRegions":
        super().train(mode)
        # In training mode the proposal network wants the objects' true boxes: what proposes is never trained here.
        self.detector.eval()
        return self

    def forward(self, pictures: Float[Tensor, "B 3 H W"] | Sequence[Tensor]) -> Sight:
        # `Any`: the parts of a detector are declared as nothing but modules.
        detector: Any = self.detector
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            images, _ = detector.transform(list(pictures))
            maps = detector.backbone(images.tensors)
            maps = {"0": maps} if isinstance(maps, Tensor) else maps
            proposals, _ = detector.rpn(images, maps)  # a list of (n, 4), most likely objects first
            proposals = [boxes[: self.regions] for boxes in proposals]
            pooled = detector.roi_heads.box_roi_pool(maps, proposals, images.image_sizes)
            features = detector.roi_heads.box_head(pooled)  # (regions of all pictures, D)
        counts = [len(boxes) for boxes in proposals]
        sizes = [boxes.new_tensor([w, h, w, h]) for boxes, (h, w) in zip(proposals, images.image_sizes, strict=True)]
        boxes = pad_sequence([boxes / size for boxes, size in zip(proposals, sizes, strict=True)], batch_first=True)
        tokens = pad_sequence(list(features.split(counts)), batch_first=True)  # (B, N, D)
        number = torch.arange(tokens.shape[1], device=tokens.device)
        mask = number < torch.tensor(counts, device=tokens.device)[:, None]  # (B, N)
        return Sight(tokens, mask, boxes=boxes)
