"""Small encoders, one for each kind of column."""

from regard.models.fusion.encoders.audio import AudioEncoder
from regard.models.fusion.encoders.encoder import Encoder
from regard.models.fusion.encoders.image import ImageEncoder
from regard.models.fusion.encoders.tabular import TabularEncoder
from regard.models.fusion.encoders.text import TextEncoder
from regard.models.fusion.encoders.video import VideoEncoder

encoders: dict[str, type[Encoder]] = {
    encoder.kind: encoder for encoder in (TextEncoder, ImageEncoder, AudioEncoder, VideoEncoder, TabularEncoder)
}
"""Every encoder by the kind of its column; numbers and categories together are of the kind `tabular`."""

__all__ = ["AudioEncoder", "Encoder", "ImageEncoder", "TabularEncoder", "TextEncoder", "VideoEncoder", "encoders"]
