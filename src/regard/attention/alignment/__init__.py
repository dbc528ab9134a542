"""A query reads a memory."""

from regard.attention.alignment.additive import AdditiveRead

__all__ = ["AdditiveRead"]
