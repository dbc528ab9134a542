"""The feed-forward part of the blocks of this family."""

from torch import nn


def feed_forward(width: int, hidden_width: int, dropout: float = 0.0) -> nn.Sequential:
    """`W2 relu(W1 x + b1) + b2` on every token alone, with so much dropout of the hidden layer."""
    hidden = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
    return nn.Sequential(nn.Linear(width, hidden_width), hidden, nn.Linear(hidden_width, width))
