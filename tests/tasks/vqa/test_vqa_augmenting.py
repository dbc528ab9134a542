"""Training pictures varied: how far they move, from what that is drawn, and where there are none to vary."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from regard.errors import UserError
from regard.experiment.choosing import Asked, choose, reopened
from regard.experiment.training import Budget, Fit, Progress, train
from regard.models.vqa import Recipe
from regard.tasks.vqa.asked import MOST
from regard.tasks.vqa.augmenting import drawn, shifted
from regard.tasks.vqa.source import Source
from regard.tasks.vqa.task import VisualQuestions
from small_photos import photos, table


def recipe(core: str = "stacked_attention", **arguments: Any) -> Recipe:
    return Recipe(
        core, image="convolutions", image_arguments={"widths": [5, 7], **arguments}, size=19, question="gru",
        question_arguments={"width": 11, "embedding_width": 3},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos(folder)
    return folder


def own(folder: Path, **given: Any) -> VisualQuestions:
    source = Source(folder / "questions.csv", folder)
    return VisualQuestions(source.read(), **{"recipe": recipe(), "batch": 3, **given})


# What is done to a picture


def test_pictures_are_moved_and_turned_as_scipy_does_it() -> None:
    side, by = 37, torch.tensor([[0.0, 0.0, 0.0], [1.0, -0.5, 0.0], [-0.3, 0.8, 1.0]])
    pixels = torch.randint(256, (3, 3, side, side), dtype=torch.uint8)
    found = shifted(pixels, by)
    assert found.dtype == torch.uint8
    assert torch.equal(found[0], pixels[0])
    middle = np.full(2, (side - 1) / 2)
    for picture, moved, (across, down, turn) in zip(pixels, found, by.tolist(), strict=True):
        angle = 0.05 * turn
        turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of row and column
        offset = middle - turned @ middle + side * 4 / 128 * np.array([down, across])
        for colour in range(3):
            plane = picture[colour].numpy().astype(float)
            wanted = ndimage.affine_transform(plane, turned, offset, order=1, mode="nearest")
            assert np.abs(moved[colour].numpy() - wanted).max() < 0.51  # rounded to whole numbers


def test_sides_and_colours_stay_what_they_are() -> None:
    by = drawn(211, np.random.default_rng(5))
    assert by.shape == (211, 3)
    assert -1 <= float(by.min()) < -0.97
    assert 0.97 < float(by.max()) <= 1
    pixels = torch.zeros(211, 3, 41, 41, dtype=torch.uint8)
    pixels[:, 1, :, :16] = 201  # a green strip on the left
    found = shifted(pixels, by)
    assert not found[:, [0, 2]].any()
    assert (found[:, 1, :, 0] == 201).all()
    assert not found[:, 1, :, 21:].any()


# What is drawn


def seen(task: VisualQuestions, seed: int, epoch: int) -> dict[int, list[Tensor]]:
    """What is seen of each picture in an epoch, row by row."""
    found: dict[int, list[Tensor]] = {}
    for batch in task.batches(seed, epoch, 0.0):
        assert isinstance(batch.seen, Tensor)
        for picture, pixels in zip(batch.pictures.tolist(), batch.seen, strict=True):
            found.setdefault(picture, []).append(pixels)
    return found


def test_pictures_differ_from_epoch_to_epoch_and_seed_to_seed_and_by_nothing_else(folder: Path) -> None:
    task, again, plain = own(folder), own(folder, batch=5), own(folder, augmentation="none")
    first, same, next_epoch, other_seed, still, later = (
        seen(one, *at) for one, at in (
            (task, (3, 7)), (again, (3, 7)), (task, (3, 8)), (task, (4, 7)), (plain, (3, 7)), (plain, (3, 8)),
        )
    )  # fmt: skip
    assert task.augmentation == "shift"
    for picture, (pixels,) in first.items():
        assert torch.equal(pixels, same[picture][0])
        assert torch.equal(still[picture][0], later[picture][0])
        for other in (next_epoch, other_seed, still):
            assert not torch.equal(pixels, other[picture][0])
    for part in (task.validation, task.test):
        (batch,) = part.batches([part.rows])
        assert isinstance(batch.seen, Tensor)
        for row, pixels in zip(part.rows, batch.seen, strict=True):
            assert torch.equal(pixels, part.see(row.questions[0]))


def test_all_questions_about_a_picture_are_about_the_same_one(tmp_path: Path) -> None:
    photos(tmp_path, 5)
    rows = [(f"{number}.png", f"what is {at}?", "red") for number in range(5) for at in range(2 * MOST + 3)]
    table(tmp_path / "questions.csv", rows)
    for rows_of_picture in seen(own(tmp_path), 0, 0).values():
        assert len(rows_of_picture) == 3
        assert all(torch.equal(one, rows_of_picture[0]) for one in rows_of_picture)


@pytest.mark.slow
def test_broken_off_it_goes_on_with_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    def breaking(progress: Progress) -> None:
        if progress.epoch == 2:
            raise Broken

    def run(name: str, report: Any = lambda _: None) -> Fit:
        return train(own(folder), "mlb", 1, Budget(epochs=4), tmp_path / name, "32-true", "cpu", report)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = run("whole")
        with pytest.raises(Broken):
            run("broken", breaking)
        went_on = run("broken")
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(whole.model.state_dict().values(), went_on.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


# Where there is nothing to vary


def test_what_is_seen_once_is_not_varied_and_asking_for_it_is_refused(folder: Path, tmp_path: Path) -> None:
    for number in range(13):
        boxes = np.array([[0, 0, 10, 20], [5, 5, 30, 31]], np.float32)
        np.savez(tmp_path / f"{number}.png.npz", x=np.ones((2, 7), np.float32), bbox=boxes, image_w=31, image_h=31)
    regions = {"recipe": Recipe(image="regions", question="gru"), "regions": tmp_path}
    for given, why in (({"recipe": recipe(frozen=True)}, "frozen"), (regions, "regions come from a file")):
        assert own(folder, **given).augmentation == "none"
        with pytest.raises(UserError, match=f"augmentation 'shift' .* {why}: leave it out"):
            own(folder, augmentation="shift", **given)
    with pytest.raises(UserError, match="no augmentation 'mirror': choose one of none, shift"):
        own(folder, augmentation="mirror")


def test_a_run_knows_its_augmentation_and_other_tasks_refuse_one(folder: Path) -> None:
    asked = Asked(folder, ("mlb",), 17, questions=Source(folder / "questions.csv", folder), width=5)
    assert choose(asked, lambda _: folder).options["augmentation"] == "shift"
    chosen = choose(replace(asked, augmentation="none"), lambda _: folder)
    settings = {"task": chosen.task.name, "data": str(folder), "size": 17, "attention": ["mlb"], **chosen.options}
    task = reopened(settings, "cpu", folder)
    assert isinstance(task, VisualQuestions)
    assert task.augmentation == "none"
    with pytest.raises(UserError, match="--augmentation none means nothing to digit scenes"):
        choose(Asked(augmentation="none"), lambda _: folder)
