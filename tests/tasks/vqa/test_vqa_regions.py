"""Region features in the field's files, written here and read back, and their padding."""

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

from regard.errors import UserError
from regard.experiment import compare
from regard.models.vqa import load
from regard.tasks.vqa import RegionArchive, Regions, padded, read_regions
from small_photos import photos

WIDTH = 5


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


def test_an_archive_of_one_picture_is_read_in_rows_or_columns(tmp_path: Path) -> None:
    features, boxes = values(3, WIDTH), values(3, 4)
    path = tmp_path / "COCO_val2014_000000000042.jpg.npz"
    for x in (features, features.T):
        np.savez(path, x=x, bbox=boxes, num_bbox=3, image_w=640, image_h=np.array([480]))
        regions = read_regions(path)
        assert np.array_equal(regions.features, features)
        assert np.array_equal(regions.boxes, boxes)
        assert regions.size == (640, 480)
    assert np.allclose(regions.relative(), boxes / np.array([640, 480, 640, 480]))


def test_boxes_beyond_their_number_or_the_most_are_left(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    features, boxes = values(7, WIDTH), values(7, 4)
    np.savez(path, features=features.astype(np.float64), boxes=boxes, num_boxes=np.array([3]))
    assert np.array_equal(read_regions(path).features, features[:3])
    assert read_regions(path).features.dtype == torch.float32
    assert np.array_equal(read_regions(path, most=2).boxes, boxes[:2])
    with pytest.raises(UserError, match="does not say how large the picture is"):
        read_regions(path).relative()


def test_objects_in_an_archive_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=values(3, WIDTH), bbox=values(3, 4), info=np.array({"objects_id": 5}, object))
    assert read_regions(path).features.shape == (3, WIDTH)
    np.savez(path, x=np.array([None, {}], object), bbox=values(2, 4))
    with pytest.raises(UserError, match=r"a\.npz cannot be read .*expected an \.npz file of numbers"):
        read_regions(path)


def test_what_is_wrong_with_an_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UserError, match=r"there is no file .*a\.npz"):
        read_regions(path)
    np.savez(path, x=values(3, WIDTH), wrong=values(3, 4))
    with pytest.raises(UserError, match=r"a\.npz holds x, wrong and no boxes: expected them under 'bbox' or 'boxes'"):
        read_regions(path)
    np.savez(path, x=values(3, WIDTH), bbox=values(2, 4))
    with pytest.raises(UserError, match=r"features of shape \(3, 5\) with boxes of shape \(2, 4\): expected"):
        read_regions(path)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UserError, match=r"a\.npz cannot be read"):
        read_regions(path)
    with path.open("wb") as file:
        np.save(file, values(3, WIDTH))
    with pytest.raises(UserError, match=r"a\.npz cannot be read"):
        read_regions(path)


def regions(count: int, *, width: int = WIDTH, size: tuple[float, float] | None = None) -> Regions:
    return Regions(torch.rand(count, width), torch.rand(count, 4), size)


def test_a_batch_is_filled_up_with_zeros_and_says_what_is_a_box() -> None:
    parts = [regions(3), regions(0), regions(2)]
    batch = padded(parts)
    assert batch.features.shape == (3, 3, WIDTH)
    assert batch.mask.tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    for at, part in enumerate(parts):
        assert torch.equal(batch.features[at][batch.mask[at]], part.features)
        assert torch.equal(batch.boxes[at][batch.mask[at]], part.boxes)
    assert not batch.features[~batch.mask].any()
    assert not batch.boxes[~batch.mask].any()


def test_a_batch_may_have_one_length_and_relative_boxes() -> None:
    one = regions(3, size=(8.0, 2.0))
    batch = padded([one], relative=True, length=7)
    assert batch.mask.shape == (1, 7)
    assert torch.allclose(batch.boxes[0, :3], one.boxes / torch.tensor([8.0, 2.0, 8.0, 2.0]))


def test_a_batch_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="widths 3, 5: expected one width"):
        padded([regions(2), regions(2, width=3)])
    with pytest.raises(UserError, match="widths nothing"):
        padded([])
    with pytest.raises(UserError, match=r"a picture with 3 boxes: expected at most length=2"):
        padded([regions(3)], length=2)


class Arrays(dict[str, np.ndarray]):
    """As much of an h5py file as is used."""


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Arrays]:
    """Files that a stand-in for h5py opens, by name, since h5py need not be installed."""
    files: dict[str, Arrays] = {}

    def opened(path: Path, mode: str) -> Arrays:
        assert mode == "r"
        if path.name not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path.name]

    module = ModuleType("h5py")
    module.File = opened  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "h5py", module)
    return files


FEATURES, BOXES = values(3, 7, WIDTH), values(3, 7, 4)


def test_as_many_boxes_for_each_picture_are_read_by_the_files_own_numbers(stored: dict[str, Arrays]) -> None:
    stored["a.h5"] = Arrays(image_features=FEATURES, image_bb=BOXES, image_ids=np.array([42, 73, 5]))
    archive = RegionArchive(Path("a.h5"), most=6)
    assert (len(archive), 73 in archive, "73" in archive, 6 in archive) == (3, True, True, False)
    assert np.array_equal(archive[73].features, FEATURES[1, :6])
    assert np.array_equal(archive[5].boxes, BOXES[2, :6])
    with pytest.raises(UserError, match=r"a\.h5 has no regions of picture 6, only of 3 others"):
        archive[6]


