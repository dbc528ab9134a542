"""Sort-of-CLEVR: the pictures are the published generator's, and every answer is what a slow reader finds."""

import zlib
from fractions import Fraction
from functools import cache
from itertools import combinations

import pytest
import torch
from torch import Tensor

from regard.errors import UserError
from regard.tasks.sort_of_clevr.generation import generate
from regard.tasks.sort_of_clevr.questions import (
    ANSWERS,
    FAMILIES,
    KINDS,
    LENGTH,
    NOWHERE,
    WORDS,
    Questions,
    ask,
    decode,
    encode,
    say,
    vectors,
    words,
)
from regard.tasks.sort_of_clevr.scenes import COLOURS, GROUND, SHAPES, SIDE, Scenes, draw

CIRCLE = (
    ".....#.....",
    "..#######..",
    ".#########.",
    ".#########.",
    ".#########.",
    "###########",
    ".#########.",
    ".#########.",
    ".#########.",
    "..#######..",
    ".....#.....",
)
"""What OpenCV 5.0 fills for `circle(image, (5, 5), 5, colour, -1)`."""

SCENES = 60

drawn = cache(generate)


def arranged(*objects: tuple[str, int, int]) -> Scenes:
    """One scene of these shapes, rows and columns; the rest stands in a far corner, where tests ask nothing."""
    rest = [("square", 69, column) for column in (5, 17, 29, 41, 53)][: 6 - len(objects)]
    placed = [*objects, *rest]
    return draw(
        torch.tensor([[SHAPES.index(shape) for shape, _, _ in placed]]),
        torch.tensor([[[row, column] for _, row, column in placed]]),
    )


def answered(scenes: Scenes, kind: str, one: int, other: int = NOWHERE, defect: bool = False) -> tuple[str, int]:
    """The answer in words, and the object it is read from."""
    number = KINDS.index(kind)
    questions = ask(scenes, *(torch.tensor([[value]]) for value in (number, one, other)), own_nearest_neighbour=defect)
    return say(int(questions.answers), number), int(questions.found)


def oracle(scenes: Scenes, scene: int, text: str) -> tuple[str, str, int]:
    """What a slow reader of the text answers: the answer, its kind, and the object the answer is read from."""
    colours = [list(COLOURS)[number] for number in scenes.colours[scene]]
    shapes = [SHAPES[number] for number in scenes.shapes[scene]]
    places = [(int(row), int(column)) for row, column in scenes.centres[scene]]
    named = [colours.index(word) for word in text.replace("?", "").split() if word in COLOURS]
    one = named[0]
    row, column = places[one]

    def far(other: int) -> int:
        return (places[other][0] - row) ** 2 + (places[other][1] - column) ** 2

    if "closest" in text or "furthest" in text:
        best = None
        for other in range(6):
            better = best is None or (far(other) < far(best) if "closest" in text else far(other) > far(best))
            if other != one and better:
                best = other
        assert best is not None
        return shapes[best], "closest" if "closest" in text else "furthest", best
    if "left" in text:
        return "yes" if column < 37.5 else "no", "left", one
    if "top" in text:
        return "yes" if row < 37.5 else "no", "up", one
    if "have the shape" in text:
        return str(shapes.count(shapes[one])), "count", NOWHERE
    if len(named) == 1:
        return shapes[one], "shape", one

    (r, c), rest = places[named[1]], [places[other] for other in range(6) if other not in named]
    if "box" in text:
        rows, columns = sorted((row, r)), sorted((column, c))
        inside = [rows[0] <= y <= rows[1] and columns[0] <= x <= columns[1] for y, x in rest]
        return str(sum(inside)), "between", NOWHERE
    if "line" in text:
        if column == c:
            near = [x == c for _, x in rest]
        else:
            near = [abs(row + Fraction(r - row, c - column) * (x - column) - y) <= 12 for y, x in rest]
        return "yes" if any(near) else "no", "band", NOWHERE
    obtuse = 0
    for y, x in rest:
        sides = [(row - r) ** 2 + (column - c) ** 2, (row - y) ** 2 + (column - x) ** 2, (r - y) ** 2 + (c - x) ** 2]
        short, middle, long = sorted(sides)
        on_one_line = (long - short - middle) ** 2 == 4 * short * middle  # the roots of two add up to the third's
        obtuse += long >= short + middle and not on_one_line
    return str(obtuse), "obtuse", NOWHERE


