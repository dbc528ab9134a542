"""Which pictures a folder holds, and of which class each is."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regard.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's `ImageFolder`, in upper or lower case."""

_parts = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


@dataclass(frozen=True)
class Found:
    """The pictures of a folder, class by class, by path within a class.

    Attributes:
        classes: the names of the sub-folders, sorted.
        paths: every picture.
        labels: its class, an index into `classes`.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def find(folder: Path) -> Found:
    """The pictures in the `ImageFolder` layout: `folder/CLASS/**/picture.jpg`.

    Other than `ImageFolder`, hidden files and folders are left out: they are what an operating system or an editor
    left there (`._1.jpg`, `.ipynb_checkpoints`), not pictures and not a class.

    Raises:
        UserError: the folder is missing, or is not laid out like that.
    """
    layout = "expected one sub-folder a class with its pictures in it, such as " + str(folder / "cats" / "1.jpg")
    if not folder.exists():
        raise UserError(f"there is no folder {folder}: {layout}; check the path")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: {layout}; give the folder")
    names = _listed(folder)
    classes = tuple(name for name in names if (folder / name).is_dir())
    if not classes:
        direct = _count(sum(_is_picture(name) for name in names), "picture")
        other = _count(len(names), "file")
        what = f"{direct} and {other} in all lie in it directly" if names else "it is empty"
        if names and all(map(_is_picture, names)):
            what = f"{direct} {'lies' if len(names) == 1 else 'lie'} in it directly"
        raise UserError(f"{folder} has no class sub-folders, {what}: {layout}; sort the pictures into such folders")
    deeper = [name for name in classes if any((folder / name / inner).is_dir() for inner in _listed(folder / name))]
    if {name.lower() for name in classes} <= _parts and deeper:
        raise UserError(
            f"{folder} is split into {', '.join(classes)} already, and these are no classes: {layout}; "
            f"give {folder / deeper[0]}, which is then split anew for every seed"
        )
    if len(classes) == 1:
        inside = f" (did you mean {folder / deeper[0]}?)" if deeper else ""
        raise UserError(
            f"{folder} has one class sub-folder alone, {classes[0]!r}{inside}: expected at least two classes to tell "
            "apart; add a sub-folder for each other class"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        pictures, others = _pictures(folder / name)
        if not pictures:
            what = f"none of its {_count(len(others), 'file')} is one ({others[0].name!r})" if others else "it is empty"
            raise UserError(
                f"the class folder {folder / name} holds no pictures, {what}: expected files that end in "
                f"{', '.join(EXTENSIONS)}; add pictures or take the folder away"
            )
        paths += pictures
        labels += [label] * len(pictures)
    return Found(classes, tuple(paths), tuple(labels))


def among(folder: Path, classes: Sequence[str]) -> Found:
    """The pictures of a folder, as `find` has them, by classes that are known already; it need not have all of them.

    Raises:
        UserError: as `find`, or a sub-folder is none of the classes.
    """
    found = find(folder)
    if unknown := [name for name in found.classes if name not in classes]:
        raise UserError(
            f"the class folder {folder / unknown[0]} is no class that was trained: expected some of "
            f"{', '.join(classes)}; rename it, or take it away"
        )
    return Found(tuple(classes), found.paths, tuple(classes.index(found.classes[label]) for label in found.labels))


def _pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """All pictures at any depth, and all other files; links are followed, each folder is visited once."""
    pictures: list[Path] = []
    others: list[Path] = []
    visited: set[str] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        if (real := os.path.realpath(current)) in visited:
            continue
        visited.add(real)
        for name in _listed(current):
            path = current / name
            if path.is_dir():
                waiting.append(path)
            else:
                (pictures if _is_picture(name) else others).append(path)
    return sorted(pictures), sorted(others)


def _listed(folder: Path) -> list[str]:
    """The names in a folder that are not hidden, sorted."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read ({error.strerror}): give yourself the right to") from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
