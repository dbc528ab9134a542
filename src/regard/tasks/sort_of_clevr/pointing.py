"""Whether attention lies on the object asked about, and on the one the answer is read from."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.tasks.sort_of_clevr.questions import NOWHERE, Questions
from regard.tasks.sort_of_clevr.scenes import RADIUS, SIDE, Scenes


def cells(
    scenes: Scenes, objects: Int[Tensor, "scenes questions"], grid: tuple[int, int]
) -> Bool[Tensor, "scenes questions height width"]:
    """Which cells of a grid over the picture lie on these objects; none for `NOWHERE`.

    A cell lies on an object if the cell's middle is within the object's box of 11 x 11 pixels, or, on grids so coarse
    that no middle may be, if the object's middle is within the cell.
    """
    scene = torch.arange(len(scenes), device=objects.device)[:, None]
    centres = scenes.centres[scene, objects.clamp(min=0)] + 0.5  # (scenes, questions, 2); a pixel's middle
    near, within = [], []
    for axis, size in enumerate(grid):
        cell = torch.arange(size, device=objects.device)
        centre = centres[..., axis, None]
        offset = (cell + 0.5) * SIDE / size - centre
        near.append((offset >= -RADIUS - 0.5) & (offset < RADIUS + 0.5))
        within.append(cell == (centre * size / SIDE).long())
    on = torch.logical_or(*(rows[..., None] & columns[..., None, :] for rows, columns in (near, within)))
    return on & (objects != NOWHERE)[..., None, None]


def asked(scenes: Scenes, questions: Questions, grid: tuple[int, int]) -> Bool[Tensor, "scenes questions height width"]:
    """Which cells lie on the object asked about, or on either of two."""
    return cells(scenes, questions.objects, grid) | cells(scenes, questions.others, grid)


def found(scenes: Scenes, questions: Questions, grid: tuple[int, int]) -> Bool[Tensor, "scenes questions height width"]:
    """Which cells lie on the object whose property is the answer: for relations, the closest or furthest."""
    return cells(scenes, questions.found, grid)


def peak(
    weights: Float[Tensor, "scenes questions height width"], on: Bool[Tensor, "scenes questions height width"]
) -> Bool[Tensor, "scenes questions"]:
    """Whether the cell of the largest weight is one of these."""
    return on.flatten(2).gather(-1, weights.flatten(2).argmax(-1, keepdim=True))[..., 0]


def mass(
    weights: Float[Tensor, "scenes questions height width"], on: Bool[Tensor, "scenes questions height width"]
) -> Float[Tensor, "scenes questions"]:
    """The share of the weight that lies on these cells; 0 where there is no weight."""
    weights = weights.double()
    total = weights.sum((-2, -1))
    return ((weights * on).sum((-2, -1)) / total.masked_fill(total == 0, 1)).float()
