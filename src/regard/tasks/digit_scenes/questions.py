"""Ask questions with one right answer about scenes of digits.

Each is asked only where nobody could argue about its answer:

    attribute   which number is the red digit?                  one digit has that colour
                what colour is the seven?                       there is one seven
    relation    which number is directly left of the red digit? one digit is red; the nearest one within 50 degrees of
                                                                straight left lies within 30 degrees of it, and any
                                                                other within 50 is at least half as far away again
    count       how many digits are red?                        always

A relation takes two steps: find the red digit, then look beside it. It is asked only in a direction in which the
answer depends on where one starts. Of a count, all answers that a scene has are alike likely, so that a mind made up
without looking is right in less than half of the cases.

Whether one digit is greater than another is not asked: no variant learned it in the time of a comparison (0.51 to 0.54
of yes or no).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from regard.tasks.digit_scenes.scenes import ABSENT, COLOURS, Scenes

FAMILIES = ("attribute", "relation", "count")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
ANSWERS = (*NUMBERS, *COLOURS)
"""All answers; a digit and a count share the number's word."""

_TEMPLATES = (
    "which number is the {colour} digit ?",
    "what colour is the {number} ?",
    "which number is directly {direction} the {colour} digit ?",
    "how many digits are {colour} ?",
)
WORDS = (
    "<pad>",
    *dict.fromkeys(
        word for text in (*_TEMPLATES, *DIRECTIONS, *NUMBERS, *COLOURS) for word in text.split() if "{" not in word
    ),
)
"""The vocabulary of questions; index 0 fills up short ones."""

LENGTH = max(len(template.replace("{direction}", "left of").split()) for template in _TEMPLATES)
"""Most words in a question."""

PER_SCENE = {"attribute": 4, "relation": 8, "count": 2}
"""How many questions of each family are asked about a scene."""

NOWHERE = -1
"""Instead of an object, for questions that ask about no single one."""


