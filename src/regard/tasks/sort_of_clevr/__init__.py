"""Questions about six coloured squares and circles: sort-of-CLEVR, by its published rule."""

from regard.tasks.sort_of_clevr.task import SortOfClevr

__all__ = ["SortOfClevr"]
