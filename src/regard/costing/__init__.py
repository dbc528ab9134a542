"""What a model or mechanism costs."""

from regard.costing.costing import Cost, cost

__all__ = ["Cost", "cost"]
