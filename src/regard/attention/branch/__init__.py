"""Weights over branches and kernels."""

__all__: list[str] = []
