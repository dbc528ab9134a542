"""The feed-forward part of the blocks of this family."""

from torch import nn


def feed_forward(width: int, hidden_width: int) -> nn.Sequential:
    """`W2 relu(W1 x + b1) + b2` on every token alone."""
    return nn.Sequential(nn.Linear(width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, width))
