"""Attention into a model that is already there: where it can go, putting it there, and taking it out again."""

from regard.placing.inserting import insert, parameter_groups, remove
from regard.placing.place import Place, PlaceTable, Slot
from regard.placing.placed import Insertions, Placed, inserted, switched_off
from regard.placing.places import places

__all__ = [
    "Insertions",
    "Place",
    "PlaceTable",
    "Placed",
    "Slot",
    "insert",
    "inserted",
    "parameter_groups",
    "places",
    "remove",
    "switched_off",
]
