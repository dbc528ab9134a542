"""The comparison on one's own pictures: found, checked, split and seen alike for every variant."""

import io
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from regard.attention.catalogue import UnknownMechanismError
from regard.errors import UserError
from regard.models import decoding
from regard.placing import Placed
from regard.report import folder as report_folder
from regard.tasks.pictures import PicturesTask, views
from regard.tasks.pictures.folder import EXTENSIONS, find

CLASSES = ("circle", "square")


def picture(kind: str, draw: np.random.Generator) -> Image.Image:
    """A bright shape somewhere on a dark wide picture."""
    image = Image.new("RGB", (40, 32), (20, 20, 20))
    left, top = (int(value) for value in draw.integers(4, 14, 2))
    fill = tuple(int(value) for value in draw.integers(120, 255, 3))
    shape = ImageDraw.Draw(image)
    (shape.ellipse if kind == "circle" else shape.rectangle)((left, top, left + 15, top + 15), fill=fill)
    return image


def toy(folder: Path, count: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    draw = np.random.default_rng(0)
    for kind in classes:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            picture(kind, draw).save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("data") / "shapes")


# `object`: any argument of the task.
def task(folder: Path, **named: object) -> PicturesTask:
    return PicturesTask(folder, **{"backbone": "test_resnet", "at": "stage", "size": 32, "batch": 4, **named})  # pyright: ignore[reportArgumentType]


def remove_pictures(folder: Path, kind: str, keep: int) -> None:
    for path in sorted((folder / kind).iterdir())[keep:]:
        path.unlink()


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flatten(folder: Path) -> None:
    for path in list(folder.rglob("*.png")):
        path.rename(folder / f"{path.parent.name}-{path.name}")
    for kind in CLASSES:
        (folder / kind).rmdir()


def already_split(folder: Path) -> None:
    for part in ("train", "val"):
        toy(folder / part, 3)
    for kind in CLASSES:
        remove_pictures(folder, kind, 0)
        (folder / kind).rmdir()


