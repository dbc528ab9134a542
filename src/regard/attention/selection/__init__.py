"""A map gives up the regions that matter."""

__all__: list[str] = []
