"""Questions as the numbers of their words, and vectors of words from a GloVe file."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from regard.errors import UserError

LENGTH = 14
"""Words of a question that are read in VQA v2: only one in 400 has more (Teney et al., CVPR 2018)."""

PAD, UNKNOWN = "<pad>", "<unknown>"

_dropped = re.compile(r"""[.,'!?"()*#:;]""")
_parting = re.compile(r"[-/]")


def tokenize(question: str) -> list[str]:
    """Words in lower case without punctuation, parted at spaces, hyphens and slashes: MFB, MCAN and openvqa.

    An apostrophe is dropped like the rest: “what's” becomes “whats”.
    """
    return _parting.sub(" ", _dropped.sub("", question.lower())).split()


def tokenize_possessive(question: str) -> list[str]:
    """Words in lower case without commas and question marks, “'s” by itself: bottom-up top-down, BAN.

    All other punctuation stays with its word. GloVe has a vector for “'s”, and none for “whats” that means the same.
    """
    return question.lower().replace(",", "").replace("?", "").replace("'s", " 's").split()


@dataclass(frozen=True)
class WordVocabulary:
    """The words that a model knows. Number 0 fills up short questions, number 1 stands for every other word.

    Attributes:
        words: in the order of their numbers, `PAD` and `UNKNOWN` first.
        tokenizer: what parts a question into words.
    """

    words: tuple[str, ...]
    tokenizer: Callable[[str], list[str]] = tokenize

    def __post_init__(self) -> None:
        if self.words[:2] != (PAD, UNKNOWN) or len(set(self.words)) != len(self.words):
            raise UserError(
                f"a vocabulary of {len(self.words)} words that begins with {', '.join(map(repr, self.words[:2]))}: "
                f"expected {PAD!r}, {UNKNOWN!r}, and then each word once; make one with WordVocabulary.of"
            )

    @classmethod
    def of(
        cls, questions: Iterable[str], *, minimum: int = 1, tokenizer: Callable[[str], list[str]] = tokenize
    ) -> "WordVocabulary":
        """The words of the training questions, the most frequent first, those of equal number in alphabetical order.

        Args:
            questions: their texts.
            minimum: how many times a word must occur. Above 1, the unknown word is met in training too.
            tokenizer: what parts a question into words.
        """
        counts = Counter(word for question in questions for word in tokenizer(question))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        known = (word for word, times in ranked if times >= minimum and word not in (PAD, UNKNOWN))
        return cls((PAD, UNKNOWN, *known), tokenizer)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, question: str) -> list[int]:
        """The numbers of the words of one question."""
        return [self._places.get(word, 1) for word in self.tokenizer(question)]

    def batch(
        self, questions: Sequence[str], *, length: int | None = LENGTH, padding: Literal["end", "start"] = "end"
    ) -> tuple[Int[Tensor, "B words"], Bool[Tensor, "B words"]]:
        """Several questions, and where their words are.

        Args:
            questions: their texts.
            length: cut longer ones and fill up shorter ones to so many words; None for as many as the longest has.
            padding: `"start"` as bottom-up top-down, whose last state is then always that of the last word.

        Returns:
            The numbers of the words, and True for what is a word. A question without words has none.

        Raises:
            UserError: `padding` is neither.
        """
        if padding not in ("end", "start"):
            raise UserError(f"padding={padding!r}: expected 'end' or 'start'")
        coded = [self.encode(question)[:length] for question in questions]
        width = max((len(one) for one in coded), default=0) if length is None else length
        words = torch.zeros(len(coded), width, dtype=torch.long)
        mask = torch.zeros(len(coded), width, dtype=torch.bool)
        for at, one in enumerate(coded):
            place = slice(0, len(one)) if padding == "end" else slice(width - len(one), width)
            words[at, place] = torch.tensor(one, dtype=torch.long)
            mask[at, place] = True
        return words, mask

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}


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
