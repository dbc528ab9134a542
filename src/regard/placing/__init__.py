"""Attention into a model that is already there: where it can go, putting it there, and taking it out again."""

from regard.placing.inserting import Insertions, Placed, insert, parameter_groups, remove
from regard.placing.places import Place, PlaceTable, places

__all__ = ["Insertions", "Place", "PlaceTable", "Placed", "insert", "parameter_groups", "places", "remove"]
