"""Attention drawn on the picture that it is over: a map of cells as colours, boxes with their weights. Needs Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.formatting import weight as written
from regard.watching import colour

BOXES = 5
"""So many boxes, those that weigh most, have their weights written beside them."""

CELLS = 3
"""So many cells, those that weigh most, have their weights written in them, where there is room."""

CELL = 10
"""From so many pixels on, cells are drawn one by one; smaller ones are interpolated between their centres."""

SIDE = 384
"""Pixels of a panel's longer side in a figure."""

SCALE = (
    "Colour: attention weight, from 0, where the grey picture shows, to the largest of each map. Outlined: at least "
    "half of that."
)

_margin, _text, _small, _large = 16, 15, 13, 20
_ink, _soft, _paper = (27, 30, 34), (93, 100, 108), (255, 255, 255)


# `Any`: pictures are Pillow's, which is not imported before something is drawn.
@dataclass(frozen=True)
class Panel:
    """One map over its picture, as `figure` shows it.

    Attributes:
        title: whose it is.
        text: what else is said of it, such as the answer; may be empty.
        picture: the picture with the map over it, of Pillow.
        top: the largest weight, at which the colours end; None for a panel without a scale.
    """

    title: str
    text: str
    picture: Any
    top: float | None = None


def over(picture: Any, weights: Float[Tensor, "h w"]) -> Any:
    """Return a grey picture with a map over it, from nothing where the weight is 0 to pale yellow for the largest.

    The larger the weight, the more of the colour and the less of the picture is seen; the object stays recognisable.
    Cells that are large enough are drawn one by one, with a line around those of at least half the largest weight, and
    with the weights of the heaviest; smaller ones are interpolated between their centres.

    Args:
        picture: a picture of Pillow.
        weights: of the cells of a grid that covers it all, row by row; what is negative counts as nothing.
    """
    import numpy as np
    from PIL import Image

    rows, columns = weights.shape
    width, height = picture.size
    coarse = min(width / columns, height / rows) >= CELL
    share = (weights / weights.max().clamp(min=1e-12)).clamp(0, 1).float().cpu().numpy()
    if coarse:
        down, across = np.arange(height) * rows // height, np.arange(width) * columns // width
        fine = share[down[:, None], across]
    else:
        fine = np.asarray(Image.fromarray(share, "F").resize(picture.size, Image.Resampling.BILINEAR))
    coloured = np.array(colour.overlay(), np.uint8)[(255 * fine).round().astype(np.uint8)]
    drawn = grey(picture).convert("RGBA")
    drawn.alpha_composite(Image.fromarray(coloured, "RGBA"))
    drawn = drawn.convert("RGB")
    if coarse:
        _outline(drawn, share >= 0.5)
        _write_heaviest(drawn, weights)
    return drawn


def boxes(picture: Any, places: Float[Tensor, "N 4"], weights: Float[Tensor, " N"]) -> Any:
    """A picture with boxes on it, coloured as in `over`, the heaviest on top and with their weights.

    Args:
        picture: a picture of Pillow.
        places: left, top, right and bottom of each, in shares of the picture's width and height.
        weights: one a box.
    """
    from PIL import ImageDraw

    drawn = grey(picture)
    pen = ImageDraw.Draw(drawn)
    width, height = drawn.size
    top = max(weights.max().item(), 1e-12)
    order = weights.argsort()
    for rank, index in enumerate(order.tolist()):
        weight = weights[index].item()
        line = colour.table()[round(255 * max(weight, 0.0) / top)]
        named = len(order) - rank <= BOXES
        left, upper, right, lower = (
            places[index].cpu().clamp(0, 1) * places.new_tensor([width, height] * 2).cpu()
        ).tolist()
        pen.rectangle((left, upper, max(left, right - 1), max(upper, lower - 1)), outline=line, width=3 if named else 1)
        if named:
            around = pen.textbbox((left + 4, upper + 3), written(weight), font=_font(_small))
            pen.rectangle((around[0] - 2, around[1] - 2, around[2] + 2, around[3] + 2), fill=line)
            ink = "black" if sum(line) > 380 else "white"
            pen.text((left + 4, upper + 3), written(weight), fill=ink, font=_font(_small))
    return drawn


