"""What a model or mechanism costs, and how that grows with its input."""

from regard.costing.costing import Cost, cost, costs
from regard.costing.counting import Counts, count
from regard.costing.growth import Fit, Growth, growth

__all__ = ["Cost", "Counts", "Fit", "Growth", "cost", "costs", "count", "growth"]
