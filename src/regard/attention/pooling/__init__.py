"""A map or sequence becomes one vector."""

__all__: list[str] = []
