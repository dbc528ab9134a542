"""Words of questions, their numbers, and vectors from files in GloVe's format."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regard.errors import UserError
from regard.models.vqa.vocabulary import PAD, UNKNOWN
from regard.tasks.vqa import WordVocabulary, read_vectors, tokenize, tokenize_possessive


@pytest.mark.parametrize(
    ("question", "plain", "possessive"),
    [
        ("What color is it?", ["what", "color", "is", "it"], ["what", "color", "is", "it"]),
        (
            "What's the man's T-shirt?",
            ["whats", "the", "mans", "t", "shirt"],
            ["what", "'s", "the", "man", "'s", "t-shirt"],
        ),
        ("Red, or blue/green?", ["red", "or", "blue", "green"], ["red", "or", "blue/green"]),
        ('Is "No. 5" #1 (here)!', ["is", "no", "5", "1", "here"], ["is", '"no.', '5"', "#1", "(here)!"]),
        ("  ?  ", [], []),
    ],
)
def test_questions_are_parted_as_the_field_does(question: str, plain: list[str], possessive: list[str]) -> None:
    assert tokenize(question) == plain
    assert tokenize_possessive(question) == possessive


QUESTIONS = ["Is it red?", "Is it blue?", "What is it"]


def test_words_are_numbered_by_occurrence_then_by_alphabet() -> None:
    assert WordVocabulary.of(QUESTIONS).words == (PAD, UNKNOWN, "is", "it", "blue", "red", "what")
    assert WordVocabulary.of(QUESTIONS, minimum=2).words == (PAD, UNKNOWN, "is", "it")
    possessive = WordVocabulary.of(["it's"], tokenizer=tokenize_possessive)
    assert possessive.words[2:] == ("'s", "it")


def test_unknown_words_have_a_number_of_their_own() -> None:
    assert WordVocabulary.of(QUESTIONS).encode("Is it a red cat?") == [2, 3, 1, 5, 1]


def test_questions_are_filled_up_or_cut_to_one_length() -> None:
    vocabulary = WordVocabulary.of(QUESTIONS)
    words, mask = vocabulary.batch(["is it red", "?", "what is it what is it"], length=5)
    assert words.tolist() == [[2, 3, 5, 0, 0], [0] * 5, [6, 2, 3, 6, 2]]
    assert mask.tolist() == [[True] * 3 + [False] * 2, [False] * 5, [True] * 5]
    assert vocabulary.batch(["is it", "red"], length=None)[0].tolist() == [[2, 3], [5, 0]]
    assert vocabulary.batch([], length=None)[0].shape == (0, 0)
    assert vocabulary.batch(["red"])[0].shape == (1, 14)


def test_padding_may_stand_at_the_start() -> None:
    words, mask = WordVocabulary.of(QUESTIONS).batch(["is it red", "?"], length=5, padding="start")
    assert words.tolist() == [[0, 0, 2, 3, 5], [0] * 5]
    assert mask.tolist() == [[False] * 2 + [True] * 3, [False] * 5]


@pytest.mark.usefixtures("unchecked_shapes")
def test_padding_elsewhere_is_refused() -> None:
    wrong: Any = "middle"
    with pytest.raises(UserError, match="padding='middle': expected 'end' or 'start'"):
        WordVocabulary.of(QUESTIONS).batch(["is it"], padding=wrong)


def test_a_vocabulary_begins_with_padding_and_has_each_word_once() -> None:
    for words in (("red", "blue"), (PAD, UNKNOWN, "red", "red")):
        with pytest.raises(UserError, match="expected '<pad>', '<unknown>', and then each word once"):
            WordVocabulary(words)


def glove(folder: Path, *lines: str) -> Path:
    path = folder / "glove.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


VOCABULARY = WordVocabulary((PAD, UNKNOWN, "red", "at", "blue"))


def test_vectors_are_found_by_word_and_their_coverage_is_told(tmp_path: Path) -> None:
    path = glove(tmp_path, ", 9 9 9", "blue -1 0.5 2e-1", "at name@domain.com 7 7 7", "red 3 5 7", "red 8 8 8")
    found = read_vectors(path, VOCABULARY)
    expected = torch.tensor([[0.0] * 3, [0.0] * 3, [3.0, 5.0, 7.0], [0.0] * 3, [-1, 0.5, 0.2]])
    assert torch.equal(found.matrix, expected)
    assert found.missing == ("at",)
    assert found.coverage == pytest.approx(2 / 3)


def test_a_first_line_of_sizes_is_no_word(tmp_path: Path) -> None:
    found = read_vectors(glove(tmp_path, "2 3", "red 3 5 7", "x 1 2 3"), VOCABULARY)
    assert found.matrix.shape == (5, 3)
    assert found.missing == ("at", "blue")


def test_words_without_a_vector_may_be_drawn_and_padding_never_is(tmp_path: Path) -> None:
    words = WordVocabulary((PAD, UNKNOWN, "red", *(f"w{number}" for number in range(2000))))
    path = glove(tmp_path, "red 3 5 7")
    first, second = (
        read_vectors(path, words, deviation=0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first.matrix, second.matrix)
    assert not first.matrix[0].any()
    assert first.matrix[1].all()
    assert first.matrix[2].tolist() == [3, 5, 7]
    assert first.matrix[3:].std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"red\n", "line 1: no numbers after the word"),
        (b"x 1 2 3\nred 1 2\n", "line 2: expected 'red' and 3 numbers, as in the first line; download"),
        (b"x 1 2 3\nred 1 2 oops\n", "line 2: expected 'red' and 3 numbers"),
        (b"\xff\xfe\n", "is not text in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_of_vectors_is_named_by_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_vectors(path, VOCABULARY)


def test_a_file_of_vectors_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*glove\.txt"):
        read_vectors(tmp_path / "glove.txt", VOCABULARY)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        read_vectors(tmp_path, VOCABULARY)
