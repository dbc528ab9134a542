"""Encoders of every kind of column against what they should read and say."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_making import RATE, write_sound
from PIL import Image

from regard.models.fusion.encoders import (
    AudioEncoder,
    Encoder,
    ImageEncoder,
    TabularEncoder,
    TextEncoder,
    VideoEncoder,
    encoders,
)
from regard.models.fusion.encoders.audio import mel_bank, read_sound, resample
from regard.models.fusion.encoders.video import evenly

WIDTH = 6


def test_words_are_numbered_by_how_often_they_occur_and_unknown_ones_are_known_as_such(unchecked_shapes: None) -> None:
    encoder = TextEncoder.learn(["Red, red dog", "a red dog!"], WIDTH)
    assert encoder.vocabulary == ["red", "dog", "!", ",", "a"]
    assert encoder.read("A RED cat").tolist() == [6, 2, 1]
    assert encoder.read("🙂").tolist() == [1]
    characters = TextEncoder.learn(["abba"], WIDTH, units="characters")
    assert characters.read(" bac ").tolist() == [3, 2, 1]
    assert TextEncoder.learn(["b b b a a c"], WIDTH, rarest=2).vocabulary == ["b", "a"]
    assert TextEncoder.learn(["b b b a a c"], WIDTH, most=1).vocabulary == ["b"]
    assert TextEncoder(["a"], WIDTH, length=2).read("a a a").tolist() == [2, 2]
    with pytest.raises(ValueError, match="units='letters'"):
        TextEncoder(["a"], WIDTH, units="letters")  # pyright: ignore[reportArgumentType]


def test_what_fills_up_a_short_text_changes_nothing() -> None:
    encoder = TextEncoder.learn(["one two three four five"], WIDTH).eval()
    short, long = encoder.read("two one"), encoder.read("five four three two one")
    tokens, mask = encoder(*encoder.batch([short, long]))
    alone, _ = encoder(*encoder.batch([short]))
    assert mask.tolist() == [[True, True, False, False, False], [True] * 5]
    torch.testing.assert_close(tokens[0, :2], alone[0])
    forwards, _ = encoder(*encoder.batch([encoder.read("one two")]))
    assert not torch.allclose(forwards, alone.flip(1))  # the order of words tells


def test_a_picture_is_upright_and_rgb_whatever_its_file_holds(tmp_path: Path) -> None:
    encoder = ImageEncoder(WIDTH, size=4)
    image = Image.new("RGB", (4, 4), "black")
    image.putpixel((0, 0), (255, 0, 0))
    rotated = Image.Exif()
    rotated[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=rotated)
    read = encoder.read(tmp_path / "a.png")
    assert read[:, 3, 3].tolist() == [255, 0, 0]
    assert read.sum() == 255
    Image.fromarray(np.full((3, 5), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    assert (encoder.read(tmp_path / "deep.png") == 100).all()
    assert torch.equal(encoder.read(image), encoder.read(np.asarray(image)))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        encoder.read(tmp_path / "b.png")


@pytest.mark.parametrize("backbone", [None, "test_resnet", "test_vit"])
def test_the_cells_of_a_picture_have_the_width_asked_for(backbone: str | None) -> None:
    size = 160 if backbone == "test_vit" else 40
    encoder = ImageEncoder(WIDTH, size=size, backbone=backbone).eval()
    tokens, mask = encoder(torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8))
    assert tokens.shape == (3, encoder.body.cells, WIDTH)
    assert mask.all()
    assert mask.shape == tokens.shape[:2]


@pytest.mark.parametrize(("depth", "error"), [(1, 2**-6), (2, 2**-14), (3, 2**-22), (4, 2**-22)])
def test_sound_of_every_depth_is_read_as_it_was_written(tmp_path: Path, depth: int, error: float) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (37, 2))
    write_sound(tmp_path / "a.wav", values, 700, depth)
    sound, rate = read_sound(tmp_path / "a.wav")
    assert rate == 700
    np.testing.assert_allclose(sound.numpy(), values.mean(1), atol=error)


def test_a_sound_file_that_needs_a_library_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.mp3").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="pip install soundfile"):
        read_sound(tmp_path / "a.mp3")
    write_sound(tmp_path / "empty.wav", np.zeros(0))
    with pytest.raises(ValueError, match="holds no sound"):
        AudioEncoder(WIDTH).read(tmp_path / "empty.wav")


def test_resampling_keeps_the_pitch() -> None:
    tone = torch.sin(2 * torch.pi * 50 * torch.arange(3000) / 3000)
    found = resample(tone, 3000, 2000)
    assert len(found) == 2000
    expected = torch.sin(2 * torch.pi * 50 * torch.arange(2000) / 2000)
    torch.testing.assert_close(found[100:-100], expected[100:-100], atol=2e-3, rtol=0)


def test_mel_bands_are_triangles_evenly_spaced_in_mel() -> None:
    mels, bins, rate = 5, 65, 4000

    def mel(frequency: float) -> float:
        return 2595 * math.log10(1 + frequency / 700)

    step = mel(rate / 2) / (mels + 1)
    for band in range(mels):
        low, middle, high = (700 * (10 ** (step * (band + k) / 2595) - 1) for k in range(3))
        for index in range(bins):
            frequency = rate / 2 * index / (bins - 1)
            if frequency <= middle:
                height = max(0.0, (frequency - low) / (middle - low))
            else:
                height = max(0.0, (high - frequency) / (high - middle))
            assert math.isclose(float(mel_bank(mels, bins, rate)[band, index]), height, abs_tol=1e-5)


def test_the_spectrogram_is_the_power_in_every_band() -> None:
    encoder = AudioEncoder(WIDTH, rate=RATE, mels=3)
    wave = torch.randn(1, 137)
    found = encoder.spectrogram(wave)
    hop, length, points = 20, 50, 64
    assert found.shape == (1, 3, 137 // hop + 1)
    padded = torch.cat((torch.zeros(points // 2), wave[0], torch.zeros(points)))
    window = torch.zeros(points)
    window[7:57] = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * n / length) for n in range(length)])
    for frame in range(found.shape[2]):
        part = padded[frame * hop : frame * hop + points] * window
        power = torch.tensor(
            [
                abs(sum(complex(part[n]) * np.exp(-2j * np.pi * k * n / points) for n in range(points))) ** 2
                for k in range(points // 2 + 1)
            ]
        ).float()
        torch.testing.assert_close(found[0, :, frame], (encoder.bank @ power + 1e-6).log(), rtol=1e-4, atol=1e-4)


def test_every_band_of_the_training_clips_has_mean_zero_and_deviation_one() -> None:
    encoder = AudioEncoder(WIDTH, rate=RATE, mels=5)
    clips = [torch.randn(300), 3 * torch.randn(171)]
    encoder.adapt(clips)
    assert encoder.samples == 300
    bands = []
    for clip in clips:
        waves, lengths = encoder.batch([clip])
        shown = (encoder.spectrogram(waves)[0] - encoder.mean[:, None]) / encoder.deviation[:, None]
        bands.append(shown[:, : encoder.frames(lengths)[0]])
    together = torch.cat(bands, 1)
    torch.testing.assert_close(together.mean(1), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.std(1, correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_a_clip_says_the_same_beside_a_longer_one_and_its_end_is_masked() -> None:
    encoder = AudioEncoder(WIDTH, rate=RATE, mels=5).eval()
    short, long = torch.randn(90), torch.randn(400)
    encoder.adapt([short, long])
    together, mask = encoder(*encoder.batch([long, short]))
    alone, only = encoder(*encoder.batch([short]))
    torch.testing.assert_close(together[1], alone[0])
    assert torch.equal(mask[1], only[0])
    assert mask.sum(1).tolist() == [5, 2]  # frames of 10 ms, four to a token: 20 and 5
    assert mask.shape == together.shape[:2]


def test_frames_are_taken_evenly() -> None:
    assert evenly(8, 8) == list(range(8))
    assert evenly(9, 3) == [1, 4, 7]
    assert evenly(2, 4) == [0, 0, 1, 1]
    assert evenly(1, 3) == [0, 0, 0]


def test_a_video_is_a_folder_of_frames_or_an_animated_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(np.full((6, 6), 40 * number, np.uint8)) for number in range(5)]
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "clip" / f"{number}.png")
    (tmp_path / "clip" / "notes.txt").write_text("no frame")
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    encoder = VideoEncoder(WIDTH, frames=3, size=16).eval()
    from_folder, from_gif = encoder.read(tmp_path / "clip"), encoder.read(tmp_path / "clip.gif")
    assert from_folder[:, 0, 0, 0].tolist() == [0, 80, 160]
    assert torch.equal(from_folder, from_gif)
    tokens, mask = encoder(*encoder.batch([from_folder, from_folder.flip(0)]))
    assert tokens.shape == (2, 3, WIDTH)
    assert mask.all()
    assert not torch.allclose(tokens[0].mean(0), tokens[1].mean(0))  # backwards is another video
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no frame"):
        encoder.read(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="pip install av"):
        encoder.read(tmp_path / "a.mp4")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        encoder.read(tmp_path / "b.mp4")


ROWS = [{"size": 1.0, "colour": "red"}, {"size": 4.0, "colour": None}, {"size": None, "colour": "blue"}]
KINDS = {"size": "number", "colour": "category"}


def test_numbers_are_standardised_with_what_training_has_and_categories_numbered() -> None:
    encoder = TabularEncoder.learn(ROWS, WIDTH, kinds=KINDS)
    assert encoder.settings["numbers"] == {"size": [2.5, 1.5]}
    assert encoder.read({"size": 5.5, "colour": "red"}).tolist() == [2.0, 3.0]
    assert encoder.read({"size": 2.5, "colour": "green"}).tolist() == [0.0, 1.0]  # unknown
    missing = encoder.read({"size": None, "colour": None})
    assert missing[0].isnan()
    assert missing[1] == 0
    whole = TabularEncoder.learn([{"rooms": 2}, {"rooms": 3}], WIDTH, kinds={"rooms": "category"})
    assert [whole.read({"rooms": rooms}).item() for rooms in (2, 3.0, "3", 3.5)] == [2, 3, 3, 1]  # pandas writes 3.0
    constant = TabularEncoder.learn([{"size": 7.0}] * 3, WIDTH, kinds={"size": "number"})
    assert constant.read({"size": 9.0}).tolist() == [2.0]


def test_a_row_has_a_token_for_each_column_and_what_is_missing_is_its_mean_and_what_is_learned_of_it() -> None:
    encoder = TabularEncoder.learn(ROWS, WIDTH, kinds=KINDS).eval()
    cells = encoder.batch([encoder.read(row) for row in ROWS])
    tokens, mask = encoder(*cells)
    assert mask.all()
    blue, red = encoder.embed[0].weight[2:]
    torch.testing.assert_close(tokens[0, 0], -1.0 * encoder.slope[0] + encoder.offset[0])
    torch.testing.assert_close(tokens[2, 0], tokens[:2, 0].mean(0))
    torch.testing.assert_close(tokens[:, 1], torch.stack((red, (red + blue) / 2, blue)))
    tokens.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    with torch.no_grad():
        encoder.absent += 3
        encoder.embed[0].weight[0] += 5
    changes = encoder(*cells)[0] - tokens
    torch.testing.assert_close(changes.mean(2), torch.tensor([[0.0, 0.0], [0.0, 5.0], [3.0, 0.0]]))


def test_a_category_that_no_row_of_the_training_part_has_is_read_as_finite() -> None:
    encoder = TabularEncoder.learn([{"size": 1.0, "colour": None}], WIDTH, kinds=KINDS).eval()
    tokens, _ = encoder(*encoder.batch([encoder.read({"size": 1.0, "colour": value}) for value in (None, "red")]))
    assert tokens.isfinite().all()
    assert (tokens[0, 1] == 0).all()


@pytest.mark.parametrize(("value", "message"), [("tall", "column 'size' holds 'tall'"), (math.inf, "holds inf")])
def test_what_is_no_number_is_refused(value: object, message: str) -> None:
    encoder = TabularEncoder.learn(ROWS, WIDTH, kinds=KINDS)
    with pytest.raises(ValueError, match=message):
        encoder.read({"size": value, "colour": "red"})


def some_encoder(kind: str) -> tuple[Encoder, torch.Tensor, torch.Tensor]:
    """An encoder and two cells."""
    if kind == "text":
        text = TextEncoder.learn([" ".join(f"w{n}" for n in range(40))], WIDTH)
        return text, text.read("w3 w3 " * 60), text.read("w5 w5 " * 60)
    if kind == "tabular":
        names = [f"c{n}" for n in range(20)]
        kinds = dict.fromkeys(names, "category") | {"size": "number"}
        rows = [dict.fromkeys(names, f"v{n}") | {"size": float(n)} for n in range(9)]
        tabular = TabularEncoder.learn(rows, WIDTH, kinds=kinds)
        return tabular, tabular.read(rows[2]), tabular.read(rows[7])
    if kind == "audio":
        return AudioEncoder(WIDTH, rate=RATE), torch.ones(500), -torch.ones(500)
    shape = (3, 16, 16) if kind == "image" else (8, 3, 16, 16)
    low, high = torch.zeros(shape, dtype=torch.uint8), torch.full(shape, 255, dtype=torch.uint8)
    return encoders[kind](WIDTH, size=16), low, high


@pytest.mark.parametrize("kind", encoders)
def test_noise_is_nothing_at_level_0_and_everything_at_level_1(kind: str) -> None:
    encoder, one, other = some_encoder(kind)

    def noisy(cell: torch.Tensor, level: float) -> torch.Tensor:
        return encoder.noisy(cell, level, torch.Generator().manual_seed(5))

    assert torch.equal(noisy(one, 0.0), one)
    torch.testing.assert_close(noisy(one, 1.0), noisy(other, 1.0))  # the same noise, whatever was there
    changed = (noisy(one, 0.5) != one).float().mean()
    assert changed > 0.2
    assert noisy(one, 0.5).shape == one.shape
    if kind in ("text", "tabular"):
        assert changed < 0.8  # some are kept


@pytest.mark.parametrize("kind", encoders)
def test_an_encoder_is_built_again_from_its_settings(kind: str) -> None:
    encoder, one, other = some_encoder(kind)
    encoder.adapt([one, other]) if kind == "audio" else None
    again = type(encoder)(**encoder.settings)
    again.load_state_dict(encoder.state_dict())
    assert again.settings == encoder.settings
    tokens, mask = encoder.eval()(*encoder.batch([one, other]))
    same, same_mask = again.eval()(*again.batch([one, other]))
    assert torch.equal(tokens, same)
    assert torch.equal(mask, same_mask)
    assert tokens.shape[2] == encoder.width == WIDTH
    assert encoder.kind == kind
