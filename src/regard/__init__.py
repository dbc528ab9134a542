"""Attention mechanisms for vision and multimodal models, all in one form: pick, place, train, compare, see.

A handful of verbs stands here and nothing else, each loaded from its floor when it is first used, so that
`import regard` costs next to nothing. The mechanisms live in `regard.attention`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.attention.catalogue import catalog, create
    from regard.costing import cost
    from regard.experiment import compare
    from regard.models.vqa import load
    from regard.placing import insert, places, remove
    from regard.watching import watch

    __version__: str

_homes = {
    "catalog": "regard.attention.catalogue",
    "compare": "regard.experiment",
    "cost": "regard.costing",
    "create": "regard.attention.catalogue",
    "insert": "regard.placing",
    "load": "regard.models.vqa",
    "places": "regard.placing",
    "remove": "regard.placing",
    "watch": "regard.watching",
}
"""The module that each verb comes from."""

__all__ = ["__version__", "catalog", "compare", "cost", "create", "insert", "load", "places", "remove", "watch"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("regard")
    elif name in _homes:
        from regard.extras import naming_extras

        with naming_extras():
            value = getattr(import_module(_homes[name]), name)
    else:
        raise AttributeError(f"module 'regard' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
