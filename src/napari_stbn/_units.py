"""Units of length and time, and pixel sizes however they are given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

SPACE: Final = "ZYX"

_MICROMETRES: Final = {
    **dict.fromkeys(("µm", "um", "micron", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("in", "inch", "inches"), 25400.0),
}
_SECONDS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond"), 1e-3),
    **dict.fromkeys(("µs", "us", "microsecond"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond"), 1e-9),
    **dict.fromkeys(("min", "mins", "minute"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}

_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")
_SHORTEST_PLURAL: Final = 5  # letters; "ms" is not several metres

PixelSize = float | Sequence[float] | Mapping[str, float]


def micrometres(unit: str) -> float | None:
    """Micrometres in one `unit`; None where it is not a length that is known."""
    return _known(_MICROMETRES, unit)


def seconds(unit: str) -> float | None:
    """Seconds in one `unit`; None where it is not a time that is known."""
    return _known(_SECONDS, unit)


def spelled(unit: str) -> str:
    """A unit without the escapes that ImageJ writes for letters beyond ASCII."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), unit).strip()


def _known(table: Mapping[str, float], unit: str) -> float | None:
    """Look a unit up, whatever its capitals, its plural and its character for micro."""
    word = spelled(unit).lower().rstrip(".").replace("\N{GREEK SMALL LETTER MU}", "µ")
    one = word[:-1] if word.endswith("s") and len(word) >= _SHORTEST_PLURAL else word
    return table.get(word, table.get(one))


def sizes_in_micrometres(sizes: PixelSize | None, unit: str) -> tuple[dict[str, float], str]:
    """Pixel size per axis, in µm where `unit` is a length, and the unit it is then in."""
    if sizes is None:
        named: dict[str, float] = {}
    elif isinstance(sizes, Mapping):
        named = {axis.upper(): float(size) for axis, size in sizes.items()}
    else:
        numbers = [float(size) for size in np.atleast_1d(np.asarray(sizes, np.float64))]
        numbers = numbers * 2 if len(numbers) == 1 else numbers
        if len(numbers) not in (2, 3):
            raise ValueError(
                f"pixel_size must be one number, (y, x) or (z, y, x), got {len(numbers)} numbers."
            )
        named = dict(zip(SPACE[-len(numbers) :], numbers, strict=True))
    if not set(named) <= set(SPACE) or not all(0 < size < np.inf for size in named.values()):
        raise ValueError(f"pixel_size must be positive sizes along Z, Y and X, got {named}.")
    factor = micrometres(unit)
    if factor is None:
        return named, unit
    return {axis: size * factor for axis, size in named.items()}, "µm"
