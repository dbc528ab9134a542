"""Videos."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from regard.commands import pip_install
from regard.models.fusion.encoders.encoder import Encoder
from regard.models.fusion.encoders.picture import SUFFIXES, SmallBody, body, drown, open_picture, to_tensor

ANIMATIONS = (".gif", ".webp", ".apng")


class VideoEncoder(Encoder):
    """A video as a few of its frames, each looked at alone, and a bidirectional GRU over them: a token a frame.

    A video is a folder of frames, in the order of their names; an animated picture; or a file that PyAV reads.

    Args:
        width: width `W` of a token.
        frames: how many frames `F` are taken, evenly over its length.
        size: side in pixels to which every frame is stretched.
        backbone: the name of a timm backbone; None for a small convolutional network.
        pretrained: whether the backbone starts from the weights that timm downloads.
    """

    kind: ClassVar[str] = "video"

    def __init__(
        self, width: int, frames: int = 8, size: int = 32, backbone: str | None = None, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.width = width
        self.frames = frames
        self.size = size
        self.backbone = backbone
        self.body = body(size, max(8, width // 4), backbone, pretrained, channels=8)
        # The small network's cells side by side, since where something is tells how it moves; a backbone's in the mean.
        seen = self.body.channels * (self.body.cells if isinstance(self.body, SmallBody) else 1)
        self.project = nn.Sequential(nn.LayerNorm(seen), nn.Linear(seen, width), nn.GELU())
        self.recurrent = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.mix = nn.Linear(2 * width, width)

    @classmethod
    def learn(cls, values: Sequence[Any], width: int, **options: Any) -> "VideoEncoder":
        return cls(width, **options)

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "frames": self.frames, "size": self.size, "backbone": self.backbone}

    def read(self, value: Any) -> UInt8[Tensor, "F 3 S S"]:
        return torch.stack(read_frames(Path(value), self.frames, self.size))

    def batch(self, cells: Sequence[Tensor]) -> tuple[UInt8[Tensor, "B F 3 S S"]]:
        return (torch.stack(list(cells)),)

    def parts(self, cell: Tensor, count: int) -> list[str]:
        return [f"frame {frame + 1}" for frame in range(count)]

    def noisy(self, cell: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return drown(cell, level, generator)

    def forward(self, *inputs: Tensor) -> tuple[Float[Tensor, "B F W"], Bool[Tensor, "B F"]]:
        (frames,) = inputs
        cells = self.body(frames.flatten(0, 1))  # (B · F, N, C)
        seen = cells.flatten(1) if isinstance(self.body, SmallBody) else cells.mean(1)
        tokens = self.project(seen).unflatten(0, frames.shape[:2])
        tokens = self.mix(self.recurrent(tokens)[0])
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def evenly(found: int, wanted: int) -> list[int]:
    """Which of `found` frames to take: the middle one of each of `wanted` equal parts."""
    return [(2 * part + 1) * found // (2 * wanted) for part in range(wanted)]


def read_frames(path: Path, wanted: int, size: int) -> list[UInt8[Tensor, "3 size size"]]:
    """So many frames of a video, evenly over its length."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        return pick(len(files), wanted, lambda index: open_picture(files[index], size), path)
    if path.suffix.lower() in ANIMATIONS:
        from PIL import Image

        with Image.open(path) as image:

            def frame(index: int) -> Tensor:
                image.seek(index)
                return to_tensor(image, size)

            return pick(getattr(image, "n_frames", 1), wanted, frame, path)
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeError(
            f"reading {path.suffix} needs PyAV: {pip_install('av')}, or give folders of frames or animated GIFs"
        ) from error
    with av.open(str(path)) as container:
        frames = [to_tensor(frame.to_image(), size) for frame in container.decode(video=0)]
    return pick(len(frames), wanted, frames.__getitem__, path)


def pick(found: int, wanted: int, frame: Callable[[int], Tensor], path: Path) -> list[Tensor]:
    """The frames to take of all that were found."""
    if found == 0:
        raise ValueError(f"{path} holds no frame: give a folder of pictures, or a video")
    return [frame(index) for index in evenly(found, wanted)]
