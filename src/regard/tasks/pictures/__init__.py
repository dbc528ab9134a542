"""The comparison on somebody's own pictures: a folder with one sub-folder a class.

`folder` finds the pictures, `views` cuts out what a network sees, `backbone` builds the model of timm, `maps` lays out
attention maps for the report, `task` puts them together.
"""

from regard.tasks.pictures.task import PicturesTask

__all__ = ["PicturesTask"]
