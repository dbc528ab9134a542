"""What is asked about a scene, the one right answer, and the object it is read from.

    non-relational  shape     what is the shape of the red object ?
                    left      is the red object on the left ?              its column is below 37.5
                    up        is the red object at the top ?               its row is below 37.5
    relational      closest   what is the shape of the object closest to the red object ?
                    furthest  what is the shape of the object furthest from the red object ?
                    count     how many objects have the shape of the red object ?    itself included
    ternary         between   how many objects lie in the box between the red and the blue object ?
                    band      is an object within twelve rows of the line through the red and the blue object ?
                    obtuse    how many objects make an obtuse triangle with the red and the blue object ?

The first two families are those of Santoro et al. 2017; the third was added by the authors of the generator named in
`scenes` and is what transformers are measured on. Distances are between centres; of two objects alike far away the one
whose colour stands first counts. The ternary questions are about the other four objects; a right angle counts as
obtuse, three centres on one line make no triangle, and near a vertical line is only what lies on it. All of this is
computed in whole numbers. The generator computes ternary answers in floating point, so that chance decides where an
object is just twelve rows away, an angle right or three centres on one line: 0.15 % of its answers about bands and
0.3 % of those about triangles differ from these.
"""

from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from regard.errors import UserError
from regard.tasks.sort_of_clevr.scenes import COLOURS, OBJECTS, SHAPES, SIDE, Scenes

FAMILIES = ("non-relational", "relational", "ternary")
KINDS = ("shape", "left", "up", "closest", "furthest", "count", "between", "band", "obtuse")
"""The kinds of questions, three a family."""

ANSWERS = ("yes", "no", *SHAPES, "1", "2", "3", "4", "5", "6")
"""All answers, in the generator's order. A ternary count, 0 to 4, has the place of the number after it: see `say`."""

NOWHERE = -1
"""Instead of an object, where a question or its answer is about no single one."""

BAND = 12
"""Rows above or below a line that still count as near it."""

_OWN_DISTANCE = 999
"""The squared distance to itself that the generator gives an object so that it is not its own nearest neighbour."""

_NUMBER = ANSWERS.index("1")

_TEMPLATES = (
    "what is the shape of the {colour} object ?",
    "is the {colour} object on the left ?",
    "is the {colour} object at the top ?",
    "what is the shape of the object closest to the {colour} object ?",
    "what is the shape of the object furthest from the {colour} object ?",
    "how many objects have the shape of the {colour} object ?",
    "how many objects lie in the box between the {colour} and the {other} object ?",
    "is an object within twelve rows of the line through the {colour} and the {other} object ?",
    "how many objects make an obtuse triangle with the {colour} and the {other} object ?",
)
WORDS = (
    "<pad>",
    *dict.fromkeys(word for text in (*_TEMPLATES, *COLOURS) for word in text.split() if "{" not in word),
)
"""The vocabulary of questions; index 0 fills up short ones."""

LENGTH = max(len(template.split()) for template in _TEMPLATES)
"""Most words in a question."""


@dataclass(frozen=True)
class Questions:
    """The questions about a set of scenes, the same number about each.

    Attributes:
        kinds: indices into `KINDS`.
        objects: which object of the scene is asked about.
        others: the second object asked about, or `NOWHERE`.
        answers: indices into `ANSWERS`.
        found: the object whose property is the answer (itself, the closest, the furthest), or `NOWHERE`.
    """

    kinds: Int[Tensor, "scenes questions"]
    objects: Int[Tensor, "scenes questions"]
    others: Int[Tensor, "scenes questions"]
    answers: Int[Tensor, "scenes questions"]
    found: Int[Tensor, "scenes questions"]

    def __len__(self) -> int:
        return len(self.kinds)

    def take(self, keep: slice | Int[Tensor, " some"]) -> "Questions":
        """The questions about the scenes with these indices."""
        return Questions(*(getattr(self, field.name)[keep] for field in fields(self)))

    def first(self, count: int) -> "Questions":
        """The first questions about every scene."""
        return Questions(*(getattr(self, field.name)[:, :count] for field in fields(self)))

    def about(self, scenes: Scenes, own_nearest_neighbour: bool = False) -> "Questions":
        """The same questions, answered about other scenes."""
        answers, found = answer(scenes, self.kinds, self.objects, self.others, own_nearest_neighbour)
        return replace(self, answers=answers, found=found)


def ask(
    scenes: Scenes,
    kinds: Int[Tensor, "scenes questions"],
    objects: Int[Tensor, "scenes questions"],
    others: Int[Tensor, "scenes questions"],
    own_nearest_neighbour: bool = False,
) -> Questions:
    """These questions with their answers."""
    return Questions(kinds, objects, others, *answer(scenes, kinds, objects, others, own_nearest_neighbour))


