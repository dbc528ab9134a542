"""Every mechanism, in one form. A folder a family, a file a mechanism; each family's `__all__` is its list."""

from regard.attention import alignment, channel
from regard.attention.alignment import *  # noqa: F403
from regard.attention.channel import *  # noqa: F403
from regard.attention.contract import Attention, Convolve, Merge, Read, Refine, Select, ShapeError

families = (channel, alignment)
"""The packages that hold the mechanisms, in the order of the catalogue."""

mechanisms: dict[str, type[Attention]] = {
    mechanism.name: mechanism
    for family in families
    for mechanism in (getattr(family, symbol) for symbol in family.__all__)
}
"""Every mechanism by its short name."""

__all__ = [
    "Attention",
    "Convolve",
    "Merge",
    "Read",
    "Refine",
    "Select",
    "ShapeError",
    "families",
    "mechanisms",
    *(symbol for family in families for symbol in family.__all__),
]
