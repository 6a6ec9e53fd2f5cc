"""Defects of cameras and files are found, and sound movies have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from napari_stbn.stack import (
    inspect_movie,
    validate_movie,
)

DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")


def numbered(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Array whose values all differ as far as `dtype` allows."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def noisy(shape: tuple[int, int, int] = (12, 60, 70), sigma: float = 10.0) -> npt.NDArray[Any]:
    """Camera background of white noise."""
    rng = np.random.default_rng(0)
    return np.rint(rng.normal(500, sigma, shape)).astype(np.uint16)


def test_a_sound_movie_has_no_defects() -> None:
    defects = inspect_movie(noisy())
    assert not defects
    assert defects.nonfinite is None
    assert defects.dead is None
    assert defects.constant_frames == ()
    assert defects.saturation_level is None


def test_dead_pixels_are_found_but_not_padding() -> None:
    movie = noisy()
    movie[:, 20, 30] = 900
    movie[:, 40, 10:12] = 500
    movie[:, 0, 0] = 65000
    movie[:, 50:, :20] = 0  # padding of a registered movie
    movie[5] = 0  # a dropped frame hides no dead pixel
    defects = inspect_movie(movie)
    assert defects.dead is not None
    assert np.argwhere(defects.dead).tolist() == [[0, 0], [20, 30], [40, 10], [40, 11]]
    assert defects.constant_frames == (5,)
    assert len(defects.sentences()) == 2
    assert inspect_movie(movie[:3]).dead is None  # three frames prove nothing


@pytest.mark.parametrize("sigma", [0.25, 0.4, 0.6, 1.0, 30.0])
@pytest.mark.parametrize("frames", [4, 10, 30])
def test_no_pixel_is_dead_by_chance(sigma: float, frames: int) -> None:
    dead = inspect_movie(noisy((frames, 120, 120), sigma)).dead
    assert dead is None


@pytest.mark.parametrize(("frames", "sigma"), [(5, 30.0), (12, 3.0), (30, 0.8)])
def test_a_stuck_pixel_is_found_as_soon_as_it_is_no_chance(frames: int, sigma: float) -> None:
    movie = noisy((frames, 120, 120), sigma)
    movie[:, 50, 60] = 505
    dead = inspect_movie(movie).dead
    assert dead is not None
    assert np.argwhere(dead).tolist() == [[50, 60]]


def test_nonfinite_pixels_and_blank_frames() -> None:
    movie = noisy().astype(np.float32)
    movie[2, 3, 4] = np.nan
    movie[3, 3, 4] = np.inf
    movie[7] = np.nan
    movie[8] = 100
    defects = inspect_movie(movie)
    assert defects.nonfinite is not None
    assert int(defects.nonfinite.sum()) == 2 + 60 * 70
    assert defects.nonfinite[2, 3, 4]
    assert defects.constant_frames == (7, 8)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_saturation_is_a_pile_up_at_the_top(dtype: str) -> None:
    movie = np.minimum(noisy(sigma=100), 640).astype(dtype)
    defects = inspect_movie(movie)
    assert defects.saturation_level == 640
    assert defects.saturated_fraction == np.mean(movie == 640)
    assert defects.saturated_fraction > 0.05


def test_a_share_that_rounds_to_nothing_is_not_called_nothing() -> None:
    rng = np.random.default_rng(0)
    movie = rng.integers(100, 600, (12, 256, 256)).astype(np.uint16)
    movie[0, 0, :20] = 65535
    defects = inspect_movie(movie)
    assert 0 < defects.saturated_fraction < 5e-5
    assert any(s.startswith("Less than 0.01% of the pixels") for s in defects.sentences())


def test_full_scale_is_saturation() -> None:
    movie = noisy()
    movie[3, 4, 5] = 65535
    assert inspect_movie(movie).saturation_level == 65535
    constant = inspect_movie(np.full((4, 8, 8), 255, np.uint8))
    assert constant.constant_frames == ()
    assert constant.saturation_level is None


@pytest.mark.parametrize(
    ("movie", "sentence"),
    [
        (np.zeros((8, 8)), r"must have shape \(T, Y, X\)"),
        (np.zeros((0, 8, 8)), "is empty"),
        (np.zeros((1, 8, 8)), "has 1 frame; denoising a movie needs at least 2"),
        (np.zeros((2, 7, 8)), "frames of 7 x 8 pixels; denoising needs at least 8 x 8"),
        (np.zeros((2, 8, 8)), "one value in every frame"),
        (np.full((2, 8, 8), np.nan), "no finite pixel"),
        (np.zeros((2, 8, 8), complex), "is of type complex128"),
        (np.zeros((2, 8, 8), bool), "is of type bool"),
        (np.zeros((2, 8, 8), object), "is of type object"),
    ],
)
def test_what_cannot_be_denoised_gets_one_sentence(movie: npt.NDArray[Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        validate_movie(movie)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_movies_that_can_be_denoised_pass(dtype: str) -> None:
    movie = numbered((2, 8, 8), dtype) - np.asarray(3, dtype)
    validate_movie(movie)
    holed = movie.astype(np.float64)
    holed[0] = np.nan
    validate_movie(holed)
