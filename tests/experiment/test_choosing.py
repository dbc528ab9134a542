"""Which task is meant, what it takes of what was asked for, and whether a run's data is still what it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.errors import UserError
from regard.experiment.choosing import Asked, choose, recipe_of, reopened
from regard.experiment.settings import Settings
from regard.tasks.vqa.source import Source
from small_photos import photos, table

REGIONS: dict[str, Any] = {"regions": Path("regions.h5")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({**REGIONS, "backbone": "resnet18"}, "--backbone resnet18 means nothing to region features"),
        ({**REGIONS, "backbone": "detector"}, "--backbone detector means nothing to region features"),
        ({**REGIONS, "frozen": True}, "--frozen means nothing to region features"),
        ({**REGIONS, "pretrained": True}, "--pretrained means nothing to region features"),
        ({**REGIONS, "size": 96}, "--size 96 means nothing to region features"),
        ({"question": "bert", "width": 256}, "--width 256 means nothing to question 'bert', which is none of lstm"),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe_of(Asked(**given), "mlb")


@pytest.mark.parametrize(
    ("given", "image", "arguments", "size"),
    [
        (REGIONS, "regions", {}, 224),
        ({"backbone": "resnet18", "frozen": True, "size": 96}, "resnet18", {"frozen": True}, 96),
        ({"pretrained": True}, "resnet18", {"pretrained": True}, 224),
        ({"backbone": "detector", "pretrained": True}, "detector", {"pretrained": True}, 480),
    ],
)
def test_what_it_has_a_use_for_is_in_its_recipe(given: Any, image: str, arguments: Any, size: int) -> None:
    recipe = recipe_of(Asked(**given, width=256), "mlb")
    assert (recipe.image, recipe.image_arguments, recipe.size) == (image, arguments, size)
    assert recipe.question_arguments == {"width": 256}
    assert recipe_of(Asked(**given, question="bert"), "mlb").question_arguments == {}


def kept(asked: Asked) -> dict[str, Any]:
    """The settings of a run, as they are read again."""
    chosen = choose(asked, lambda _: Path())
    data = str(asked.data.resolve()) if asked.data else None
    settings = Settings(
        chosen.task.name, data, chosen.size, asked.batch, 1, None, "cpu", "32-true", chosen.attention, 1, chosen.options
    )
    return json.loads(json.dumps(settings.as_json()))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Questions about photos in a folder that is named from the one above it."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", 7, 15)
    photos(tmp_path / "photos" / "more", 2, 15)
    return Asked(Path("photos"), ("mlb",), 15, questions=Source(Path("photos/questions.csv"), Path("photos")), width=8)


def test_a_task_is_the_same_when_it_is_opened_again(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "regions").mkdir()
    for number in range(7):
        given = {"x": np.full((2, 5), number), "bbox": np.array([[0, 0, 9, 9]] * 2), "image_w": 15, "image_h": 15}
        np.savez(tmp_path / "regions" / f"{number}.npz", **given)
    for one in (asked, replace(asked, size=None, regions=Path("regions")), replace(asked, options={"joint_width": 3})):
        settings, task = kept(one), choose(one, lambda _: Path()).task
        again = reopened(settings, "cpu", tmp_path)
        assert [*again.test.questions] == [  # type: ignore[attr-defined]
            replace(question, image=tmp_path / question.image)
            for question in task.test.questions  # type: ignore
        ]
        assert again.recipe == task.recipe  # type: ignore[attr-defined]


def test_a_run_is_called_what_its_folder_is_called(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(folder: str) -> str:
        source = Source(Path(folder, "questions.csv"), Path(folder))
        return choose(replace(asked, data=Path(folder), questions=source), lambda _: Path()).name

    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path / "photos" / "more")
    assert [called(folder) for folder in ("..", "../../photos/", "../../link")] == ["photos", "photos", "link"]


def rows(folder: Path, change: Callable[[list[list[str]]], object]) -> None:
    path = folder / "photos" / "questions.csv"
    found = [line.split(",") for line in path.read_text().splitlines()[1:]]
    change(found)
    table(path, found)


CHANGED: dict[str, Callable[[list[list[str]]], object]] = {
    "another answer": lambda rows: rows[4].__setitem__(2, "round"),
    "another question": lambda rows: rows[4].__setitem__(1, "what form has it?"),
    "about another picture": lambda rows: rows[4].__setitem__(0, "2.png"),
    "about one of that name in another folder": lambda rows: [
        row.__setitem__(0, "more/1.png") for row in rows if row[0] == "1.png"
    ],
    "another order of pictures": lambda rows: rows.reverse(),
    "fewer": lambda rows: rows.pop(),
    "more about the same": lambda rows: rows.append(rows[0]),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=list(CHANGED))
def test_a_run_whose_questions_have_changed_is_not_opened(
    asked: Asked, tmp_path: Path, change: Callable[[list[list[str]]], object]
) -> None:
    settings = kept(asked)
    rows(tmp_path, lambda found: None)
    reopened(settings, "cpu", tmp_path)
    rows(tmp_path, change)
    with pytest.raises(
        UserError, match=r"has changed since it was trained \(21 questions [0-9a-f]{12} then, \d\d quest"
    ):
        reopened(settings, "cpu", tmp_path)


def test_a_whole_model_beside_others_has_the_same_questions_in_the_same_order(
    asked: Asked, checkpoints: dict[str, Path]
) -> None:
    names = ("vilt", "mlb")
    mixed = replace(asked, attention=names, size=12, batch=2, frozen=True, question=f"vilt={checkpoints['vilt']}")
    chosen = choose(mixed, lambda _: Path())
    # `Any`: of a task no more is known than what all have.
    mine: Any = chosen.task_of("vilt")
    other: Any = chosen.task_of("mlb")
    assert (mine.recipe.core, other.recipe.core, chosen.task is other) == ("vilt", "mlb", True)
    assert mine.answers.answers == other.answers.answers
    for part in ("training", "validation", "test"):
        assert list(getattr(mine, part).questions) == list(getattr(other, part).questions)
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        order = [
            [(batch.pictures.tolist(), batch.questions.tolist()) for batch in task.batches(seed, epoch, 0.0)]
            for task in (mine, other)
        ]
        assert order[0] == order[1]
    settings = kept(mixed)
    assert settings == {**kept(replace(mixed, attention=names[::-1])), "attention": list(names)}
    assert reopened(settings, "cpu", Path()).recipe.core == "mlb"  # type: ignore[attr-defined]


def test_models_that_cannot_be_asked_the_same_are_not_compared(
    asked: Asked, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "regions").mkdir()
    for number in range(7):
        given = {"x": np.ones((2, 5)), "bbox": np.array([[0, 0, 9, 9]] * 2), "image_w": 15, "image_h": 15}
        np.savez(tmp_path / "regions" / f"{number}.npz", **given)
    mixed = replace(
        asked, attention=("mlb", "vilt"), size=None, regions=Path("regions"), question=f"vilt={checkpoints['vilt']}",
        skip_bad=True,
    )  # fmt: skip
    assert choose(mixed, lambda _: Path()).task_of("vilt").view is not None  # type: ignore[attr-defined]
    (tmp_path / "photos" / "3.png").write_bytes(b"")  # whose regions are there still
    with pytest.raises(UserError, match=r"can be read by mlb and not by vilt.*leave those pictures out"):
        choose(mixed, lambda _: Path())


READERS: dict[str, tuple[str, str, str]] = {
    "of a model in parts": ("gru", "mlb", "gru"),
    "of a whole one": ("a/b", "vilt", "a/b"),
    "of a whole one by its name": ("vilt=a/b", "vilt", "a/b"),
    "of one beside it": ("vilt=a/b", "mlb", "lstm"),
    "of each": ("bert, vilt=a/b ,blip=c", "blip", "c"),
    "of those beside them": ("vilt=a/b,blip=c,bert", "mlb", "bert"),
    "of one that is not named": ("vilt=a/b,c", "blip", "c"),
    "with a comma in its name": ("a,b", "mlb", "a,b"),
}


@pytest.mark.parametrize("case", READERS)
def test_what_reads_the_questions_is_told_for_each_model(case: str) -> None:
    given, core, reader = READERS[case]
    assert recipe_of(Asked(question=given), core).question == reader


def test_variants_of_pictures_by_class_have_the_names_of_the_catalogue(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        photos(tmp_path / name, 3, 15)
    asked = Asked(data=tmp_path, attention=("CBAM", "squeeze excitation+SimAM", "cbam"), size=32)
    assert choose(asked, lambda _: tmp_path / "run").attention == ("none", "cbam", "se+simam")
    with pytest.raises(UserError, match="unknown mechanism 'cbma': did you mean 'cbam'"):
        choose(replace(asked, attention=("cbma",)), lambda _: tmp_path / "run")
