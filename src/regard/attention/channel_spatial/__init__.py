"""A weight for channels and for positions together."""

__all__: list[str] = []
