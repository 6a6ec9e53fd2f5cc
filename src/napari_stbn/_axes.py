"""Which axis is which: letters, their checks, and a guess where a file does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

AXES: Final = "TCZYXS"
"""Letters that an axis may have: time, channel, plane, row, column, colour sample (RGB)."""

_FEW: Final = 4  # more positions than this along an unnamed axis are not channels
_COLOUR: Final = (3, 4)
_SMALLEST_RGB: Final = 8  # a last axis of 3 or 4 is colour only beside frames at least this wide


def check_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Return `axes` in capitals, or raise.

    Parameters
    ----------
    axes : str
        One letter per dimension out of T, C, Z, Y, X and S, in any order, with Y and X.
    shape : tuple of int
        Shape of the array that they name.

    Returns
    -------
    str
        The same letters in capitals.

    Raises
    ------
    ValueError
        A letter is unknown or repeated, Y or X is missing, or the number of letters is not the
        number of dimensions.
    """
    letters = axes.strip().upper()
    if not set(letters) <= set(AXES) or len(set(letters)) != len(letters):
        raise ValueError(
            f'axes must be different letters out of T, C, Z, Y, X and S, got "{axes}"; '
            f"name one letter per dimension of the shape {shape}."
        )
    if not {"Y", "X"} <= set(letters):
        raise ValueError(
            f'axes must contain Y and X, got "{axes}"; say which dimensions of the shape {shape} '
            "are the rows and the columns of a frame."
        )
    if len(letters) != len(shape):
        raise ValueError(
            f'axes must name each of the {len(shape)} dimensions of the shape {shape}, got "{axes}"'
            f" with {len(letters)}; give one letter per dimension."
        )
    return letters


def check_names(names: Sequence[str], axes: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the channels, or raise unless there are none or one for each.

    Raises
    ------
    ValueError
        There are more or fewer.
    """
    count = shape[axes.index("C")] if "C" in axes else 1
    if names and len(names) != count:
        raise ValueError(f"channel_names must be {count}, one for each channel, got {len(names)}.")
    return tuple(names)


def guess_axes(
    shape: tuple[int, ...], dtype: npt.DTypeLike, hint: str | None = None
) -> tuple[str, str]:
    """Guess the axes of an array from its shape and from the letters its file gives it.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : dtype-like
        Its type; only 8-bit and 16-bit arrays are looked at for a last axis of colours.
    hint : str, optional
        The file's own letters, such as ``"IYX"``, ``"QQYX"`` or ``"ZYX"``; T, C, Z, Y, X and S
        are believed, any other letter is one that the file does not know.

    Returns
    -------
    axes : str
        One letter per dimension out of T, C, Z, Y, X and S.
    sentence : str
        What was guessed and how to overrule it; empty where the file said everything.

    Raises
    ------
    ValueError
        The array has fewer than 2 dimensions or more than can be named.

    Notes
    -----
    Unnamed axes become time first, then few (<= 4) positions channels and many positions planes.
    A Z axis without time is taken for time, because many programs save a time-lapse as slices.
    """
    said = (hint or "").strip().upper()
    letters = [a if a in AXES and said.count(a) == 1 else "?" for a in said]
    if len(letters) != len(shape) or not {"Y", "X"} <= set(letters):
        letters = _letters_without_hint(shape, np.dtype(dtype))
        origin = f"from the shape {shape}"
    else:
        origin = f"from the file's own {said} and the shape {shape}"
    unknown = [i for i, letter in enumerate(letters) if letter == "?"]
    missing = [letter for letter in "TCZ" if letter not in letters]
    if len(shape) < 2 or len(unknown) > len(missing):
        raise ValueError(
            f"the axes of an array of shape {shape} cannot be guessed; a movie has 2 to 6 "
            'dimensions out of T, C, Z, Y, X and S: set "axes", or remove what is not one of them.'
        )
    for position, letter in _name_unknown(shape, unknown, missing).items():
        letters[position] = letter
    sentence = f'Axes guessed as {"".join(letters)} {origin}; set "axes" if this is wrong.'
    sizes = dict(zip(letters, shape, strict=True))
    if sizes.get("T", 1) == 1 and sizes.get("Z", 1) > 1:
        swap = {"Z": "T", "T": "Z"}
        letters = [swap.get(letter, letter) for letter in letters]
        return "".join(letters), (
            f"The file names {sizes['Z']} planes (Z) and no time; Z was taken for time, axes "
            f'{"".join(letters)}; set "axes" if this is wrong.'
        )
    return "".join(letters), "" if "".join(letters) == said else sentence


def _letters_without_hint(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> list[str]:
    """Letters read off the shape alone: ``?`` for what stands before YX or YXS."""
    colour = (
        len(shape) >= 3
        and shape[-1] in _COLOUR
        and dtype.kind == "u"
        and dtype.itemsize <= 2
        and min(shape[-3:-1]) >= _SMALLEST_RGB
    )
    tail = "YXS" if colour else "YX"
    return [*"?" * (len(shape) - len(tail)), *tail]


def _name_unknown(shape: tuple[int, ...], unknown: list[int], missing: list[str]) -> dict[int, str]:
    """Give each unknown position one of the missing letters."""
    order = [i for i in unknown if shape[i] != 1]  # the axes that hold something come first
    sizes = [shape[i] for i in order]
    letters = list(missing)
    names: dict[int, str] = {}

    def give(position: int, *wishes: str) -> None:
        letter = next((wish for wish in wishes if wish in letters), letters[0])
        letters.remove(letter)
        names[position] = letter

    if order and "T" in letters:
        # A few positions before many are channels before frames, as in (2, 50, Y, X).
        first = 1 if len(order) > 1 and "C" in letters and sizes[0] <= _FEW < sizes[1] else 0
        give(order.pop(first), "T")
        sizes.pop(first)
    few_first = sorted(order, key=lambda i: shape[i] > _FEW)
    for position in few_first:
        many = shape[position] > _FEW and (len(order) == 1 or "C" not in letters)
        give(position, *("ZC" if many else "CZ"))
    for position in unknown:
        if position not in names:
            give(position)
    return {position: names[position] for position in unknown}
