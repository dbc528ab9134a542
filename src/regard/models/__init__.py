"""Whole systems."""

from regard.models.moving import FindThenMove
from regard.models.reading import MeanRead
from regard.models.visual_question_answering import VisualQuestionAnswering

__all__ = ["FindThenMove", "MeanRead", "VisualQuestionAnswering"]