def check(scenes: Scenes, questions: Questions) -> set[tuple[str, str]]:
    """Every answer against the oracle's; gives the kinds and answers that occurred."""
    sentences = words(scenes, questions)
    seen = set()
    for scene in range(len(scenes)):
        for index, kind in enumerate(questions.kinds[scene].tolist()):
            text = decode(sentences[scene, index])
            said = say(int(questions.answers[scene, index]), kind)
            assert (said, KINDS[kind], int(questions.found[scene, index])) == oracle(scenes, scene, text), text
            seen.add((KINDS[kind], said))
    return seen


def crc(values: Tensor) -> int:
    return zlib.crc32(values.to(torch.uint8).contiguous().numpy().tobytes())


def test_seed_one_gives_the_published_pictures_and_questions() -> None:
    """Facts of a run of the generator with seed 1 and OpenCV 5.0: its first picture, and checksums of the first 100."""
    scenes, questions = drawn(100, 1, True)
    across_down = [[42, 17], [14, 10], [69, 21], [30, 55], [25, 23], [16, 33]]
    assert scenes.centres[0].flip(-1).tolist() == across_down
    assert scenes.shapes[0].tolist() == [0, 1, 1, 0, 0, 0]
    assert questions.kinds[0].tolist() == [
        *(1, 0, 0, 1, 0, 1, 2, 2, 1, 0, 5, 3, 5, 4, 3, 3, 4, 3, 3, 3),
        *(7, 7, 6, 7, 8, 8, 6, 6, 8, 8),
    ]
    assert questions.objects[0].tolist() == [
        *(5, 1, 3, 3, 4, 5, 2, 1, 0, 0, 0, 4, 3, 1, 5, 4, 3, 4, 2, 5),
        *(3, 4, 2, 3, 2, 0, 4, 3, 4, 3),
    ]
    assert questions.others[0].tolist() == [-1] * 20 + [4, 3, 0, 2, 4, 1, 1, 2, 2, 2]
    assert questions.answers[0].tolist() == [
        *(0, 3, 2, 0, 2, 0, 0, 0, 1, 2, 7, 2, 7, 3, 2, 2, 3, 2, 2, 2),
        *(1, 1, 4, 1, 7, 6, 4, 4, 7, 5),
    ]
    assert crc(scenes.pictures().movedim(1, -1)) == 3202320760
    assert crc(vectors(scenes, questions)) == 2397654830
    assert crc(questions.answers[:, :20]) == 3710415353


def test_a_smaller_count_gives_the_first_scenes_and_another_seed_gives_others() -> None:
    scenes, questions = drawn(SCENES, 5)
    fewer, asked = generate(7, 5)
    assert torch.equal(fewer.owners, scenes.owners[:7])
    for name in ("kinds", "objects", "others", "answers", "found"):
        assert torch.equal(getattr(asked, name), getattr(questions, name)[:7])
    assert not torch.equal(generate(7, 6)[0].centres, fewer.centres)
    assert len(generate(0, 5)[0]) == 0


@pytest.mark.parametrize("seed", [5, 11])
def test_an_oracle_gives_the_same_answers(seed: int) -> None:
    seen = check(*drawn(SCENES, seed))
    everything = {("shape", shape) for shape in SHAPES} | {("closest", shape) for shape in SHAPES}
    everything |= {(kind, said) for kind in ("left", "up", "band") for said in ("yes", "no")}
    everything |= {("furthest", shape) for shape in SHAPES} | {("count", str(number)) for number in range(1, 6)}
    everything |= {("between", str(number)) for number in range(3)} | {("obtuse", str(n)) for n in range(1, 5)}
    assert seen >= everything


