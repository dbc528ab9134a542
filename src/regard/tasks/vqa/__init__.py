"""Visual question answering: its data, its answers and its measure.

`formats` and `tables` read data sets into `question.Questions`, `words` and `answers` turn questions and answers into
numbers, `regions` reads region features, `accuracy` is the official measure, and `predictions` writes what evaluation
servers take.
"""

from regard.tasks.vqa.accuracy import Accuracy, Report, exact_match, normal_form, vqa_accuracy
from regard.tasks.vqa.answers import (
    AnswerVocabulary,
    consensus_cross_entropy,
    distribution_divergence,
    sampled_cross_entropy,
    soft_binary_cross_entropy,
)
from regard.tasks.vqa.formats import clevr, gqa, textvqa, visual_genome, vqa
from regard.tasks.vqa.predictions import write_clevr, write_gqa, write_vqa
from regard.tasks.vqa.question import Question, Questions
from regard.tasks.vqa.regions import RegionArchive, RegionBatch, Regions, padded, read_regions
from regard.tasks.vqa.tables import comma_separated, hugging_face
from regard.tasks.vqa.words import (
    WordVectors,
    WordVocabulary,
    read_vectors,
    tokenize,
    tokenize_possessive,
)

__all__ = [
    "Accuracy",
    "AnswerVocabulary",
    "Question",
    "Questions",
    "RegionArchive",
    "RegionBatch",
    "Regions",
    "Report",
    "WordVectors",
    "WordVocabulary",
    "clevr",
    "comma_separated",
    "consensus_cross_entropy",
    "distribution_divergence",
    "exact_match",
    "gqa",
    "hugging_face",
    "normal_form",
    "padded",
    "read_regions",
    "read_vectors",
    "sampled_cross_entropy",
    "soft_binary_cross_entropy",
    "textvqa",
    "tokenize",
    "tokenize_possessive",
    "visual_genome",
    "vqa",
    "vqa_accuracy",
    "write_clevr",
    "write_gqa",
    "write_vqa",
]
