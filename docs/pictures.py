"""Pictures of the maps that a mechanism offers, on a photograph that ships with scikit-learn.

The features are no network's: 24 channels by published rules on a grid of 24 by 32 cells, alike for everybody. The
mechanism is freshly initialised, so its picture shows what kind of map it offers, not what it would learn.
"""

from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from itertools import product
from math import pi

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

import regard
from regard.attention import Attention, Convolve, Merge, Read, Refine, offering
from regard.attention.layout import map_to_tokens
from regard.watching.colour import table
from regard.watching.maps import AttentionMap

ROWS, COLUMNS, CELL = 24, 32, 12
"""The grid, and how many pixels of the photograph a cell is wide."""

POINTS = ((5, 6), (11, 16), (19, 26))
"""Row and column of the three cells whose queries are shown."""

CREDIT = "Photograph: china.jpg of scikit-learn, by danielbuechele (flickr.com), CC BY 2.0"
WAVELENGTHS, ORIENTATIONS = (4, 6, 9, 13), (0, 45, 90, 135)
CHANNELS = (
    *("luminance", "red-green", "yellow-blue"),
    *(f"contrast of {opponent}" for opponent in ("luminance", "red-green", "yellow-blue")),
    *("edges across x", "edges across y"),
    *(f"Gabor {wavelength} px, {angle}°" for wavelength in WAVELENGTHS for angle in ORIENTATIONS),
)

PANEL = (256, 192)
MARGIN, TITLE = 12, 24
INK, PAPER, BAR, RING = (33, 33, 40), (255, 255, 255), (84, 72, 158), (255, 255, 255)


@dataclass(frozen=True)
class Panel:
    """One part of a map with two axes left, and which part it is.

    Args:
        title: the part, as `AttentionMap.select` takes it.
        axes: the two axes that are left.
        values: along them.
        point: row and column of the cell that asks, where one does.
    """

    title: str
    axes: tuple[str, ...]
    values: np.ndarray
    point: tuple[int, int] | None = None


@dataclass(frozen=True)
class Picture:
    """A drawn map.

    Args:
        label: the label of the map.
        image: the picture.
        lowest: the least weight of the whole map, for this photograph.
        highest: its largest.
    """

    label: str
    image: Image.Image
    lowest: float
    highest: float

    @property
    def constant(self) -> bool:
        """Whether all weights are alike, but for rounding."""
        return _alike(self.lowest, self.highest)


@cache
def photograph() -> Image.Image:
    """The middle of the photograph, 4 to 3."""
    from sklearn.datasets import load_sample_image

    whole = Image.fromarray(load_sample_image("china.jpg"))
    width = whole.height * COLUMNS // ROWS
    left = (whole.width - width) // 2
    box = (left, 0, left + width, whole.height)
    return whole.resize((COLUMNS * CELL, ROWS * CELL), Image.Resampling.LANCZOS, box)


