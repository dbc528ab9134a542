"""Pictures of six objects, one of each colour, squares and circles, drawn as the published rule draws them.

The rule is that of Santoro et al., "A simple neural network module for relational reasoning", NeurIPS 2017. What the
paper leaves open is done as in the generator behind the published numbers (kimhc6028/relational-networks):

    ground    white, 75 x 75 pixels
    centres   any row and column in 5..69, drawn again until at least 10 pixels from every object placed before
    squares   11 x 11 pixels around the centre
    circles   radius 5, with the pixels that OpenCV's `circle` fills
    order     red, green, blue, orange, gray, yellow: the corners of two squares that are close diagonally may meet,
              and the later one lies on top

Channels here are red, green, blue; the generator keeps OpenCV's order, blue first.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

SIDE = 75
"""Side of a picture, in pixels."""

RADIUS = 5
"""From the centre of an object to its edge, in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
"""The colours of objects, as red, green and blue in 0..255."""

SHAPES = ("square", "circle")
OBJECTS = len(COLOURS)

GROUND = OBJECTS
"""Instead of an object, where a pixel shows none."""

_HALF_WIDTHS = {"square": (5, 5, 5, 5, 5, 5), "circle": (5, 4, 4, 4, 3, 0)}
"""How far a shape reaches to either side of its centre, by the distance from its middle row."""


@dataclass(frozen=True)
class Scenes:
    """A set of scenes: what is where, and what is painted.

    Attributes:
        shapes: the shape of each object, an index into `SHAPES`.
        colours: its colour, an index into `COLOURS`; each colour once a scene.
        centres: the row and column of its middle pixel.
        owners: which object each pixel shows, or `GROUND`.
    """

    shapes: Int[Tensor, "scenes objects"]
    colours: Int[Tensor, "scenes objects"]
    centres: Int[Tensor, "scenes objects 2"]
    owners: UInt8[Tensor, "scenes side side"]

    def __len__(self) -> int:
        return len(self.shapes)

    def take(self, keep: slice | Int[Tensor, " some"]) -> "Scenes":
        """The scenes with these indices."""
        return Scenes(self.shapes[keep], self.colours[keep], self.centres[keep], self.owners[keep])

    def pictures(self) -> UInt8[Tensor, "scenes 3 side side"]:
        """Red, green and blue in 0..255, with channels last in memory.

        They are painted when asked for, because a picture takes three times the memory of its owners: ask for a part.
        """
        palette = torch.tensor([*COLOURS.values()], dtype=torch.uint8, device=self.colours.device)
        paint = palette[self.colours]  # (scenes, objects, 3)
        paint = torch.cat([paint, paint.new_full((len(self), 1, 3), 255)], dim=1)
        scene = torch.arange(len(self), device=paint.device)[:, None, None]
        return paint[scene, self.owners.int()].movedim(-1, 1)

    def recoloured(self, colours: Int[Tensor, "scenes objects"]) -> "Scenes":
        """The same objects in other colours."""
        return replace(self, colours=colours)

    def mirrored(self, down: Int[Tensor, " scenes"], across: Int[Tensor, " scenes"]) -> "Scenes":
        """The scenes where `down` is 1 upside down, those where `across` is 1 with left and right exchanged."""
        flips = torch.stack([down, across], dim=-1)[:, None]  # (scenes, 1, 2)
        centres = torch.where(flips.bool(), SIDE - 1 - self.centres, self.centres)
        owners = torch.where(down.bool()[:, None, None], self.owners.flip(1), self.owners)
        owners = torch.where(across.bool()[:, None, None], owners.flip(2), owners)
        return replace(self, centres=centres, owners=owners)


def draw(shapes: Int[Tensor, "scenes objects"], centres: Int[Tensor, "scenes objects 2"]) -> Scenes:
    """Scenes of these objects, the first object in the first colour and so on."""
    scenes = len(shapes)
    reach = torch.arange(-RADIUS, RADIUS + 1)
    half_widths = torch.tensor([_HALF_WIDTHS[shape] for shape in SHAPES])[:, reach.abs()]  # (shapes, rows)
    stencils = reach.abs() <= half_widths[..., None]  # (shapes, rows, columns)
    owners = torch.full((scenes, SIDE, SIDE), GROUND, dtype=torch.uint8)
    scene = torch.arange(scenes)[:, None, None]
    for number in range(OBJECTS):
        row = centres[:, number, 0, None, None] + reach[:, None]
        column = centres[:, number, 1, None, None] + reach
        under = owners[scene, row, column]
        owners[scene, row, column] = under.masked_fill(stencils[shapes[:, number]], number)
    return Scenes(shapes, torch.arange(OBJECTS).repeat(scenes, 1), centres, owners)