def bomb(path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(path)


Spoil = Callable[[Path], object]
BAD: dict[str, tuple[Spoil, dict[str, object], list[str]]] = {
    "missing": (lambda f: f.rename(f.parent / "away"), {}, ["there is no folder", "sub-folder a class", "check"]),
    "a file": (lambda f: (f.rename(f.parent / "away"), f.write_text("")), {}, ["is a file", "give the folder"]),
    "no sub-folders": (flatten, {}, ["no class sub-folders", "20 pictures lie in it directly", "sort"]),
    "empty": (
        lambda f: (flatten(f), [p.unlink() for p in f.iterdir()]),
        {},
        ["no class sub-folders", "it is empty"],
    ),
    "one class": (
        lambda f: (remove_pictures(f, "circle", 0), (f / "circle").rmdir()),
        {},
        ["one class sub-folder alone, 'square'", "at least two"],
    ),
    "one folder too high": (
        lambda f: ((f / "x").mkdir(), [(f / kind).rename(f / "x" / kind) for kind in CLASSES]),
        {},
        ["did you mean", "/x?"],
    ),
    "already split": (already_split, {}, ["split into train, val already", "/train"]),
    "empty class": (lambda f: (f / "blob").mkdir(), {}, ["blob holds no pictures, it is empty", ".webp"]),
    "class without pictures": (
        lambda f: ((f / "blob").mkdir(), (f / "blob" / "a.txt").write_text("x")),
        {},
        ["blob holds no pictures", "none of its 1 file is one ('a.txt')"],
    ),
    "two pictures": (lambda f: remove_pictures(f, "circle", 2), {}, ["holds 2 pictures", "at least 3"]),
    "truncated": (
        lambda f: truncate(f / "circle" / "3.png"),
        {},
        ["1 picture cannot", "circle/3.png (", "skip_bad=True, at the command line --skip-bad"],
    ),
    "empty file": (lambda f: (f / "circle" / "3.png").write_bytes(b""), {}, ["circle/3.png (empty file)"]),
    "no picture": (lambda f: (f / "circle" / "3.png").write_text("hello"), {}, ["circle/3.png (not a picture)"]),
    "bomb": (lambda f: bomb(f / "circle" / "3.png"), {}, ["circle/3.png (more than", "pixels)"]),
    "many bad": (
        lambda f: [truncate(path) for path in (f / "square").iterdir()],
        {},
        ["10 pictures cannot be read", "square/0.png", "and 7 more"],
    ),
    "too few left": (
        lambda f: [truncate(f / "square" / f"{number}.png") for number in range(8)],
        {"skip_bad": True},
        ["holds 2 pictures and 8 that cannot be read", "at least 3"],
    ),
    "backbone": (lambda f: None, {"backbone": "resnet81"}, ["unknown backbone 'resnet81'", "resnet18"]),
    "weights tag": (lambda f: None, {"backbone": "resnet18.a1_in1"}, ["unknown weights", "resnet18.a1_in1k"]),
    "no weights": (lambda f: None, {"backbone": "test_coatnet", "pretrained": True}, ["no pretrained weights"]),
    "size": (lambda f: None, {"size": 0}, ["at least 1"]),
    "augmentation": (lambda f: None, {"augmentation": "flip"}, ["'flip'", "none, crop, crop-flip"]),
    "start": (lambda f: None, {"start": "zero"}, ["'zero'", "identity or paper"]),
    "smoothing": (lambda f: None, {"label_smoothing": 1.0}, ["label smoothing 1.0", "below 1"]),
    "decay": (lambda f: None, {"weight_decay": -0.1}, ["weight decay -0.1", "at least 0"]),
    "rate": (lambda f: None, {"learning_rate": 0.0}, ["learning rate 0.0", "above 0"]),
    "shares": (lambda f: None, {"test_share": 0.9}, ["leave some for training"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_clear_line(case: str, tmp_path: Path) -> None:
    spoil, named, said = BAD[case]
    folder = toy(tmp_path / "data")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        task(folder, **named)
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_skip_bad_leaves_out_and_lists(tmp_path: Path) -> None:
    folder = toy(tmp_path / "data")
    truncate(folder / "circle" / "3.png")
    (folder / "square" / "7.png").write_bytes(b"")
    made = task(folder, skip_bad=True)
    assert made.skipped == [folder / "circle" / "3.png", folder / "square" / "7.png"]
    split = made.split(0)
    used = sorted([*split.train, *split.validation, *split.test])
    assert used == [index for index in range(20) if index not in (3, 17)]
    assert len(made.examples(0)) == len(split.test)


def test_finds_what_image_folder_finds(tmp_path: Path) -> None:
    folder = toy(tmp_path / "data", 3)
    (folder / "circle" / "more" / "deep").mkdir(parents=True)
    (folder / "circle" / "3.png").write_bytes((folder / "circle" / "0.png").read_bytes())
    (folder / "circle" / "3.png").rename(folder / "circle" / "more" / "deep" / "X.PNG")
    (folder / "circle" / "notes.txt").write_text("")
    theirs = ImageFolder(str(folder))
    ours = find(folder)
    assert list(ours.classes) == theirs.classes
    assert {(str(path), label) for path, label in zip(ours.paths, ours.labels, strict=True)} == set(theirs.samples)
    assert EXTENSIONS == IMG_EXTENSIONS


def test_hidden_files_and_endless_links_are_left_out(tmp_path: Path) -> None:
    folder = toy(tmp_path / "data", 3)
    (folder / ".cache").mkdir()
    (folder / "circle" / "._0.png").write_bytes(b"no picture")
    (folder / "circle" / "again").symlink_to(folder / "circle")
    assert len(find(folder).paths) == 6


def test_modes_become_rgb(tmp_path: Path) -> None:
    ramp = np.repeat([[40, 200]], 8, axis=0).repeat(8, axis=1).astype(np.uint8)
    grey = Image.fromarray(ramp)
    colour = Image.merge("RGB", (grey, Image.new("L", grey.size, 30), Image.new("L", grey.size, 220)))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(np.where(ramp > 100, 255, 0).astype(np.uint8)))
    palette = colour.quantize(4)
    sideways = colour.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    grey.save(tmp_path / "grey.png")
    colour.save(tmp_path / "colour.png")
    clear.save(tmp_path / "clear.png")
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "transparent.png", transparency=bytes([0] * 4))
    sideways.save(tmp_path / "sideways.png", exif=exif)
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(ramp.astype(np.float32) / 255).save(tmp_path / "float.tif")
    Image.fromarray(ramp.astype(np.int32) * 257).save(tmp_path / "integer.tif")
    colour.convert("CMYK").save(tmp_path / "cmyk.tif")
    white = np.full((8, 16, 3), 255)
    plain, threefold = np.asarray(colour), np.repeat(ramp[..., None], 3, axis=2)
    expected = {
        "grey.png": threefold,
        "colour.png": plain,
        "clear.png": np.where(ramp[..., None] > 100, plain, white),
        "palette.png": plain,
        "transparent.png": white,
        "sideways.png": plain,
        "deep.png": threefold,
        "float.tif": threefold,
        "integer.tif": threefold,
        "cmyk.tif": plain,
    }
    for name, pixels in expected.items():
        decoded = decoding.decode(tmp_path / name, 100)
        assert decoded.mode == "RGB", name
        np.testing.assert_allclose(np.asarray(decoded).astype(int), pixels, atol=2, err_msg=name)


def test_large_pictures_are_made_smaller_once(tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((1000, 400)).save(tmp_path / "large.jpg")
    assert decoding.decode(tmp_path / "large.jpg", 64).size == (160, 64)
    assert decoding.decode(tmp_path / "large.jpg", 4000).size == (1000, 400)


def test_without_room_in_memory_the_same_pictures_are_seen(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list(task(shapes).batches(0, 0, 0.0))
    monkeypatch.setattr(decoding, "KEPT_BYTES", 0)
    for one, other in zip(kept, task(shapes).batches(0, 0, 0.0), strict=True):
        assert torch.equal(one[0], other[0])


def test_a_picture_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "KEPT_BYTES", 0)
    made = task(toy(tmp_path / "data"))
    (tmp_path / "data" / "circle" / "3.png").unlink()
    with pytest.raises(UserError, match=r"circle/3\.png cannot be read .* and could when the run began"):
        for _ in (list(made.batches(seed, 0, 0.0)) for seed in range(3)):
            pass


def test_split_gives_every_class_its_share(shapes: Path) -> None:
    made = task(shapes)
    split = made.split(0)
    assert (len(split.train), len(split.validation), len(split.test)) == (14, 2, 4)
    assert sorted([*split.train, *split.validation, *split.test]) == list(range(20))
    assert sum(index < 10 for index in split.test) == 2
    assert task(shapes).split(0) == split
    assert made.split(1) != split


def test_three_pictures_a_class_are_enough(tmp_path: Path) -> None:
    split = task(toy(tmp_path / "data", 3), test_share=0.45, validation_share=0.45).split(0)
    assert (len(split.train), len(split.validation), len(split.test)) == (2, 2, 2)


def test_batches_are_the_same_for_a_seed_and_epoch_alone(shapes: Path) -> None:
    made = task(shapes)
    state = torch.get_rng_state()
    first = list(made.batches(0, 0, 0.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(labels) for _, labels in first] == [4, 4, 4, 2]
    assert len(first) == made.length(0)
    assert first[0][0].shape == (4, 3, 32, 32)
    assert first[0][0].dtype == torch.float32
    torch.manual_seed(99)
    again = list(task(shapes).batches(0, 0, 0.5))
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    for other in (made.batches(0, 1, 0.0), made.batches(1, 0, 0.0)):
        assert not torch.equal(torch.cat([batch[0] for batch in other]), torch.cat([batch[0] for batch in first]))


@pytest.mark.parametrize(("batch", "sizes"), [(13, [13]), (20, [14]), (1, [1] * 14), (5, [5, 5, 4])])
def test_a_single_picture_left_over_is_dropped(shapes: Path, batch: int, sizes: list[int]) -> None:
    made = task(shapes, batch=batch)
    assert [len(labels) for _, labels in made.batches(0, 0, 0.0)] == sizes
    assert made.length(0) == len(sizes)


def test_views_are_normalised_and_centred(shapes: Path) -> None:
    made = task(shapes)
    (seen,) = made.example(0)
    assert seen.shape == (1, 3, 32, 32)
    data = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg("test_resnet").to_dict())
    mean, deviation = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    index = made.split(0).test[0]
    pixels = torch.from_numpy(np.asarray(made._pictures[index])[:, 4:36].copy()).permute(2, 0, 1)
    torch.testing.assert_close(seen[0] * deviation + mean, pixels / 255)


def test_crops_stay_inside_and_show_enough() -> None:
    draw = np.random.default_rng(0)
    for width, height in ((40, 32), (7, 90), (1, 1), (300, 10)):
        for _ in range(50):
            left, top, wide, high = views._crop(width, height, draw)
            assert 0 <= left <= left + wide <= width
            assert 0 <= top <= top + high <= height
            assert min(wide, high) >= 1
            if (width, height) == (40, 32):
                assert wide * high >= 0.46 * width * height


@pytest.mark.parametrize("attention", ["se", "multi_head_self", "se+simam"])
def test_variants_of_a_seed_share_all_but_attention(shapes: Path, attention: str) -> None:
    made = task(shapes, start="identity")
    state = torch.get_rng_state()
    plain, attended, other = made.model("none", 3), made.model(attention, 3), made.model(attention, 4)
    assert torch.equal(torch.get_rng_state(), state)
    values = attended.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in plain.state_dict().items())
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in plain.state_dict().items())
    again = made.model(attention, 3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in values.items())
    pictures = next(iter(made.batches(3, 0, 0.0)))[0]
    torch.testing.assert_close(attended.eval()(pictures), plain.eval()(pictures))


def test_several_mechanisms_and_start(shapes: Path) -> None:
    model = task(shapes, at="stage4", start="paper").model("se+simam", 0)
    (placed,) = [module for module in model.modules() if isinstance(module, Placed)]
    assert [name for name, _ in placed.attention.named_children()] == ["se", "simam"]
    assert placed.strength is None


@pytest.mark.parametrize(
    ("attention", "named", "kind", "said"),
    [
        ("sea", {}, UnknownMechanismError, "did you mean 'se'"),
        ("se+", {}, UnknownMechanismError, "unknown mechanism ''"),
        ("dot", {}, UserError, "it is a Read"),
        ("se", {"at": "stage9"}, UserError, "no place 'stage9'"),
        ("none", {"backbone": "test_vit", "size": 40}, UserError, "divisible by patch size .* --size 160"),
        ("none", {"backbone": "vit_tiny_patch16_224", "size": 30}, UserError, "no whole number .* --size 224"),
        ("none", {"backbone": "test_convnext", "size": 2}, UserError, "cannot be built for pictures of 2 x 2"),
    ],
)
def test_check_refuses_early(
    shapes: Path, attention: str, named: dict[str, object], kind: type[UserError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        task(shapes, **named).check(attention)


def test_check_accepts(shapes: Path) -> None:
    for attention in ("none", "se", "se+simam"):
        task(shapes).check(attention)


def test_a_transformer_takes_the_size_asked_for(shapes: Path) -> None:
    made = task(shapes, backbone="test_vit", at="stage")
    model = made.model("multi_head_self", 0)
    assert model(made.example(0)[0]).shape == (1, 2)
    (found,) = made.readings(model, 0)[0]["maps"]
    assert np.array(found["weights"]).shape == (2, 2)


def test_weights_that_cannot_be_had(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **named: object) -> nn.Module:
        if pretrained:
            raise ConnectionError("no route\nto host")
        return create(name, **named)

    monkeypatch.setattr(timm, "create_model", offline)
    made = task(shapes, pretrained=True)
    assert made.learning_rate() == 3e-4
    with pytest.raises(UserError, match=r"weights of 'test_resnet' cannot be had \(no route to host\).*--pretrained"):
        made.check("none")


def train(made: PicturesTask, attention: str, epochs: int) -> nn.Module:
    model = made.model(attention, 0).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=made.learning_rate())
    for epoch in range(epochs):
        for batch in made.batches(0, epoch, epoch / epochs):
            optimiser.zero_grad()
            made.loss(model, batch).backward()
            optimiser.step()
    return model


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    made = task(toy(tmp_path / "data", 30), batch=8)
    model = train(made, "se", 10)
    outcome = made.evaluate(model, 0)
    assert model.training
    assert outcome.correct.shape == (12,)
    assert outcome.correct.mean() > 0.8
    assert outcome.pointed is None
    assert outcome.groups.tolist() == made.split(0).test
    assert outcome.families.tolist() == [0] * 6 + [1] * 6
    assert made.validate(model, 0).groups.tolist() == made.split(0).validation


def test_loss_is_smoothed_cross_entropy(shapes: Path) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(logits)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits

    labels = torch.tensor([0, 0])
    logs = logits.log_softmax(1)
    expected = -(0.95 * logs[:, 0] + 0.05 * logs[:, 1]).mean()
    torch.testing.assert_close(task(shapes).loss(Fixed(), (torch.zeros(2, 3, 32, 32), labels)), expected)


def test_augmentation_is_what_it_is_called() -> None:
    """A picture whose left half is dark and whose right half is bright tells a mirror by its gradient."""
    ramp = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (32, 1))
    picture = Image.merge("RGB", [Image.fromarray(ramp)] * 3)
    centre = views.centred(picture, 16, Image.Resampling.BILINEAR)

    def seen(augmentation: str) -> list[Tensor]:
        draws = (np.random.default_rng(seed) for seed in range(40))
        return [views.augmented(picture, 16, Image.Resampling.BILINEAR, draw, augmentation) for draw in draws]

    def mirrored(view: Tensor) -> bool:
        return bool(view[0, :, 0].float().mean() > view[0, :, -1].float().mean())

    assert all(torch.equal(view, centre) for view in seen("none"))
    crops, flips = seen("crop"), seen("crop-flip")
    assert not any(map(mirrored, crops))
    assert 10 < sum(map(mirrored, flips)) < 30
    assert len({float(view.float().mean()) for view in crops}) > 20
    for crop, flip in zip(crops, flips, strict=True):
        assert torch.equal(crop, flip.flip(2) if mirrored(flip) else flip)


def test_defaults_follow_from_pretrained_and_are_said(shapes: Path) -> None:
    made, pretrained = task(shapes, at=None), task(shapes, pretrained=True)
    assert (made.start, made.augmentation, made.learning_rate(), made.weight_decay) == ("paper", "crop", 1e-3, 1e-4)
    assert (pretrained.start, pretrained.learning_rate()) == ("identity", 3e-4)
    assert task(shapes, pretrained=True, start="paper").start == "paper"
    for part in ("random weights", "where its paper puts it, starts as its paper has it", "no flips", "0.001", "0.1."):
        assert part in made.about
    other = task(shapes, learning_rate=0.02, weight_decay=0.3, label_smoothing=0.0, augmentation="none", frozen=True)
    for part in ("frozen", "at stage", "none, training pictures are seen", "0.02", "weight decay 0.3", "smoothing 0."):
        assert part in other.about
    assert other.learning_rate() == 0.02


def test_of_a_frozen_backbone_attention_and_classifier_learn(shapes: Path) -> None:
    made = task(shapes, frozen=True, learning_rate=0.1)
    plain = made.model("none", 0)
    before = {name: value.clone() for name, value in made.model("se", 0).state_dict().items()}
    model = train(made, "se", 1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    own = set(plain.state_dict())
    assert changed & own == {"fc.weight", "fc.bias"}
    assert changed - own == {name for name in before if name not in own}
    assert any(module.training for module in model.get_submodule("fc").modules())


def test_attention_is_ablated_on_the_test_pictures(shapes: Path) -> None:
    made = task(shapes, test_share=0.4)
    plain, model = made.model("none", 0), made.model("se", 0)
    found = made.ablate(model, 0)
    assert sorted(found.groups) == sorted(made.split(0).test)
    full = made.evaluate(model, 0)
    order = {index: place for place, index in enumerate(full.groups)}
    assert found.full.tolist() == [bool(full.correct[order[index]]) for index in found.groups]
    # With its attention removed it is the network without attention, of the same initial values.
    without = made.evaluate(plain, 0)
    assert found.ablated["removed"].tolist() == [bool(without.correct[order[index]]) for index in found.groups]
    assert set(found.ablated) == set(found.changed) == {"removed", "mean", "resampled"}
    assert made.ablate(plain, 0).ablated == {}


def test_the_most_frequent_class_is_the_baseline(tmp_path: Path) -> None:
    folder = toy(tmp_path / "data", 20)
    remove_pictures(folder, "circle", 10)
    (name, found) = next(iter(task(folder).shortcuts().items()))
    assert name == "the most frequent class"
    assert found.correct.tolist() == [False] * 2 + [True] * 4


def test_examples_show_what_the_network_sees(tmp_path: Path) -> None:
    made = task(toy(tmp_path / "data", 12, ("a", "b", "c")), test_share=0.6)
    examples = made.examples(0)
    assert examples == made.examples(0)
    assert len(examples) == 12
    assert [sum(one["truth"] == name for one in examples) for name in made.families] == [4, 4, 4]
    for entry, index in zip(examples, made._chosen(0), strict=True):
        read = report_folder._example(entry)
        shown = Image.open(io.BytesIO(b64decode(read.picture.partition(",")[2])))
        assert shown.size == (read.width, read.height) == (32, 32)
        assert np.array_equal(np.asarray(shown), made._centred(index).permute(1, 2, 0).numpy())


def test_large_examples_are_shown_smaller(tmp_path: Path) -> None:
    folder = toy(tmp_path / "data", 3)
    for path in folder.rglob("*.png"):
        Image.open(path).resize((500, 400)).save(path)
    assert all(one["width"] == one["height"] == 160 for one in task(folder, size=200).examples(0))


MAPS = {
    "none": [],
    "se": [("layer4 channel", False)],
    "cbam": [("layer4 channel", False), ("layer4 spatial", True)],
    "coordinate": [("layer4 height and width", True)],
    "simam": [("layer4 neuron", True)],
    "gc": [("layer4 attention", True)],
    "non_local": [("layer4 attention", True)],
    "multi_head_self": [("layer4 attention", True)],
    "se+gc": [("layer4 se channel", False), ("layer4 gc attention", True)],
}


@pytest.mark.parametrize("attention", MAPS)
def test_readings_are_what_the_report_reads(shapes: Path, attention: str) -> None:
    made = task(shapes, size=96)
    model = made.model(attention, 0).train()
    readings = made.readings(model, 0)
    assert model.training
    assert len(readings) == len(made.examples(0)) == 4
    for entry, example in zip(readings, made.examples(0), strict=True):
        read = report_folder._reading(entry)
        assert read.correct == (read.answer == example["truth"])
        assert read.probability is not None
        assert 0.5 <= read.probability <= 1
        assert [(one.label, bool(one.rows)) for one in read.maps] == MAPS[attention]
        for one in read.maps:
            if one.rows:
                assert np.array(one.rows).shape == (3, 3)
                assert one.sums_to_one == one.label.endswith("attention")
            if one.sums_to_one:
                assert abs(np.sum(one.rows) - 1) < 1e-3
            else:
                assert len(one.values or one.rows) > 1