def test_an_oracle_gives_the_same_answers_in_other_colours_and_mirrored() -> None:
    scenes, questions = drawn(SCENES, 5)
    down, across = torch.randint(2, (2, SCENES))
    other = scenes.mirrored(down, across).recoloured(torch.rand(SCENES, 6).argsort(1))
    assert torch.equal(draw(other.shapes, other.centres).owners, other.owners)
    again = questions.about(other)
    check(other, again)
    beside = (questions.kinds // 3 != 0) & (questions.kinds != KINDS.index("band"))  # neither sides nor roundings
    assert torch.equal(again.answers[beside], questions.answers[beside])
    for scene in range(SCENES):
        axes = [axis for axis, flipped in ((1, down), (2, across)) if flipped[scene]]
        expected = scenes.take(slice(scene, scene + 1)).recoloured(other.colours[scene : scene + 1]).pictures()[0]
        assert torch.equal(other.take(slice(scene, scene + 1)).pictures()[0], expected.flip(axes))


def test_pixels_show_what_is_said() -> None:
    scenes, _ = drawn(SCENES, 5)
    scenes = scenes.take(slice(0, 5)).recoloured(torch.rand(5, 6).argsort(1))
    pictures = scenes.pictures()
    assert pictures.dtype == torch.uint8
    for scene in range(5):
        expected = torch.full((SIDE, SIDE, 3), 255)
        for number in range(6):
            row, column = scenes.centres[scene, number].tolist()
            for y in range(-5, 6):
                for x in range(-5, 6):
                    if scenes.shapes[scene, number] == SHAPES.index("square") or CIRCLE[y + 5][x + 5] == "#":
                        colour = list(COLOURS.values())[scenes.colours[scene, number]]
                        expected[row + y, column + x] = torch.tensor(colour)
        assert torch.equal(pictures[scene].movedim(0, -1).long(), expected)


def test_of_two_squares_that_meet_the_later_lies_on_top() -> None:
    scenes = arranged(("square", 20, 20), ("square", 27, 28))
    assert scenes.owners[0, 23, 24] == 1
    assert scenes.owners[0, 21, 24] == 0
    assert scenes.owners[0, 33, 30] == GROUND


def test_objects_keep_their_distance_and_lie_inside() -> None:
    scenes, _ = drawn(SCENES, 5)
    assert scenes.centres.min() == 5
    assert scenes.centres.max() == 69
    nearest = min(
        (one - other).square().sum().item() for centres in scenes.centres for one, other in combinations(centres, 2)
    )
    assert 100 <= nearest < 110


def test_ten_questions_of_each_family_and_yellow_in_no_ternary_one() -> None:
    _, questions = drawn(SCENES, 5)
    assert (questions.kinds // 3).tolist() == [[0] * 10 + [1] * 10 + [2] * 10] * SCENES
    ternary = questions.kinds // 3 == FAMILIES.index("ternary")
    for named in (questions.objects, questions.others):
        assert set(named[ternary].tolist()) == set(range(5))
    assert (questions.objects != questions.others)[ternary].all()
    assert (questions.others[~ternary] == NOWHERE).all()
    assert set(questions.objects[~ternary].tolist()) == set(range(6))
    assert questions.kinds.unique().tolist() == list(range(9))


def test_the_defect_makes_an_object_without_neighbours_its_own() -> None:
    # The nearest to the circle is 10 rows and 30 columns away, 1,000 squared: further than the generator's 999.
    scenes = arranged(("circle", 5, 5), ("square", 15, 35), ("square", 60, 60))
    assert answered(scenes, "closest", 0) == ("square", 1)
    assert answered(scenes, "closest", 0, defect=True) == ("circle", 0)
    assert answered(scenes, "closest", 1) == ("circle", 0)
    assert answered(scenes, "closest", 1, defect=True) == ("square", 1)
    near = arranged(("circle", 5, 5), ("square", 11, 36), ("square", 60, 60))  # 6 and 31: 997
    assert answered(near, "closest", 0, defect=True) == ("square", 1)


def test_an_object_far_from_all_others_is_not_its_own_neighbour() -> None:
    far = (("square", 69, 45), ("circle", 69, 57), ("circle", 69, 69), ("circle", 57, 69), ("circle", 44, 69))
    assert answered(arranged(("circle", 5, 5), *far), "closest", 0) == ("circle", 5)
    assert answered(arranged(far[0], ("circle", 5, 5), *far[1:]), "closest", 1) == ("circle", 5)


def test_the_defect_changes_about_as_many_answers_as_was_measured() -> None:
    """6.8 % of closest questions are about the object itself, 3.4 % change their answer (over 20,000 pictures)."""
    scenes, questions = drawn(600, 3, True)
    right = questions.about(scenes)
    closest = questions.kinds == KINDS.index("closest")
    own = (questions.found == questions.objects)[closest].double().mean()
    assert 0.05 < own < 0.09
    changed = questions.answers != right.answers
    assert 0.02 < changed[closest].double().mean() < 0.05
    assert not changed[~closest].any()
    assert not (right.found == right.objects)[closest].any()


def test_of_equally_far_objects_the_first_counts() -> None:
    scenes = arranged(
        ("square", 37, 37), ("square", 37, 57), ("circle", 57, 37), ("circle", 5, 5), ("square", 69, 69),
        ("square", 5, 69),
    )  # fmt: skip
    assert answered(scenes, "closest", 0) == ("square", 1)
    assert answered(scenes, "furthest", 0) == ("circle", 3)


def test_the_middle_is_left_of_and_above_37_and_a_half() -> None:
    scenes = arranged(("square", 37, 38), ("square", 38, 52), ("circle", 20, 37))
    assert [answered(scenes, "left", one)[0] for one in range(3)] == ["no", "no", "yes"]
    assert [answered(scenes, "up", one)[0] for one in range(3)] == ["yes", "no", "yes"]


def test_a_right_angle_is_obtuse_and_a_line_no_triangle() -> None:
    """Red at the origin of the two, green 30 columns on; the others make right, flat, acute and obtuse triangles."""
    scenes = arranged(
        ("square", 20, 10), ("square", 20, 40), ("square", 50, 10), ("square", 20, 60), ("square", 46, 25),
        ("square", 30, 25),
    )  # fmt: skip
    assert answered(scenes, "obtuse", 0, 1) == ("2", NOWHERE)  # the right and the obtuse one
    assert answered(scenes, "obtuse", 1, 0) == ("2", NOWHERE)


def test_the_box_has_edges_and_the_band_reaches_twelve_rows() -> None:
    def beside(row: int, column: int) -> Scenes:
        return arranged(
            ("circle", 20, 20), ("circle", 40, 60), ("square", row, column), ("square", 69, 5), ("square", 69, 17),
            ("square", 69, 29),
        )  # fmt: skip

    assert answered(beside(40, 30), "between", 0, 1)[0] == "1"
    assert answered(beside(41, 30), "between", 1, 0)[0] == "0"
    assert answered(beside(30, 60), "between", 1, 0)[0] == "1"
    assert answered(beside(30, 61), "between", 0, 1)[0] == "0"
    assert answered(beside(42, 40), "band", 0, 1)[0] == "yes"  # the line is at row 30 there
    assert answered(beside(43, 40), "band", 0, 1)[0] == "no"
    assert answered(beside(18, 40), "band", 1, 0)[0] == "yes"
    assert answered(beside(17, 40), "band", 1, 0)[0] == "no"


def test_near_a_vertical_line_is_what_lies_on_it() -> None:
    def beside(column: int) -> Scenes:
        return arranged(
            ("circle", 20, 40), ("circle", 40, 40), ("square", 60, column), ("square", 5, 5), ("square", 5, 17),
            ("square", 5, 29),
        )  # fmt: skip

    assert answered(beside(40), "band", 0, 1)[0] == "yes"
    assert answered(beside(41), "band", 0, 1)[0] == "no"


def test_vectors_name_colour_family_and_kind() -> None:
    scenes = arranged(("circle", 20, 20), ("square", 40, 40)).recoloured(torch.tensor([[4, 2, 0, 1, 3, 5]]))
    kinds = torch.tensor([[KINDS.index("furthest"), KINDS.index("obtuse")]])
    questions = ask(scenes, kinds, torch.tensor([[1, 0]]), torch.tensor([[NOWHERE, 1]]))
    gray, blue = 4, 2
    ones = [[int(place) for place in one.nonzero()] for one in vectors(scenes, questions)[0]]
    assert ones == [[blue, 12 + 1, 15 + 1], [gray, 6 + blue, 12 + 2, 15 + 2]]
    one = vectors(scenes, questions.first(1), 11)
    assert one.shape == (1, 1, 11)
    assert [int(place) for place in one[0, 0].nonzero()] == [blue, 6 + 1, 8 + 1]
    for width in (11, 12):
        with pytest.raises(UserError, match=f"vectors of {width}"):
            vectors(scenes, questions, width)
    with pytest.raises(UserError, match="vectors of 17"):
        vectors(scenes, questions.first(1), 17)


def test_words_are_read_back_and_unknown_ones_refused() -> None:
    scenes, questions = drawn(SCENES, 5)
    sentences = words(scenes, questions)
    assert sentences.shape == (SCENES, 30, LENGTH)
    assert sentences.max() == len(WORDS) - 1
    assert (sentences[..., -1] > 0).any()
    for sentence in sentences[0]:
        assert encode(decode(sentence)) == sentence.tolist()
    assert (
        decode(torch.tensor(encode("What is the shape of the red object?"))) == "what is the shape of the red object?"
    )
    with pytest.raises(UserError, match="'purple'"):
        encode("what is the shape of the purple object?")
    with pytest.raises(UserError, match="not among the questions"):
        encode("red " * (LENGTH + 1))


def test_ternary_counts_begin_at_zero_in_the_place_of_one() -> None:
    assert [say(answer, KINDS.index("count")) for answer in range(4, 10)] == list("123456")
    assert [say(answer, KINDS.index("between")) for answer in range(4, 9)] == list("01234")
    assert say(0, KINDS.index("band")) == "yes"
    assert say(2, KINDS.index("closest")) == ANSWERS[2] == "square"
