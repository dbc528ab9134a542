"""Vectors of words from a GloVe file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import UserError
from regard.models.vqa.vocabulary import WordVocabulary


@dataclass(frozen=True)
class WordVectors:
    """Vectors for the words of a vocabulary.

    Attributes:
        matrix: in the order of the vocabulary; zeros for `PAD`.
        missing: the words that the file has no vector for, in the order of the vocabulary.
        coverage: the share of words, without `PAD` and `UNKNOWN`, that it has one for.
    """

    matrix: Float[Tensor, "words channels"]
    missing: tuple[str, ...] = field(repr=False)
    coverage: float


def read_vectors(
    path: Path, vocabulary: WordVocabulary, *, deviation: float = 0, generator: torch.Generator | None = None
) -> WordVectors:
    """The vectors of a GloVe text file, such as `glove.6B.300d.txt`, for the words of a vocabulary.

    Pennington et al., “GloVe: Global Vectors for Word Representation”, EMNLP 2014. One word and its numbers a line;
    words with spaces in them, as some in `glove.840B.300d.txt`, and fastText's first line of sizes are understood. The
    file is read once, line by line, and only the lines of known words are parsed.

    Args:
        path: the file.
        vocabulary: whose words are wanted.
        deviation: of the normal distribution that gives words without a vector theirs; zeros by default, as bottom-up
            top-down has it.
        generator: what draws those.

    Raises:
        UserError: the file is missing or not of that format.
    """
    wanted = {word: place for place, word in enumerate(vocabulary.words) if place > 1}
    found: dict[int, np.ndarray] = {}
    width: int | None = None
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and re.fullmatch(r"\d+ \d+\s*", line):
                    width = int(line.split()[1])
                    continue
                if width is None:
                    width = line.rstrip().count(" ")
                    if width == 0:
                        raise UserError(f"{path}, line 1: no numbers after the word: expected GloVe vectors as text")
                place = wanted.get(line[: line.find(" ")])
                if place is None or place in found:
                    continue
                word, *numbers = line.rstrip().rsplit(" ", width)
                if " " in word or not word:  # “at name@domain.com”, in glove.840B.300d.txt, is not “at”
                    continue
                try:
                    vector = np.array(numbers, np.float32)
                except ValueError:
                    vector = np.empty(0)
                if len(vector) != width:
                    raise UserError(
                        f"{path}, line {number}: expected {word!r} and {width} numbers, as in the first line; download "
                        "the file again"
                    )
                found[place] = vector
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}: expected GloVe vectors as text; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: expected GloVe vectors; unpack it first") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected GloVe vectors; check the path") from error
    if width is None:
        raise UserError(f"{path} is empty: expected a word and its numbers a line; download the file again")
    matrix = torch.zeros(len(vocabulary), width)
    if deviation:
        matrix[1:] = deviation * torch.randn(len(vocabulary) - 1, width, generator=generator)
    for place, vector in found.items():
        matrix[place] = torch.from_numpy(vector)
    return WordVectors(
        matrix=matrix,
        missing=tuple(word for word, place in wanted.items() if place not in found),
        coverage=len(found) / max(len(wanted), 1),
    )
