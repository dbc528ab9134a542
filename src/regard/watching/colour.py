"""The colours of a map: dark violet over red to pale yellow, in steps that look equally large."""

from functools import cache
from itertools import pairwise
from math import cbrt, cos, hypot, radians, sin


def oklab(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """An 8-bit sRGB colour in OKLab (Ottosson 2020), where distance is about as large as it looks."""
    red, green, blue = (_linear(channel / 255) for channel in colour)
    long = cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue)
    middle = cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue)
    short = cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


@cache
def table(size: int = 256) -> tuple[tuple[int, int, int], ...]:
    """The map from low to high as 8-bit sRGB colours: lightness only rises, and all steps in OKLab are alike."""
    fine = 768
    path = [_on_path(step / (fine - 1)) for step in range(fine)]
    travelled = [0.0]
    for before, after in pairwise(path):
        travelled.append(travelled[-1] + hypot(*(b - a for a, b in zip(before, after, strict=True))))
    colours, at = [], 0
    for step in range(size):
        target = travelled[-1] * step / (size - 1)
        while at < fine - 1 and travelled[at] < target:
            at += 1
        colours.append(_to_srgb(path[at]))
    return tuple(colours)


OPACITY = 0.6
"""Of the largest weight's colour over a picture."""


@cache
def overlay(size: int = 256) -> tuple[tuple[int, int, int, int], ...]:
    """The map from low to high with its opacity over a picture: nothing for 0, and never so much that it hides it."""
    return tuple((*rgb, round(255 * OPACITY * (step / (size - 1)) ** 0.6)) for step, rgb in enumerate(table(size)))


def _on_path(t: float) -> tuple[float, float, float]:
    """A point of the path in OKLab: lightness rises evenly, hue turns from violet over red to yellow."""
    lightness = 0.14 + 0.83 * t
    hue = radians(290 + 178 * t)
    chroma = 0.05 + 0.17 * sin(radians(180 * min(1.0, 0.12 + 0.86 * t))) ** 0.9
    if not _inside((lightness, chroma * cos(hue), chroma * sin(hue))):
        low, high = 0.0, chroma  # the strongest colour of this lightness and hue that a screen has
        for _ in range(12):
            chroma = (low + high) / 2
            low, high = (chroma, high) if _inside((lightness, chroma * cos(hue), chroma * sin(hue))) else (low, chroma)
    return lightness, chroma * cos(hue), chroma * sin(hue)


def _inside(colour: tuple[float, float, float]) -> bool:
    return all(-1e-6 <= channel <= 1 + 1e-6 for channel in _to_linear(colour))


def _to_srgb(colour: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * _gamma(min(1.0, max(0.0, channel)))) for channel in _to_linear(colour))
    return red, green, blue


def _to_linear(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    lightness, a, b = colour
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _gamma(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055
