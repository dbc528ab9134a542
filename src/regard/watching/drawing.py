"""Attention drawn on the picture that it is over: a map of cells as colours, boxes with their weights. Needs Pillow."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.watching import colour

OPACITY = 0.6
"""Of the colours over the picture, which is grey below them: all colours that one sees are those of the map."""

BOXES = 5
"""So many boxes, those that weigh most, have their weights written beside them."""

_margin, _text = 6, 14


# `Any`: pictures are Pillow's, which is not imported before something is drawn.
def over(picture: Any, weights: Float[Tensor, "h w"]) -> Any:
    """A picture with a map over it: dark violet for nothing, pale yellow for the largest weight.

    Args:
        picture: a picture of Pillow.
        weights: of the cells of a grid that covers it all, row by row; what is negative counts as nothing. Between the
            centres of the cells they are interpolated.
    """
    import numpy as np
    from PIL import Image

    share = (weights / weights.max().clamp(min=1e-12)).clamp(0, 1).float().cpu().numpy()
    fine = np.asarray(Image.fromarray(share, "F").resize(picture.size, Image.Resampling.BILINEAR))
    coloured = np.array(colour.table(), np.uint8)[(255 * fine).round().astype(np.uint8)]
    return Image.blend(picture.convert("L").convert("RGB"), Image.fromarray(coloured), OPACITY)


def boxes(picture: Any, places: Float[Tensor, "N 4"], weights: Float[Tensor, " N"]) -> Any:
    """A picture with boxes on it, coloured as in `over`, the heaviest on top and with their weights.

    Args:
        picture: a picture of Pillow.
        places: left, top, right and bottom of each, in shares of the picture's width and height.
        weights: one a box.
    """
    from PIL import ImageDraw

    drawn = picture.convert("L").convert("RGB")
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
            written = f"{formatting.weight(weight)}"
            around = pen.textbbox((left + 4, upper + 3), written, font=_font())
            pen.rectangle((around[0] - 2, around[1] - 2, around[2] + 2, around[3] + 2), fill=line)
            pen.text((left + 4, upper + 3), written, fill="black" if sum(line) > 380 else "white", font=_font())
    return drawn


def sheet(panels: Sequence[tuple[str, Any]], columns: int = 4) -> Any:
    """Pictures of one size side by side on white, each below its caption.

    Args:
        panels: captions and pictures of Pillow.
        columns: how many stand in a row at most.
    """
    from PIL import Image, ImageDraw

    width, height = panels[0][1].size
    across = min(columns, len(panels))
    cell, row = width + _margin, height + _text + 2 * _margin
    drawn = Image.new("RGB", (across * cell + _margin, -(-len(panels) // across) * row + _margin), "white")
    pen = ImageDraw.Draw(drawn)
    for place, (caption, picture) in enumerate(panels):
        left, upper = _margin + place % across * cell, place // across * row + _margin
        pen.text((left, upper), caption, fill="black", font=_font())
        drawn.paste(picture, (left, upper + _text + _margin))
    return drawn


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(_text)
