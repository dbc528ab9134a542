"""Sound."""

import wave
from collections.abc import Iterable, Sequence
from math import gcd, log10
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from regard.commands import pip_install
from regard.models.fusion.blocks import places
from regard.models.fusion.encoders.encoder import Encoder

QUIET = 1e-6
"""Added to every power, so that silence has a logarithm."""


class AudioEncoder(Encoder):
    """Sound as a log-mel spectrogram, 25 ms every 10 ms, and two convolutions over time: a token every 40 ms.

    Every clip is filled up with silence to the same length, so that what stands beside it in a batch changes nothing;
    tokens behind its end take no part. Each band is standardised with its mean and deviation over the training clips.

    Args:
        width: width `W` of a token.
        rate: samples a second to which every clip is brought.
        mels: how many bands `F`.
        samples: length `S` of a clip; what is longer is cut off. `adapt` makes it that of the longest training clip.
        seconds: the longest that `adapt` may make it.
    """

    kind: ClassVar[str] = "audio"
    mean: Float[Tensor, " F"]
    deviation: Float[Tensor, " F"]
    window: Float[Tensor, " L"]
    bank: Float[Tensor, "F bins"]

    def __init__(
        self, width: int, rate: int = 16_000, mels: int = 40, samples: int | None = None, seconds: float = 10.0
    ) -> None:
        super().__init__()
        self.width = width
        self.rate = rate
        self.mels = mels
        self.longest = max(1, round(seconds * rate))
        self.samples = self.longest if samples is None else samples
        self.hop = max(1, round(0.010 * rate))
        length = max(2, round(0.025 * rate))
        self.points = 1 << (length - 1).bit_length()
        self.register_buffer("window", torch.hann_window(length), persistent=False)
        self.register_buffer("bank", mel_bank(mels, self.points // 2 + 1, rate), persistent=False)
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("deviation", torch.ones(mels))
        self.convolutions = nn.Sequential(
            nn.Conv1d(mels, width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
            nn.GELU(),
        )
        self.project = nn.Linear(width, width)

    @classmethod
    def learn(cls, values: Sequence[Any], width: int, **options: Any) -> "AudioEncoder":
        return cls(width, **options)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "rate": self.rate,
            "mels": self.mels,
            "samples": self.samples,
            "seconds": self.longest / self.rate,
        }

    def read(self, value: Any) -> Float[Tensor, " S"]:
        sound, rate = read_sound(Path(value))
        if sound.numel() == 0:
            raise ValueError(f"{value} holds no sound")
        return resample(sound, rate, self.rate)[: self.longest]

    def adapt(self, cells: Iterable[Tensor]) -> None:
        self.samples = max((len(cell) for cell in cells), default=self.samples)
        count, total, squares = 0, torch.zeros(self.mels).double(), torch.zeros(self.mels).double()
        for cell in cells:
            waves, lengths = self.batch([cell])
            bands = self.spectrogram(waves)[0, :, : self.frames(lengths)[0]].double()  # (F, frames)
            count += bands.shape[1]
            total += bands.sum(1)
            squares += bands.square().sum(1)
        mean = total / max(1, count)
        self.mean.copy_(mean)
        self.deviation.copy_((squares / max(1, count) - mean.square()).clamp_min(1e-4).sqrt())

    def batch(self, cells: Sequence[Tensor]) -> tuple[Float[Tensor, "B S"], Int[Tensor, " B"]]:
        waves = torch.zeros(len(cells), self.samples)
        lengths = torch.tensor([min(len(cell), self.samples) for cell in cells])
        for wave_, cell, length in zip(waves, cells, lengths.tolist(), strict=True):
            wave_[:length] = cell[:length]
        return waves, lengths

    def parts(self, cell: Tensor, count: int) -> list[str]:
        """Where the clip is, in seconds."""
        return [f"{4 * token * self.hop / self.rate:.2f} s" for token in range(count)]

    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """`(1 - level)` of the sound and `level` of white noise as loud as it is."""
        loud = cell.square().mean().sqrt()
        return (1 - level) * cell + level * loud * torch.randn(cell.shape, generator=generator)

    def spectrogram(self, waves: Float[Tensor, "B S"]) -> Float[Tensor, "B F T"]:
        """The logarithm of the power in every band, every 10 ms, around that time."""
        spectrum = torch.stft(
            waves,
            self.points,
            self.hop,
            len(self.window),
            self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        return (self.bank @ spectrum.abs().square() + QUIET).log()

    def frames(self, lengths: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """How many frames of the spectrogram have their centre in the clip."""
        return (lengths - 1) // self.hop + 1

    def forward(self, *inputs: Tensor) -> tuple[Float[Tensor, "B N W"], Bool[Tensor, "B N"]]:
        waves, lengths = inputs
        bands = (self.spectrogram(waves) - self.mean[:, None]) / self.deviation[:, None]  # (B, F, T)
        inside = torch.arange(bands.shape[2], device=bands.device) < self.frames(lengths)[:, None]  # (B, T)
        x = self.convolutions(bands * inside[:, None]).transpose(1, 2)  # (B, N, W)
        return self.project(x) + places(x.shape[1], self.width, x), inside[:, ::4]


def mel_bank(mels: int, bins: int, rate: int) -> Float[Tensor, "{mels} {bins}"]:
    """Triangles of height one, evenly spaced in mel, `2595 log10(1 + f / 700)`, from 0 to half the rate."""
    edges = 700 * (10 ** (torch.linspace(0, 2595 * log10(1 + rate / 1400), mels + 2).double() / 2595) - 1)
    frequency = torch.linspace(0, rate / 2, bins).double()
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return torch.minimum(rising, falling).clamp_min(0).float()


def read_sound(path: Path) -> tuple[Float[Tensor, " S"], int]:
    """A sound file as one channel in -1..1, and its rate: WAV by the standard library, others by soundfile."""
    import numpy as np

    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() in (".wav", ".wave"):
        try:
            with wave.open(str(path)) as file:
                channels, depth, rate, count = file.getparams()[:4]
                data = file.readframes(count)
        except wave.Error as error:
            if "unknown format" not in str(error):  # floating point, which soundfile knows
                raise
        else:
            raw = np.frombuffer(data, np.uint8).reshape(-1, depth)
            if depth == 1:  # the one depth without a sign
                values = raw[:, 0].astype(np.float64) - 128
            else:
                wide = np.zeros((len(raw), 4), np.uint8)
                wide[:, 4 - depth :] = raw
                values = wide.view("<i4")[:, 0] / 2.0 ** (32 - 8 * depth)
            scaled = values / 2.0 ** (8 * depth - 1)
            return torch.from_numpy(scaled.reshape(-1, channels).mean(1).astype(np.float32)), rate
    try:
        import soundfile  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeError(
            f"reading {path.name} needs soundfile: {pip_install('soundfile')}, or give PCM .wav"
        ) from error
    values, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(values.mean(1)), rate


def resample(sound: Float[Tensor, " S"], rate: int, wanted: int) -> Float[Tensor, " R"]:
    """The same sound at another rate, by a polyphase filter."""
    if rate == wanted:
        return sound
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    return torch.from_numpy(resample_poly(sound.numpy(), wanted // common, rate // common)).float()