def test_ids_may_be_texts(stored: dict[str, Arrays]) -> None:
    stored["a.h5"] = Arrays(image_features=FEATURES, image_bb=BOXES, image_ids=np.array([b"n5", b"n7", b"11"]))
    assert np.array_equal(RegionArchive(Path("a.h5"))["n7"].features, FEATURES[1])


def test_boxes_in_one_long_row_are_read_by_their_positions(stored: dict[str, Arrays], tmp_path: Path) -> None:
    features, boxes = values(11, WIDTH), values(11, 4)
    stored["train.hdf5"] = Arrays(
        image_features=features, image_bb=boxes, pos_boxes=np.array([[0, 5], [5, 7], [7, 11]], np.int32)
    )
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"42": 2, "73": 0}))
    for archive in (RegionArchive(Path("train.hdf5"), {42: 2, 73: 0}), RegionArchive(Path("train.hdf5"), index)):
        assert np.array_equal(archive[42].features, features[7:11])
        assert np.array_equal(archive[73].boxes, boxes[:5])


def test_gqa_keeps_its_pictures_in_several_files(stored: dict[str, Arrays], tmp_path: Path) -> None:
    stored["gqa_objects_0.h5"] = Arrays(features=FEATURES, bboxes=BOXES)
    stored["gqa_objects_1.h5"] = Arrays(features=FEATURES + 1, bboxes=BOXES)
    info = tmp_path / "gqa_objects_info.json"
    info.write_text(
        json.dumps(
            {
                "2375429": {"width": 640, "height": 480, "objectsNum": 2, "index": 1, "file": 1},
                "n5": {"width": 640, "height": 480, "objectsNum": 3, "index": 0, "file": 2},
            }
        )
    )
    archive = RegionArchive([Path("gqa_objects_0.h5"), Path("gqa_objects_1.h5")], info)
    found = archive["2375429"]
    assert np.array_equal(found.features, FEATURES[1, :2] + 1)
    assert found.size == (640, 480)
    with pytest.raises(UserError, match="the index counts file 2: expected at most 1; give all files"):
        archive["n5"]


def test_what_is_wrong_with_an_hdf5_file_is_named(stored: dict[str, Arrays], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.h5 cannot be read"):
        RegionArchive(Path("none.h5"))
    stored["a.h5"] = Arrays(image_features=FEATURES, wrong=BOXES)
    with pytest.raises(UserError, match=r"a\.h5 holds image_features, wrong and no ids of pictures.*give index="):
        RegionArchive(Path("a.h5"))
    with pytest.raises(UserError, match="and no boxes: expected them under"):
        RegionArchive(Path("a.h5"), {5: 0})[5]
    (tmp_path / "index.json").write_text("[5")
    with pytest.raises(UserError, match=r"index\.json cannot be read"):
        RegionArchive(Path("a.h5"), tmp_path / "index.json")
    (tmp_path / "index.json").write_text("[5]")
    with pytest.raises(UserError, match=r"index\.json holds a list: expected an object"):
        RegionArchive(Path("a.h5"), tmp_path / "index.json")


def test_hdf5_without_h5py_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install h5py"):
        RegionArchive(Path("a.h5"))


def test_an_archive_goes_to_other_processes_without_its_open_files(stored: dict[str, Arrays]) -> None:
    stored["a.h5"] = Arrays(image_features=FEATURES, image_bb=BOXES, image_ids=np.array([42, 73, 5]))
    archive = RegionArchive(Path("a.h5"))
    stored["a.h5"] = Arrays(image_features=FEATURES + 1, image_bb=BOXES)
    assert np.array_equal(archive[42].features, FEATURES[0])
    assert np.array_equal(pickle.loads(pickle.dumps(archive))[42].features, FEATURES[0] + 1)


def test_real_hdf5_is_read(tmp_path: Path) -> None:
    features, boxes = values(11, WIDTH), values(11, 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image_features"], file["image_bb"] = features, boxes
        file["pos_boxes"] = np.array([[0, 5], [5, 11]], np.int32)
        file["image_ids"] = ["n5", "n7"]
    archive = RegionArchive(tmp_path / "a.h5")
    assert np.array_equal(archive["n7"].features, features[5:])
    (tmp_path / "b.h5").write_bytes(b"no")
    with pytest.raises(UserError, match=r"b\.h5 cannot be read"):
        RegionArchive(tmp_path / "b.h5")


@pytest.mark.slow
def test_training_on_hdf5_is_training_on_the_same_regions_in_single_files(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 7)
    ends = np.cumsum([2, 3, 1, 3, 2, 3, 5])
    features, boxes = values(19, WIDTH), values(19, 4)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["image_features"], file["image_bb"] = features, boxes
        file["pos_boxes"] = np.stack([ends - np.diff(ends, prepend=0), ends], 1)
        file["image_ids"] = np.arange(7)
    (tmp_path / "each").mkdir()
    for number, rows in enumerate(np.split(np.arange(19), ends[:-1])):
        np.savez(tmp_path / "each" / f"{number}.npz", x=features[rows], bbox=boxes[rows])
    found = {}
    for name in ("all.h5", "each"):
        run = compare(
            "mlb", data=tmp_path / "photos", questions=tmp_path / "photos" / "questions.csv", epochs=2, batch=3,
            width=7, device="cpu", regions=tmp_path / name, name=name, runs=tmp_path / "runs",
        )  # fmt: skip
        found[name] = load(run.part("mlb", 0)).state_dict()
    for name, value in found["all.h5"].items():
        assert torch.equal(value, found["each"][name]), name
