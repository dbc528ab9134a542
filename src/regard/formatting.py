"""Numbers, durations and dates as people write them, alike in the terminal, in messages and on a run's page."""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import floor, isfinite, log10

Number = int | float

MINUS, NO_BREAK, DASH = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}", "\N{EN DASH}"

_prefixes: Mapping[str, float] = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


def number(value: Number | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, and never fewer than its whole part has: `1,170`, `11.7`.

    Only what is smaller than a ten-thousandth has an exponent: `1.2e-7`.
    """
    if value is None or not isfinite(value):
        return DASH
    if value == 0:
        return "0"
    exponent = _exponent(value, digits)
    if exponent < -4:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{_trimmed(mantissa)}e{int(power)}".replace("-", MINUS, value < 0)
    return fixed(value, max(0, digits - 1 - exponent))


def fixed(value: Number | None, digits: int = 3) -> str:
    """Return a number with so many decimals; a dash for none."""
    if value is None or not isfinite(value):
        return DASH
    return f"{value:z,.{digits}f}".replace("-", MINUS)


def signed(value: Number | None, digits: int = 1) -> str:
    """Return a difference with its sign and so many decimals; what is rounded to zero has none."""
    if value is None or not isfinite(value):
        return DASH
    found = f"{value:+z,.{digits}f}".replace("-", MINUS)
    return found if found.strip("+0.") else found[1:]


def count(value: Number | None) -> str:
    """Return a whole number with its thousands apart: `1,234,567`."""
    return fixed(value, 0)


def scaled(value: Number | None, unit: str = "", digits: int = 3) -> str:
    """Return a quantity with so many digits and the prefix of its unit, a power of 1000: `1.17 GB`."""
    if value is None or not isfinite(value):
        return DASH
    for prefix, size in _prefixes.items():
        if abs(float(f"{value:.{digits - 1}e}")) >= size:
            return f"{number(value / size, digits)} {prefix}{unit}"
    return f"{count(value) if float(value).is_integer() else number(value, digits)} {unit}".rstrip()


def milliseconds(value: Number | None, spread: Number | None = None) -> str:
    """Return a time in milliseconds: `0.412 ms`, `1,170 ± 12 ms`; the spread has the decimals of the time."""
    if value is None or not isfinite(value):
        return DASH
    if spread is None:
        return f"{number(value)} ms"
    decimals = len(number(value).partition(".")[2]) if value else 0
    return f"{number(value)} ± {fixed(spread, decimals)} ms"


def duration(seconds: Number | None) -> str:
    """Return how long something takes, in its largest unit, or its two largest: `42 s`, `5 min`, `2 h 10 min`."""
    if seconds is None or not isfinite(seconds):
        return DASH
    if seconds < 9.95 and isinstance(seconds, float):
        return f"{number(seconds, 1) if seconds < 1 else fixed(seconds, 1)} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours + (minutes >= 30):,} h"


def percent(value: Number | None, digits: int = 1) -> str:
    """Return a share in per cent: `98.4 %`."""
    return DASH if value is None or not isfinite(value) else f"{fixed(100 * value, digits)}{NO_BREAK}%"


def probability(value: Number | None) -> str:
    """Return two decimals, and never 0 or 1 for what is neither."""
    if value is None or not isfinite(value):
        return ""
    if 0 < value < 0.005:
        return "<0.01"
    return ">0.99" if 0.995 <= value < 1 else f"{value:.2f}"


def weight(value: Number) -> str:
    """Return an attention weight: two decimals, or two significant digits where it is small."""
    return fixed(value, 2) if abs(value) >= 0.1 else number(value, 2)


def moment(text: str) -> str:
    """Return a moment that is written by ISO 8601 as people write it: `1 December 2026, 03:31 UTC`.

    What is no such moment stays as it is. One without a time zone is shown without one.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = ""
    if found.tzinfo is not None:
        found, zone = found.astimezone(UTC), " UTC"
    return f"{found.day} {_months[found.month - 1]} {found.year}, {found:%H:%M}{zone}"


_months = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
"""In English whatever the locale is, as all else."""


def _exponent(value: Number, digits: int) -> int:
    """The power of ten of the first digit, after rounding to so many."""
    return floor(log10(abs(float(f"{value:.{digits - 1}e}"))) + 1e-12)


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
