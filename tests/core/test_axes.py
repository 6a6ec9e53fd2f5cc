"""Axes are guessed from shapes and from what files say, and the guess is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_stbn.stack import (
    Stack,
    guess_axes,
)

# What files say, what they hold, and what it should be taken for.
GUESSES = [
    ((20, 64, 64), "uint16", None, "TYX"),
    ((64, 64), "uint16", None, "YX"),
    ((64, 64, 3), "uint8", None, "YXS"),
    ((9, 64, 64, 3), "uint8", None, "TYXS"),
    ((9, 64, 64, 3), "float32", None, "TZYX"),
    ((9, 5, 3), "uint8", None, "TYX"),
    ((20, 2, 64, 64), "uint16", None, "TCYX"),
    ((20, 11, 64, 64), "uint16", None, "TZYX"),
    ((2, 20, 64, 64), "uint16", None, "CTYX"),
    ((2, 20, 11, 64, 64), "uint16", None, "CTZYX"),
    ((20, 2, 11, 64, 64), "uint16", None, "TCZYX"),
    ((20, 11, 2, 64, 64), "uint16", None, "TZCYX"),
    ((1, 20, 1, 64, 64), "uint16", None, "CTZYX"),
    ((1, 1, 20, 64, 64), "uint16", None, "CZTYX"),
    ((1, 1, 1, 64, 64), "uint16", None, "TCZYX"),
    ((20, 64, 64), "uint16", "IYX", "TYX"),
    ((20, 64, 64), "uint16", "QYX", "TYX"),
    ((20, 64, 64), "uint16", "zyx", "TYX"),
    ((20, 5, 64, 64), "uint8", "QQYX", "TZYX"),
    ((20, 64, 64, 3), "uint8", "QYXS", "TYXS"),
    ((20, 2, 64, 64), "uint8", "ZCYX", "TCYX"),
    ((2, 20, 64, 64), "uint8", "CIYX", "CTYX"),
    ((20, 2, 64, 64), "uint8", "TQYX", "TCYX"),
    ((20, 9, 64, 64), "uint8", "TQYX", "TZYX"),
    ((20, 9, 64, 64), "uint8", "QZYX", "TZYX"),
    ((1, 20, 64, 64), "uint8", "TZYX", "ZTYX"),
    ((20, 64, 64), "uint8", "QQQ", "TYX"),
    ((20, 64, 64), "uint8", "CYX", "CYX"),
]


@pytest.mark.parametrize(("shape", "dtype", "hint", "expected"), GUESSES)
def test_guess(shape: tuple[int, ...], dtype: str, hint: str | None, expected: str) -> None:
    axes, sentence = guess_axes(shape, dtype, hint)
    assert axes == expected
    assert (sentence == "") == (axes == hint)
    if sentence:
        assert axes in sentence
        assert 'set "axes" if this is wrong' in sentence


def test_z_without_time_says_that_it_was_taken_for_time() -> None:
    assert "20 planes (Z) and no time" in Stack(np.zeros((20, 8, 8)), hint="ZYX").guess
    assert Stack(np.zeros((20, 8, 8)), "ZYX", hint="ZYX").guess == ""


@given(
    shape=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    letters=st.text("TCZYXSQIWR", max_size=6),
)
def test_a_guess_always_fits_the_array(shape: list[int], letters: str) -> None:
    unknown = sum(letter not in "TCZYXS" or letters.count(letter) > 1 for letter in letters)
    if len(letters) == len(shape) and unknown > 3 - sum(letters.count(a) == 1 for a in "TCZ"):
        letters = ""  # more unknown axes than letters: the next test
    axes, _ = guess_axes(tuple(shape), "uint16", letters or None)
    stack = Stack(np.zeros(shape, np.uint16), axes)
    assert {"Y", "X"} <= set(stack.axes)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((), None),
        ((5,), None),
        ((2, 2, 2, 2, 2, 8, 8), None),
        ((2, 2, 2, 2, 8, 8), "QIRWYX"),
    ],
)
def test_no_guess_for_what_is_no_movie(shape: tuple[int, ...], hint: str | None) -> None:
    with pytest.raises(ValueError, match="cannot be guessed"):
        Stack(np.zeros(shape), hint=hint)


def test_real_files_are_guessed(shared_data: Path) -> None:
    files = sorted((shared_data / "movies").glob("*.tif"))
    assert files
    for file in files:
        truth = file.stem.rsplit("_", 1)[1].upper()  # names end in the true axes
        with tifffile.TiffFile(file) as tif:
            series = tif.series[0]
            shape, dtype, letters = series.shape, series.dtype, series.axes
        assert dtype is not None
        assert guess_axes(shape, dtype, letters)[0] == truth, file.name
        assert guess_axes(shape, dtype)[0] == truth, file.name
