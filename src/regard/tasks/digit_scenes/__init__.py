"""Questions about scenes of handwritten digits."""

from regard.tasks.digit_scenes.task import DigitScenes

__all__ = ["DigitScenes"]
