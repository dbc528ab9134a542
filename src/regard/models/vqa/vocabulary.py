"""Questions as the numbers of their words."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from regard.errors import UserError

LENGTH = 14
"""Words of a question that are read in VQA v2: only one in 400 has more (Teney et al., CVPR 2018)."""

PAD, UNKNOWN = "<pad>", "<unknown>"

_dropped = re.compile(r"""[.,'!?"()*#:;]""")
_parting = re.compile(r"[-/]")
_marked = re.compile(r"[\w']+|\?")


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


def tokenize_marked(question: str) -> list[str]:
    """Words in lower case, and question marks as words of their own: digit scenes and sort-of-CLEVR."""
    return _marked.findall(question.lower())


tokenizers: dict[str, Callable[[str], list[str]]] = {
    one.__name__: one for one in (tokenize, tokenize_possessive, tokenize_marked)
}
"""By the name under which a vocabulary that is saved notes its own."""


@dataclass(frozen=True)
class WordVocabulary:
    """The words that a model knows. Number 0 fills up short questions.

    Attributes:
        words: in the order of their numbers: `PAD`, then `UNKNOWN`, which stands for every other word, unless all that
            can be asked is known; other words are left out of a question then.
        tokenizer: what parts a question into words.
    """

    words: tuple[str, ...]
    tokenizer: Callable[[str], list[str]] = tokenize

    def __post_init__(self) -> None:
        if self.words[:1] != (PAD,) or UNKNOWN in self.words[2:] or len(set(self.words)) != len(self.words):
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
        numbers = (self._places.get(word, self._places.get(UNKNOWN)) for word in self.tokenizer(question))
        return [number for number in numbers if number is not None]

    def unknown(self, question: str) -> list[str]:
        """The words of one question that are not known, each once."""
        return [word for word in dict.fromkeys(self.tokenizer(question)) if word not in self._places]

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

    def as_json(self) -> dict[str, Any]:
        """The vocabulary as JSON can hold it.

        Raises:
            UserError: its tokenizer is none of `tokenizers`, and could not be found again.
        """
        if tokenizers.get(self.tokenizer.__name__) is not self.tokenizer:
            raise UserError(
                f"a vocabulary with the tokenizer {self.tokenizer.__name__} cannot be saved: expected one of "
                f"{', '.join(tokenizers)}; take one of them"
            )
        return {"tokenizer": self.tokenizer.__name__, "words": list(self.words)}

    @classmethod
    def from_json(cls, value: Any) -> "WordVocabulary":
        """The inverse of `as_json`.

        Raises:
            UserError: it is no vocabulary.
        """
        if not isinstance(value, dict) or not isinstance(value.get("words"), list):
            raise UserError(f"{str(value)[:60]!r} is no vocabulary: expected an object with 'tokenizer' and 'words'")
        if value.get("tokenizer") not in tokenizers:
            raise UserError(
                f"a vocabulary with the tokenizer {value.get('tokenizer')!r}: expected one of {', '.join(tokenizers)}"
            )
        return cls(tuple(value["words"]), tokenizers[value["tokenizer"]])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}
