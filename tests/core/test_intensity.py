"""Intensities go to the network and back, and to integers, without a loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_stbn.stack import (
    IntensityScaling,
    cast_like,
)


@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "int64", "uint64"]),
    value=st.floats(-1e20, 1e20, allow_nan=False),
    kind=st.sampled_from(["float32", "float64"]),
)
def test_cast_rounds_and_clips_and_never_wraps(dtype: str, value: float, kind: str) -> None:
    values = np.array([value, np.inf, -np.inf], kind)
    info = np.iinfo(dtype)
    got = cast_like(values, dtype)
    exact = round(float(values[0]))  # Python integers: no overflow, ties to even as rint
    assert got.tolist() == [min(max(exact, info.min), info.max), info.max, info.min]
    assert values[0] == np.array(value, kind)


def test_cast_refuses_nan_and_clips_integers() -> None:
    with pytest.raises(ValueError, match="NaN, which uint8 cannot"):
        cast_like(np.array([np.nan]), np.uint8)
    with pytest.raises(ValueError, match="integer or floating"):
        cast_like(np.array([1.0]), "complex64")
    np.testing.assert_array_equal(
        cast_like(np.array([-5, 7, 300]), ">u1"), np.array([0, 7, 255], np.uint8), strict=True
    )
    assert np.isnan(cast_like(np.array([np.nan]), np.float32)[0])


@settings(deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16"]),
    seed=st.integers(0, 99),
    low=st.integers(-32768, 65535),
    width=st.integers(0, 65535),
)
def test_scaling_is_exactly_invertible_for_integers(
    dtype: str, seed: int, low: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    movie = cast_like(rng.uniform(low, low + width, (3, 9, 10)), dtype)
    before = movie.copy()
    scaling = IntensityScaling.fit(movie)
    scaled = scaling.apply(movie)
    assert scaled.dtype == np.float32
    everything = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    if scaling.scale > 1e-3 * np.ptp(movie):
        np.testing.assert_array_equal(cast_like(scaling.invert(scaled), dtype), movie)
        np.testing.assert_array_equal(
            cast_like(scaling.invert(scaling.apply(everything)), dtype), everything
        )
    np.testing.assert_array_equal(movie, before)


@given(a=st.floats(1e-3, 1e3), b=st.floats(-1e4, 1e4))
def test_scaling_follows_gain_and_offset(a: float, b: float) -> None:
    movie = np.random.default_rng(0).normal(100, 10, (4, 30, 30))
    plain, changed = IntensityScaling.fit(movie), IntensityScaling.fit(a * movie + b)
    np.testing.assert_allclose(changed.apply(a * movie + b), plain.apply(movie), atol=1e-4)


def test_scaling_is_robust_and_deals_with_odd_movies() -> None:
    movie = np.random.default_rng(1).normal(100, 10, (10, 100, 100))
    clean = IntensityScaling.fit(movie)
    assert clean.apply(movie).min() > -0.4
    assert clean.apply(movie).max() < 1.4
    broken = movie.copy()
    broken.reshape(-1)[:50] = 1e9  # 0.05 % hot pixels
    broken[3, 5] = np.nan
    broken[4, 5] = -np.inf
    dirty = IntensityScaling.fit(broken)
    assert dirty.scale == pytest.approx(clean.scale, rel=0.1)
    assert dirty.offset == pytest.approx(clean.offset, abs=3)
    constant = IntensityScaling.fit(np.full((2, 8, 8), 7, np.uint16))
    assert (constant.offset, constant.scale) == (7.0, 1.0)
    sparse = np.zeros((10, 100, 100), np.uint16)
    sparse[0, 0, 0] = 500
    assert IntensityScaling.fit(sparse).scale == 500
    with pytest.raises(ValueError, match="no finite value"):
        IntensityScaling.fit(np.full((2, 8, 8), np.nan))
    with pytest.raises(ValueError, match="scale finite and positive"):
        IntensityScaling(0.0, 0.0)


def test_scaling_of_a_long_movie_sees_all_of_it() -> None:
    movie = np.random.default_rng(2).normal(0, 1, (80, 256, 256)).astype(np.float32)
    movie[:, :, ::2] += 100  # columns: a stride running along with them would see one kind only
    scaling = IntensityScaling.fit(movie)
    assert scaling.offset < 0
    assert scaling.offset + scaling.scale > 100