def grey(picture: Any) -> Any:
    """Return a picture without colours, whose strong ones, such as blue, stay as bright as they look on black."""
    from PIL import Image, ImageChops

    coloured = picture.convert("RGB")
    red, green, blue = coloured.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return Image.blend(coloured.convert("L"), brightest, 0.5).convert("RGB")


def fitted(picture: Any) -> Any:
    """Return a picture as large as a panel of a figure; the pixels of a tiny one stay sharp."""
    from PIL import Image

    times = SIDE / max(picture.size)
    size = tuple(max(1, round(times * side)) for side in picture.size)
    return picture.resize(size, Image.Resampling.NEAREST if times > 2 else Image.Resampling.LANCZOS)


def figure(picture: Any, question: str, panels: Sequence[Panel], columns: int = 4) -> Any:
    """Return the picture, what was asked about it, and panels beside it, each with what it says and its scale.

    Args:
        picture: the original, a picture of Pillow of the size of the panels'.
        question: stands above, in as many lines as it needs.
        panels: at least one; all pictures have one size.
        columns: how many pictures stand in a row at most, the original among them.
    """
    from PIL import Image, ImageDraw

    shown = [Panel("picture", "", picture), *panels]
    width, height = picture.size
    cell = max(width, 170)
    across = min(columns, len(shown))
    inner = max(across * (cell + _margin) - _margin, 340)
    heading = _wrapped(question, _font(_large, question), inner)
    titles = [_wrapped(panel.title, _font(_text, panel.title), cell) for panel in shown]
    texts = [_wrapped(panel.text, _font(_text, panel.text), cell) if panel.text else [] for panel in shown]
    notes = _wrapped(SCALE, _font(_small), inner) if any(panel.top is not None for panel in panels) else []
    line, large, small = _text + 6, _large + 8, _small + 6
    above = max(map(len, titles)) * line
    below = max(map(len, texts)) * line + 6 + (line + 6) * bool(notes)
    row = above + height + below + _margin
    rows = -(-len(shown) // across)
    size = inner + 2 * _margin, 2 * _margin + len(heading) * large + 8 + rows * row + len(notes) * small
    drawn = Image.new("RGB", size, _paper)
    pen = ImageDraw.Draw(drawn)
    y = _write(pen, (_margin, _margin), heading, _large, large, _ink) + 8
    for place, panel in enumerate(shown):
        left, upper = _margin + place % across * (cell + _margin), y + place // across * row
        at = upper + above - len(titles[place]) * line
        _write(pen, (left, at), titles[place], _text, line, _soft)
        drawn.paste(panel.picture, (left, upper + above))
        at = _write(pen, (left, upper + above + height + 6), texts[place], _text, line, _ink)
        if panel.top is not None:
            at = upper + above + height + 6 + max(map(len, texts)) * line
            _scale(drawn, pen, (left, at), cell, panel.top)
    _write(pen, (_margin, y + rows * row), notes, _small, small, _soft)
    return drawn


def sheet(panels: Sequence[tuple[str, Any]], columns: int = 4) -> Any:
    """Pictures of one size side by side on white, each below its caption.

    Args:
        panels: captions and pictures of Pillow.
        columns: how many stand in a row at most.
    """
    from PIL import Image, ImageDraw

    margin, text = 6, 14
    width, height = panels[0][1].size
    across = min(columns, len(panels))
    cell, row = width + margin, height + text + 2 * margin
    drawn = Image.new("RGB", (across * cell + margin, -(-len(panels) // across) * row + margin), "white")
    pen = ImageDraw.Draw(drawn)
    for place, (caption, picture) in enumerate(panels):
        left, upper = margin + place % across * cell, place // across * row + margin
        pen.text((left, upper), caption, fill="black", font=_font(text, caption))
        drawn.paste(picture, (left, upper + text + margin))
    return drawn


def _outline(drawn: Any, inside: Any) -> None:
    """Draw a line around the cells that are inside."""
    from PIL import ImageDraw

    pen = ImageDraw.Draw(drawn)
    rows, columns = inside.shape
    width, height = drawn.size
    xs = [round(column * width / columns) for column in range(columns + 1)]
    ys = [round(row * height / rows) for row in range(rows + 1)]
    edges = []
    for row in range(rows):
        for column in range(columns):
            if not inside[row, column]:
                continue
            left, right, upper, lower = xs[column], xs[column + 1] - 1, ys[row], ys[row + 1] - 1
            if column == 0 or not inside[row, column - 1]:
                edges.append((left, upper, left, lower))
            if column == columns - 1 or not inside[row, column + 1]:
                edges.append((right, upper, right, lower))
            if row == 0 or not inside[row - 1, column]:
                edges.append((left, upper, right, upper))
            if row == rows - 1 or not inside[row + 1, column]:
                edges.append((left, lower, right, lower))
    thin = 2 if min(width / columns, height / rows) >= 24 else 1
    for line, wide in (((0, 0, 0), thin + 2), ((255, 255, 255), thin)):
        for edge in edges:
            pen.line(edge, fill=line, width=wide)


def _write_heaviest(drawn: Any, weights: Float[Tensor, "h w"]) -> None:
    """Write the weights of the heaviest cells, of those that are outlined, into them, where there is room."""
    from PIL import ImageDraw

    pen = ImageDraw.Draw(drawn)
    rows, columns = weights.shape
    width, height = drawn.size[0] / columns, drawn.size[1] / rows
    for index in weights.flatten().argsort(descending=True)[:CELLS].tolist():
        row, column = divmod(index, columns)
        if weights[row, column] <= 0 or 2 * weights[row, column] < weights.max():
            break
        text = written(weights[row, column].item())
        left, upper, right, lower = pen.textbbox((0, 0), text, font=_font(_small))
        if right - left + 10 <= width and lower - upper + 10 <= height:
            place = (column * width + 6 - left, row * height + 6 - upper)
            pen.text(place, text, fill="white", font=_font(_small), stroke_width=2, stroke_fill="black")


def _scale(drawn: Any, pen: Any, place: tuple[int, int], width: int, top: float) -> None:
    """Draw the colours over middle grey, from 0 to the largest weight."""
    from PIL import Image

    font = _font(_small)
    left, upper = place
    numbers = "0", written(top)
    start = left + pen.textlength(numbers[0], font=font) + 8
    end = left + width - pen.textlength(numbers[1], font=font) - 8
    bar = Image.new("RGBA", (256, 1), (128, 128, 128, 255))
    colours = Image.new("RGBA", (256, 1))
    colours.putdata(list(colour.overlay()))
    bar.alpha_composite(colours)
    size = round(end - start), _small
    drawn.paste(bar.convert("RGB").resize(size, Image.Resampling.BILINEAR), (round(start), upper + 2))
    pen.text((left, upper), numbers[0], fill=_ink, font=font)
    pen.text((end + 8, upper), numbers[1], fill=_ink, font=font)


def _write(pen: Any, place: tuple[int, int], lines: Sequence[str], size: int, step: int, ink: Any) -> int:
    """Write lines one below the other, and return where the next one begins."""
    left, upper = place
    for line in lines:
        pen.text((left, upper), line, fill=ink, font=_font(size, line))
        upper += step
    return upper


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """A text in lines of at most so many pixels; what has no space is cut where it must be."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


_fonts = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc", "PingFang.ttc", "Arial.ttf")
"""Tried in turn for what Pillow's own font, of Latin letters, has not."""


def _font(size: int, text: str = "") -> Any:
    from PIL import ImageFont

    if any(ord(letter) > 0x17F and not 0x2000 <= ord(letter) < 0x2070 for letter in text):
        for name in _fonts:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
