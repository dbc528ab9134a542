"""Visual question answering: encoders of pictures and of questions, and the cores that join them, a paper each."""

from regard.models.vqa.core import Core
from regard.models.vqa.cores import cores, create
from regard.models.vqa.huggingface import BlipAnswering, ViltAnswering
from regard.models.vqa.model import Answer, Answering, VisualQuestionAnswering
from regard.models.vqa.sight import DetectedRegions, GridEncoder, RegionEncoder, Regions, Sight, convolutions
from regard.models.vqa.words import BagOfWords, HuggingFaceQuestion, QuestionEncoder, QuestionVector, Words

__all__ = [
    "Answer",
    "Answering",
    "BagOfWords",
    "BlipAnswering",
    "Core",
    "DetectedRegions",
    "GridEncoder",
    "HuggingFaceQuestion",
    "QuestionEncoder",
    "QuestionVector",
    "RegionEncoder",
    "Regions",
    "Sight",
    "ViltAnswering",
    "VisualQuestionAnswering",
    "Words",
    "convolutions",
    "cores",
    "create",
]
