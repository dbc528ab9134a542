"""Every position reads the whole map or sequence."""

__all__: list[str] = []
