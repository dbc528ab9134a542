"""Train, compare, resume."""

from regard.experiment.compare import compare

__all__ = ["compare"]