@cache
def features() -> Tensor:
    """The photograph as `(1, 24, 24, 32)`, each channel with a mean square of one over the grid.

    Three opponent colours (van de Sande et al., PAMI 2010), their standard deviation in each cell, the two derivatives
    of Sobel, and the energies of Gabor filters in quadrature (Daugman, JOSA 1985; Adelson and Bergen, JOSA 1985).
    Their means are not taken out: channel gates would see nothing else.
    """
    red, green, blue = torch.from_numpy(np.array(photograph())).permute(2, 0, 1).float().div(255)
    opponents = torch.stack([(red + green + blue) / 3**0.5, (red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5])
    luminance = opponents[:1, None]  # (1, 1, H, W)
    mean = _cells(opponents[None])
    deviation = (_cells(opponents[None].square()) - mean.square()).clamp(min=0).sqrt()
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    edges = _filtered(luminance, torch.stack([sobel, sobel.T])).abs()
    energies = [_energy(luminance, wavelength, angle) for wavelength in WAVELENGTHS for angle in ORIENTATIONS]
    stacked = torch.cat([mean, deviation, _cells(edges), _cells(torch.cat(energies, 1))], 1)  # (1, 24, 24, 32)
    return stacked / stacked.square().mean((2, 3), keepdim=True).sqrt()


def offered(mechanism: type[Attention]) -> list[AttentionMap]:
    """The maps of a freshly initialised module on the photograph's features, always the same."""
    widths = dict.fromkeys(
        ("channels", "in_channels", "out_channels", "query_width", "memory_width"), len(CHANNELS)
    ) | {"kernel_size": 3}
    required = [
        argument.name for argument in signature(mechanism).parameters.values() if argument.default is Parameter.empty
    ]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = mechanism(**{name: widths[name] for name in required}).eval()
        model = nn.ModuleDict({"mechanism": module})
        if not module.maps:
            return []
        # Of three frames' positions, each a query with as many keys, only the points in the first frame.
        asking = [row * COLUMNS + column for row, column in POINTS] if _takes_frames(module) else None
        with regard.watch(model, queries=asking) as watched, offering.over_grid((ROWS, COLUMNS)):
            module(*inputs(module))
        return watched.maps


def inputs(module: Attention) -> list[Tensor]:
    """What a mechanism of each contract is given: the photograph as a map, tokens, frames, or several resolutions."""
    x = features()
    if isinstance(module, Merge):
        return [_coarser(x, 2**level) for level in range(module.inputs)]
    if isinstance(module, Read):
        tokens = map_to_tokens(x)  # (1, N, C)
        asking = torch.stack([x[:, :, row, column] for row, column in POINTS], 1)  # (1, 3, C)
        return [asking, tokens] if "query" in signature(module.forward).parameters else [tokens]
    if isinstance(module, Refine) and module.layout == "tokens":
        return [map_to_tokens(x)]
    if _takes_frames(module):
        return [torch.stack([x.roll(shift, 3) for shift in (0, 1, 2)], 2)]  # three frames of a camera that pans
    return [x]


def draw(mechanism: type[Attention]) -> list[Picture]:
    """One picture for each map that the mechanism offers, in the order of its facts; of several calls the last."""
    found = {one.label: one for one in offered(mechanism)}
    pictures = []
    for fact in mechanism.maps:
        values = found[fact.label].values
        image = _drawn(found[fact.label], mechanism)
        pictures.append(Picture(fact.label, image, float(values.min()), float(values.max())))
    return pictures


def panels(attention_map: AttentionMap, asked: bool, limit: int = 7) -> list[Panel]:
    """Parts of a map with two axes each: height and width where it has them, its last two axes otherwise.

    Args:
        attention_map: the map of a batch of one.
        asked: whether its queries, if it has any, are the three points'.
        limit: how many at most.
    """
    left = attention_map.select(batch=0)
    if left.grid is not None:
        left = left.on_grid()
    values, axes = left.values, left.axes
    sizes = dict(zip(axes, values.shape, strict=True))
    points: tuple[tuple[int, int] | None, ...] = ()
    if {"height", "width"} <= set(axes):
        shown = ("height", "width")
        cells = sizes.get("query") == ROWS * COLUMNS
        if cells or (asked and "query" in axes):
            points = POINTS
            if cells:
                chosen = torch.tensor([row * COLUMNS + column for row, column in POINTS])
                values = values.index_select(axes.index("query"), chosen)
    elif sizes.get("query") == ROWS * COLUMNS:
        at = axes.index("query")
        values = values.unflatten(at, (ROWS, COLUMNS))
        axes = (*axes[:at], "height", "width", *axes[at + 1 :])
        shown = ("height", "width")
    else:
        shown = axes[-2:]
    others = [axis for axis in axes if axis not in shown and not (points and axis == "query")]
    order = [*others, *(["query"] if points else []), *shown]
    values = values.permute(*(axes.index(axis) for axis in order))
    parts = list(product(*(range(values.shape[at]) for at in range(len(others)))))
    rows = 2 if points else limit
    if len(parts) > rows:
        parts = [parts[round(step * (len(parts) - 1) / (rows - 1))] for step in range(rows)]
    found = []
    for part in parts:
        title = " ".join(_named(axis, index) for axis, index in zip(others, part, strict=True))
        if not points:
            found.append(Panel(title, shown, values[part].numpy()))
        for index, point in enumerate(points):
            query = POINTS[index][0] * COLUMNS + POINTS[index][1] if asked is False else index
            found.append(Panel(f"{title} query={query}".strip(), shown, values[part][index].numpy(), point))
    return found


def _drawn(attention_map: AttentionMap, mechanism: type[Attention]) -> Image.Image:
    asked = issubclass(mechanism, Read) and "query" in signature(mechanism.forward).parameters
    asked = asked or "depth" in attention_map.axes or len(attention_map.grid or ()) > 2  # frames
    names = not issubclass(mechanism, Convolve)  # the channels that it gives are its own
    values = attention_map.values[0]
    if values.ndim == 1 and attention_map.grid is None:
        return _bars(values.tolist(), attention_map.axes[1], names)
    found = panels(attention_map, asked)
    return _sheet(found, photograph() if found[0].axes == ("height", "width") else None)


def _sheet(found: list[Panel], photo: Image.Image | None) -> Image.Image:
    """The panels over the photograph, which stands beside them, or alone; all in one scale of colours.

    Few very large weights would leave the rest dark: the scale ends where all but one weight in 200 lie below it,
    unless hardly a weight would be left to see then.
    """
    weights = np.concatenate([panel.values.ravel() for panel in found])
    low, last, high = float(weights.min()), float(weights.max()), float(np.quantile(weights, 0.995))
    high = high if high - low > 0.02 * (last - low) else last
    pictures = [_coloured(panel.values, low, high, photo) for panel in found]
    titles = [panel.title for panel in found]
    marks: list[tuple[tuple[int, int] | None, ...]] = [(panel.point,) for panel in found]
    asked = found[0].point is not None
    if photo is not None:
        pictures.insert(0, photo.resize(PANEL))
        titles.insert(0, "photograph")
        marks.insert(0, POINTS if asked else ())
        if asked and len(found) > 3:  # below the photograph nothing, so that a column is a query
            pictures.insert(4, Image.new("RGB", PANEL, PAPER))
            titles.insert(4, "")
            marks.insert(4, ())
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = PANEL[0] + MARGIN, PANEL[1] + TITLE + MARGIN
    sheet = Image.new(
        "RGB", (max(2 if photo else 3, columns) * width + MARGIN, rows * height + 2 * MARGIN + TITLE), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for place, (picture, title, points) in enumerate(zip(pictures, titles, marks, strict=True)):
        x, y = MARGIN + place % columns * width, place // columns * height + MARGIN
        pen.text((x, y), title, INK, _font(16))
        sheet.paste(picture, (x, y + TITLE))
        for point in points:
            if point is not None:
                _ring(pen, x, y + TITLE, point)
    foot = f"{high:.3g}{' and more' if high < last else ''}"
    if photo is None:
        foot += f"    rows: {found[0].axes[0]}, columns: {found[0].axes[1]}"
    _scale(sheet, pen, f"{low:.3g}", foot, rows * height + MARGIN)
    return sheet


def _coloured(values: np.ndarray, low: float, high: float, photo: Image.Image | None) -> Image.Image:
    """Values as colours from `low` to `high`, each cell a block, two thirds opaque on the grey photograph."""
    palette = np.array(table(), dtype=np.uint8)
    share = np.full(values.shape, 0.5)
    if not _alike(low, high):
        share = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    colours = Image.fromarray(palette[(share * 255).round().astype(int)]).resize(PANEL, Image.Resampling.NEAREST)
    if photo is None:
        return colours
    return Image.blend(photo.convert("L").convert("RGB").resize(PANEL), colours, 0.67)


def _bars(values: list[float], axis: str, names: bool) -> Image.Image:
    """A horizontal bar a value, from zero, with its number."""
    row, label, length = 22, 240, 560
    sheet = Image.new("RGB", (label + length + 120, 2 * MARGIN + row * len(values)), PAPER)
    pen = ImageDraw.Draw(sheet)
    low, high = min(0.0, *values), max(0.0, *values)
    step = length / (high - low) if high > low else 0.0
    zero = label - low * step
    for index, value in enumerate(values):
        y = MARGIN + index * row
        named = _named(axis, index) if names or axis == "in_channel" else f"{axis}={index}"
        pen.text((label - MARGIN, y + row // 2), named, INK, _font(16), anchor="rm")
        pen.rectangle((min(zero, zero + value * step), y + 3, max(zero, zero + value * step), y + row - 4), BAR)
        pen.text((label + length + MARGIN, y + row // 2), f"{value:.4g}", INK, _font(16), anchor="lm")
    pen.line((zero, MARGIN, zero, MARGIN + row * len(values)), INK)
    return sheet


def _scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, first: str, last: str, y: int) -> None:
    """The scale of colours with its two ends, at the foot of a sheet."""
    start = MARGIN + int(pen.textlength(first, _font(16))) + 8
    bar = np.array(table(), dtype=np.uint8)[None].repeat(14, 0)
    pen.text((MARGIN, y), first, INK, _font(16))
    sheet.paste(Image.fromarray(bar), (start, y + 2))
    pen.text((start + bar.shape[1] + 8, y), last, INK, _font(16))


def _ring(pen: ImageDraw.ImageDraw, x: int, y: int, point: tuple[int, int]) -> None:
    across, down = PANEL[0] / COLUMNS, PANEL[1] / ROWS
    centre = (x + (point[1] + 0.5) * across, y + (point[0] + 0.5) * down)
    for radius, colour in ((10, INK), (9, RING), (8, RING), (7, INK)):
        pen.ellipse([centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius], outline=colour)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _named(axis: str, index: int) -> str:
    """A place on an axis as `AttentionMap.select` takes it; a channel of the input by what it is, too."""
    return f"{CHANNELS[index]}, {index}" if axis in {"channel", "in_channel"} else f"{axis}={index}"


def _takes_frames(module: Attention) -> bool:
    return isinstance(module, Refine) and 2 not in module.spatial_ranks


def _alike(low: float, high: float) -> bool:
    """Whether two ends differ by rounding only."""
    return high - low <= 1e-6 * max(abs(low), abs(high))


def _cells(x: Tensor) -> Tensor:
    """Means over the cells of the grid."""
    return F.avg_pool2d(x, CELL)


def _coarser(x: Tensor, factor: int) -> Tensor:
    """The map as a level of `factor` times fewer rows and columns sees it, on the same grid."""
    pooled = F.avg_pool2d(x, factor)
    return F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False)


def _energy(luminance: Tensor, wavelength: int, angle: int) -> Tensor:
    """Length of the responses to an even and an odd Gabor filter, without a response to the mean."""
    spread = 0.56 * wavelength  # a bandwidth of one octave
    reach = round(3 * spread)
    y, x = torch.meshgrid(torch.arange(-reach, reach + 1.0), torch.arange(-reach, reach + 1.0), indexing="ij")
    turn = torch.tensor(angle * pi / 180)
    along = x * turn.cos() + y * turn.sin()
    envelope = (-(x.square() + y.square()) / (2 * spread**2)).exp()
    envelope = envelope / envelope.sum()
    even, odd = ((2 * pi * along / wavelength).cos() * envelope, (2 * pi * along / wavelength).sin() * envelope)
    even = even - envelope * even.sum()
    return _filtered(luminance, torch.stack([even, odd])).square().sum(1, keepdim=True).sqrt()


def _filtered(luminance: Tensor, kernels: Tensor) -> Tensor:
    reach = kernels.shape[-1] // 2
    return F.conv2d(F.pad(luminance, [reach] * 4, mode="reflect"), kernels[:, None])