@dataclass(frozen=True)
class Questions:
    """The questions about a set of scenes, the same number about each.

    Attributes:
        words: indices into `WORDS`.
        answers: indices into `ANSWERS`.
        families: indices into `FAMILIES`.
        objects: which object of the scene the answer is read from, or `NOWHERE`.
    """

    words: Int[np.ndarray, "scenes questions words"]
    answers: Int[np.ndarray, "scenes questions"]
    families: Int[np.ndarray, "scenes questions"]
    objects: Int[np.ndarray, "scenes questions"]

    def where(self, able: Bool[np.ndarray, " scenes"], other: "Questions") -> "Questions":
        """These questions for the scenes that are able, the other ones for the rest."""
        columns = zip(_columns(self), _columns(other), strict=True)
        return Questions(*(np.where(able.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in columns))


def encode(question: str) -> list[int]:
    """The indices of a question's words, filled up to `LENGTH`."""
    words = [WORDS.index(word) for word in question.split()]
    return words + [0] * (LENGTH - len(words))


def decode(words: Int[np.ndarray, " words"]) -> str:
    """The question as text."""
    return " ".join(WORDS[word] for word in words if word).replace(" ?", "?")


def neighbours(scenes: Scenes) -> Int[np.ndarray, "scenes objects directions"]:
    """For each object and direction, the object that lies there beyond dispute, or `NOWHERE`."""
    there = scenes.labels != ABSENT
    offset = (scenes.corners[:, None] - scenes.corners[:, :, None]).astype(np.float64)  # (scenes, from, to, 2)
    distance = np.linalg.norm(offset, axis=-1)
    found = []
    for step in DIRECTIONS.values():
        along = offset @ np.array(step, np.float64)
        across = np.abs(offset @ np.array(step[::-1], np.float64))
        wide = (along > 0) & (across <= along * np.tan(np.radians(50))) & there[:, :, None] & there[:, None]
        away = np.where(wide, distance, np.inf)
        nearest = away.argmin(-1)[..., None]
        first, second = np.moveaxis(np.sort(away, axis=-1)[..., :2], -1, 0)
        straight = np.take_along_axis(across <= along * np.tan(np.radians(30)), nearest, -1)[..., 0]
        certain = np.isfinite(first) & straight & (second >= 1.5 * first)
        found.append(np.where(certain, nearest[..., 0], NOWHERE))
    return np.stack(found, axis=-1)


def alone(kinds: Int[np.ndarray, "scenes objects"]) -> Bool[np.ndarray, "scenes objects"]:
    """Which objects are there and share their kind with no other of the scene."""
    return ((kinds[:, :, None] == kinds[:, None]).sum(-1) == 1) & (kinds != ABSENT)


def choices(scenes: Scenes) -> dict[str, Bool[np.ndarray, "scenes *choices"]]:
    """Which questions can be asked, by template: about which objects, from where to where."""
    named = alone(scenes.colours)
    related = np.where(named[:, :, None], neighbours(scenes), NOWHERE)
    # Where every question in a direction has the same answer, it could be found without looking for where it starts.
    scene = np.arange(len(scenes))[:, None, None]
    answers = np.where(related == NOWHERE, ABSENT, scenes.labels[scene, related])
    lowest = np.where(answers == ABSENT, len(NUMBERS), answers).min(1, keepdims=True)
    related = np.where(answers.max(1, keepdims=True) > lowest, related, NOWHERE)
    return {"which": named, "what": alone(scenes.labels), "where": related != NOWHERE}


def askable(scenes: Scenes) -> Bool[np.ndarray, " scenes"]:
    """Which scenes allow at least one question of every family."""
    some = [np.any(possible.reshape(len(scenes), -1), axis=1) for possible in choices(scenes).values()]
    return np.logical_and.reduce(some)


def draw(
    random: np.random.Generator, possible: Bool[np.ndarray, "scenes *choices"], count: int
) -> Int[np.ndarray, "scenes count"]:
    """`count` possible choices of each scene, as indices into its flattened choices; any, where it has none.

    All choices are alike likely, and none is drawn again before all have been.
    """
    flat = possible.reshape(len(possible), -1)
    order = np.argsort(-(random.random(flat.shape) * flat), axis=1)
    turn = np.arange(count) % np.maximum(flat.sum(1, keepdims=True), 1)
    return np.take_along_axis(order, turn, axis=1)


def ask(scenes: Scenes, random: np.random.Generator, relations: bool = True) -> Questions:
    """Draw questions about scenes, `PER_SCENE` of each family; without relations, attributes in their place.

    Where a scene has none of a family to ask, it is asked for a digit by its colour instead, or, where no colour is
    there just once, for a count.
    """
    number, colour = scenes.labels, scenes.colours
    scene = np.arange(len(scenes))[:, None]
    possible = choices(scenes)
    if not relations:
        possible["where"] = np.zeros_like(possible["where"])
    there = neighbours(scenes)
    sentences = _sentences()

    def of(family: str, words: np.ndarray, answers: np.ndarray, objects: np.ndarray) -> Questions:
        return Questions(words, answers, np.full_like(answers, FAMILIES.index(family)), objects)

    def by_colour(count: int) -> Questions:
        which = draw(random, possible["which"], count)
        return of("attribute", sentences["which"][colour[scene, which]], number[scene, which], which)

    def by_number(count: int) -> Questions:
        what = draw(random, possible["what"], count)
        words = sentences["what"][number[scene, what]]
        return of("attribute", words, len(NUMBERS) + colour[scene, what], what)

    def by_direction(count: int) -> Questions:
        where = draw(random, possible["where"], count)
        origin, direction = where // len(DIRECTIONS), where % len(DIRECTIONS)
        found = there[scene, origin, direction]
        words = sentences["where"][direction, colour[scene, origin]]
        return of("relation", words, number[scene, found], found)

    def how_many(count: int) -> Questions:
        # The right answer is drawn first, all that the scene has alike likely: else nearly always none or one is right.
        totals = (colour[:, None] == np.arange(len(COLOURS))[:, None]).sum(-1)  # (scenes, colours)
        sharing = (totals[:, :, None] == totals[:, None]).sum(-1)  # (scenes, colours)
        share = np.cumsum(1 / sharing, axis=1)[..., None]  # (scenes, colours, 1)
        counted = (random.random((len(scenes), 1, count)) * share[:, -1:] >= share[:, :-1]).sum(1)  # (scenes, count)
        total = np.take_along_axis(totals, counted, axis=1)
        return of("count", sentences["many"][counted], total, np.full_like(total, NOWHERE))

    half = PER_SCENE["attribute"] // 2
    parts = [how_many(PER_SCENE["count"])]
    for template, questions, count in (
        ("which", by_colour, half),
        ("what", by_number, PER_SCENE["attribute"] - half),
        ("where", by_direction, PER_SCENE["relation"]),
    ):
        able, named = (np.any(possible[key].reshape(len(scenes), -1), axis=1) for key in (template, "which"))
        parts.append(questions(count).where(able, by_colour(count).where(named, how_many(count))))
    return Questions(*(np.concatenate(columns, axis=1) for columns in zip(*map(_columns, parts), strict=True)))


def _columns(questions: Questions) -> tuple[np.ndarray, ...]:
    return questions.words, questions.answers, questions.families, questions.objects


def _sentences() -> dict[str, np.ndarray]:
    """All questions there are, as word indices, by template and by what fills its gaps."""
    which, what, where, many = _TEMPLATES
    return {
        "which": np.array([encode(which.format(colour=c)) for c in COLOURS]),
        "what": np.array([encode(what.format(number=n)) for n in NUMBERS]),
        "where": np.array([[encode(where.format(direction=d, colour=c)) for c in COLOURS] for d in DIRECTIONS]),
        "many": np.array([encode(many.format(colour=c)) for c in COLOURS]),
    }
