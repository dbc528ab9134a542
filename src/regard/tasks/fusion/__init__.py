"""A label that is told by a text, a picture, a sound and a video together."""

from regard.tasks.fusion.four_digits import RULES, FourDigits, bayes_accuracy, draw, vote_accuracy, write

__all__ = ["RULES", "FourDigits", "bayes_accuracy", "draw", "vote_accuracy", "write"]