def answer(
    scenes: Scenes,
    kinds: Int[Tensor, "scenes questions"],
    objects: Int[Tensor, "scenes questions"],
    others: Int[Tensor, "scenes questions"],
    own_nearest_neighbour: bool = False,
) -> tuple[Int[Tensor, "scenes questions"], Int[Tensor, "scenes questions"]]:
    """The right answers, and the objects they are read from.

    Args:
        scenes: what is asked about.
        kinds: what is asked, as in `Questions`.
        objects: about which object.
        others: and which second one.
        own_nearest_neighbour: a defect of the generator: an object whose every neighbour is further than 31.6 pixels
            away counts as the closest to itself (about 7 % of these questions; half of the answers change).
    """
    scene = torch.arange(len(scenes), device=kinds.device)[:, None]
    number = torch.arange(OBJECTS, device=kinds.device)
    every, shape = scenes.centres[:, None], scenes.shapes[:, None]  # (scenes, 1, objects, 2), (scenes, 1, objects)
    own = scenes.centres[scene, objects][:, :, None]  # (scenes, questions, 1, 2)
    other = scenes.centres[scene, others.clamp(min=0)][:, :, None]
    itself = number == objects[..., None]  # (scenes, questions, objects)
    rest = ~itself & (number != others[..., None])

    distance = (every - own).square().sum(-1)
    no_distance = _OWN_DISTANCE if own_nearest_neighbour else 2 * SIDE**2
    closest = distance.masked_fill(itself, no_distance).argmin(-1)  # argmin and argmax give the first of equal ones
    furthest = distance.argmax(-1)
    alike = shape == scenes.shapes[scene, objects][..., None]

    inside = ((every >= torch.minimum(own, other)) & (every <= torch.maximum(own, other))).all(-1)
    down, across = (other - own).unbind(-1)
    apart = (every - own)[..., 0] * across - (every - own)[..., 1] * down  # rows from the line, times `across`
    near = apart.abs() <= BAND * across.abs()
    corners = (_angle(own, other, every), _angle(other, own, every), _angle(every, own, other))
    obtuse = (torch.stack(corners).amin(0) <= 0) & (apart != 0)

    yes, no = ANSWERS.index("yes"), ANSWERS.index("no")
    square = ANSWERS.index(SHAPES[0])
    before_middle = torch.where(2 * own[:, :, 0] < SIDE, yes, no)  # (scenes, questions, 2)
    by_kind = torch.stack(
        [
            square + scenes.shapes[scene, objects],
            before_middle[..., 1],
            before_middle[..., 0],
            square + scenes.shapes[scene, closest],
            square + scenes.shapes[scene, furthest],
            _NUMBER - 1 + alike.sum(-1),
            _NUMBER + (inside & rest).sum(-1),
            torch.where((near & rest).any(-1), yes, no),
            _NUMBER + (obtuse & rest).sum(-1),
        ],
        dim=-1,
    )
    nowhere = torch.full_like(objects, NOWHERE)
    places = torch.stack([objects, objects, objects, closest, furthest, *[nowhere] * 4], dim=-1)
    kind = kinds[..., None]
    return by_kind.gather(-1, kind)[..., 0], places.gather(-1, kind)[..., 0]


def vectors(scenes: Scenes, questions: Questions, width: int = 18) -> Float[Tensor, "scenes questions width"]:
    """The questions as the generator's vectors of ones and zeros.

    Args:
        scenes: what the questions are about: they name an object by its colour.
        questions: what is asked.
        width: 18 (colour, second colour, family of three, kind of three) or, without ternary questions, 11 (colour,
            family of two, kind of three), the vector of Santoro et al.

    Raises:
        UserError: another width, or 11 with ternary questions.
    """
    families, kinds = questions.kinds // 3, questions.kinds % 3
    colour = F.one_hot(scenes.colours.gather(1, questions.objects), OBJECTS)
    if width == 18:
        other = F.one_hot(scenes.colours.gather(1, questions.others.clamp(min=0)), OBJECTS)
        parts = [colour, other * (questions.others != NOWHERE)[..., None], F.one_hot(families, 3), F.one_hot(kinds, 3)]
    elif width == 11 and not (families == FAMILIES.index("ternary")).any():
        parts = [colour, F.one_hot(families, 2), F.one_hot(kinds, 3)]
    else:
        asked = "ternary questions" if width == 11 else "questions"
        raise UserError(f"{asked} do not go into vectors of {width}: take 18, or 11 where no ternary ones are asked")
    return torch.cat(parts, dim=-1).float()


def words(scenes: Scenes, questions: Questions) -> Int[Tensor, "scenes questions words"]:
    """The questions as indices into `WORDS`, filled up to `LENGTH`."""
    colour = scenes.colours.gather(1, questions.objects)
    other = scenes.colours.gather(1, questions.others.clamp(min=0))
    return _sentences().to(colour.device)[questions.kinds, colour, other]


def encode(question: str) -> list[int]:
    """The indices of a question's words, filled up to `LENGTH`.

    Raises:
        UserError: a word that no question has, or too many words.
    """
    text = question.replace("?", " ?").lower().split()
    unknown = [word for word in text if word not in WORDS[1:]]
    if unknown or len(text) > LENGTH:
        raise UserError(
            f"{question!r} is not among the questions asked here"
            + (f" (no question has {', '.join(map(repr, unknown))})" if unknown else "")
            + "; ask one such as: "
            + "; ".join(template.format(colour="red", other="blue") for template in _TEMPLATES)
        )
    return [WORDS.index(word) for word in text] + [0] * (LENGTH - len(text))


def decode(indices: Int[Tensor, " words"]) -> str:
    """The question as text."""
    return " ".join(WORDS[word] for word in indices.tolist() if word).replace(" ?", "?")


def say(answer: int, kind: int) -> str:
    """An answer to a question of some kind in words: ternary counts begin at 0, which has the place of 1."""
    if KINDS[kind] in ("between", "obtuse") and answer >= _NUMBER:
        return str(answer - _NUMBER)
    return ANSWERS[answer]


def _angle(
    at: Int[Tensor, "*shape 2"], one: Int[Tensor, "*other 2"], another: Int[Tensor, "*third 2"]
) -> Int[Tensor, "..."]:
    """Above 0 where two points are seen from a third under less than a right angle, below 0 where under more."""
    return ((one - at) * (another - at)).sum(-1)


@cache
def _sentences() -> Int[Tensor, "kinds colours others words"]:
    """All questions there are."""
    return torch.tensor(
        [[[encode(text.format(colour=c, other=o)) for o in COLOURS] for c in COLOURS] for text in _TEMPLATES]
    )
