"""Visual question answering: its data, its answers and its measure.

`formats` and `tables` read data sets into `question.Questions`, `answers` turns answers into numbers, `words` reads
vectors of words, `regions` reads region features, `accuracy` is the official measure, and `predictions` writes what
evaluation servers take. `source` recognises whose format a file has. `task` trains models on them: `asked` gives what a
model takes, `seeing` keeps what a frozen encoder made of pictures, `targets` is what is learned, `outcomes` measures.
"""

from regard.models.vqa.vocabulary import WordVocabulary, tokenize, tokenize_possessive
from regard.tasks.vqa.accuracy import Accuracy, Report, exact_match, normal_form, vqa_accuracy
from regard.tasks.vqa.answers import (
    AnswerVocabulary,
    consensus_cross_entropy,
    distribution_divergence,
    sampled_cross_entropy,
    soft_binary_cross_entropy,
    weighted_likelihood,
)
from regard.tasks.vqa.formats import clevr, gqa, textvqa, visual_genome, vqa
from regard.tasks.vqa.predictions import write_clevr, write_gqa, write_vqa
from regard.tasks.vqa.question import Question, Questions
from regard.tasks.vqa.regions import RegionArchive, RegionBatch, Regions, padded, read_regions
from regard.tasks.vqa.source import Source
from regard.tasks.vqa.tables import comma_separated, hugging_face
from regard.tasks.vqa.task import VisualQuestions
from regard.tasks.vqa.words import WordVectors, read_vectors

__all__ = [
    "Accuracy",
    "AnswerVocabulary",
    "Question",
    "Questions",
    "RegionArchive",
    "RegionBatch",
    "Regions",
    "Report",
    "Source",
    "VisualQuestions",
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
    "weighted_likelihood",
    "write_clevr",
    "write_gqa",
    "write_vqa",
]
