"""Weights over branches and kernels."""

from regard.attention.branch.aff import AttentionalFeatureFusion
from regard.attention.branch.sk import SelectiveKernel

__all__ = ["AttentionalFeatureFusion", "SelectiveKernel"]
