"""Every mechanism, in one form. A folder a family, a file a mechanism; each family's `__all__` is its list."""

from regard.attention import (
    alignment,
    branch,
    channel,
    channel_spatial,
    context,
    efficient,
    multimodal,
    pooling,
    selection,
    spatial,
    window,
)
from regard.attention.alignment import *  # noqa: F403
from regard.attention.branch import *  # noqa: F403
from regard.attention.channel import *  # noqa: F403
from regard.attention.channel_spatial import *  # noqa: F403
from regard.attention.context import *  # noqa: F403
from regard.attention.contract import Attention, Convolve, Merge, Read, Refine, Select, ShapeError
from regard.attention.efficient import *  # noqa: F403
from regard.attention.layout import OnMap, OnTokens, ReadMap
from regard.attention.multimodal import *  # noqa: F403
from regard.attention.pooling import *  # noqa: F403
from regard.attention.selection import *  # noqa: F403
from regard.attention.spatial import *  # noqa: F403
from regard.attention.window import *  # noqa: F403

families = (
    channel,
    spatial,
    channel_spatial,
    context,
    window,
    efficient,
    branch,
    alignment,
    multimodal,
    pooling,
    selection,
)
"""The packages that hold the mechanisms, in the order of the catalogue."""

mechanisms: dict[str, type[Attention]] = {
    mechanism.name: mechanism
    for family in families
    for mechanism in (getattr(family, symbol) for symbol in family.__all__)
}
"""Every mechanism by its short name."""

__all__ = ["Attention", "Convolve", "Merge", "OnMap", "OnTokens", "Read", "ReadMap", "Refine", "Select", "ShapeError"]
__all__ += ["families", "mechanisms"]
__all__ += channel.__all__
__all__ += spatial.__all__
__all__ += channel_spatial.__all__
__all__ += context.__all__
__all__ += window.__all__
__all__ += efficient.__all__
__all__ += branch.__all__
__all__ += alignment.__all__
__all__ += multimodal.__all__
__all__ += pooling.__all__
__all__ += selection.__all__
