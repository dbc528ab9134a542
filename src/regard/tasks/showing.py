"""What tasks tell of a model's looks: where each question looked, and pictures as links."""

import base64
import io
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from regard.attention import Attention, Refine
from regard.watching import AttentionMap, watch


def answered(
    model: nn.Module, pictures: UInt8[Tensor, "B 3 H W"], questions: Shaped[Tensor, "B Q L"], watched: bool
) -> tuple[Float[Tensor, "B Q answers"], list[Float[Tensor, "B Q h w"]]]:
    """The answers' logits, and, if watched, the weights of each look at the picture, the mean over heads and glimpses.

    A look is a map of weights that every question has over the cells of the picture. Of several, those on the grid of
    the first one are given, in order.
    """
    attending = {path: module for path, module in model.named_modules() if isinstance(module, Attention)}
    # What refines a picture or a question from itself is no look, and its maps over all pairs of cells are large.
    paths = [path for path, module in attending.items() if module.maps and not isinstance(module, Refine)]
    if not watched or not paths:
        return model(pictures, questions).float(), []
    with watch(model, paths) as watching:
        logits = model(pictures, questions).float()
    looks = [look for one in watching.maps for look in _looks(one, *questions.shape[:2])]
    return logits, [look for look in looks if look.shape == looks[0].shape]


def _looks(one: AttentionMap, pictures: int, questions: int) -> list[Float[Tensor, "B Q h w"]]:
    """The looks of a map, hop by hop; none if it is of something else."""
    spatial = one.grid is not None or "height" in one.axes
    if one.label != "attention" or not spatial or not {"batch", "query"} <= set(one.axes):
        return []
    asked = tuple(one.values.shape[one.axes.index(axis)] for axis in ("batch", "query"))
    if asked not in ((pictures, questions), (pictures * questions, 1)):
        return []  # what something else reads, the cells or the words
    one = one.on_grid()
    for axis in ("heads", "glimpse"):
        one = one.mean(axis) if axis in one.axes else one
    hops = one.values.unbind(one.axes.index("hop")) if "hop" in one.axes else [one.values]
    return [hop.float().cpu().reshape(pictures, questions, *hop.shape[-2:]) for hop in hops]


# `Any`: as the report takes it.
def reading(
    logits: Float[Tensor, " answers"],
    looks: list[Float[Tensor, "h w"]],
    truth: int,
    say: Callable[[int], str],
    look: str,
) -> dict[str, Any]:
    """What a model says to a question of the report, how sure it is, and where it looked.

    Args:
        logits, looks: of that question.
        truth: the number of the right answer.
        say: an answer by its number, in words.
        look: what one of several looks is called, before its number.
    """
    chances = logits.softmax(-1)
    answer = int(chances.argmax())
    names = ["attention"] if len(looks) == 1 else [f"{look} {number}" for number in range(1, len(looks) + 1)]
    return {
        "answer": say(answer),
        "probability": float(chances[answer]),
        "correct": answer == truth,
        "maps": [
            {"label": name, "weights": one.tolist(), "sums_to_one": True}
            for name, one in zip(names, looks, strict=True)
        ],
    }


# `Any`: a picture of Pillow, which is not imported before it is used.
def data_uri(picture: UInt8[Tensor, "3 height width"] | Any) -> str:
    """A picture as a PNG inside a link."""
    from PIL import Image

    if isinstance(picture, Tensor):
        picture = Image.fromarray(picture.movedim(0, -1).contiguous().cpu().numpy())
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
