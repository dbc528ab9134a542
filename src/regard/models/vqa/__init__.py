"""Visual question answering: encoders of pictures and of questions, and the cores that join them, a paper each."""

from regard.models.vqa.answer import Answer, Look
from regard.models.vqa.core import Core
from regard.models.vqa.cores import cores, create
from regard.models.vqa.huggingface import BlipAnswering, ViltAnswering
from regard.models.vqa.model import Answering, VisualQuestionAnswering
from regard.models.vqa.recipe import Recipe, build, load, save
from regard.models.vqa.sight import (
    DetectedRegions,
    GridEncoder,
    RegionEncoder,
    Regions,
    Sight,
    convolutions,
    pooled_convolutions,
)
from regard.models.vqa.view import View
from regard.models.vqa.vocabulary import WordVocabulary
from regard.models.vqa.words import BagOfWords, HuggingFaceQuestion, PlacedWords, QuestionEncoder, QuestionVector, Words

__all__ = [
    "Answer",
    "Answering",
    "BagOfWords",
    "BlipAnswering",
    "Core",
    "DetectedRegions",
    "GridEncoder",
    "HuggingFaceQuestion",
    "Look",
    "PlacedWords",
    "QuestionEncoder",
    "QuestionVector",
    "Recipe",
    "RegionEncoder",
    "Regions",
    "Sight",
    "View",
    "ViltAnswering",
    "VisualQuestionAnswering",
    "WordVocabulary",
    "Words",
    "build",
    "convolutions",
    "cores",
    "create",
    "load",
    "pooled_convolutions",
    "save",
]
