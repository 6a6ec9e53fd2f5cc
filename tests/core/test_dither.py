"""Noise that is added to filtered frames, so that a fit to them learns no shared noise."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import napari_stbn as stbn
from napari_stbn import denoiser as denoiser_module
from napari_stbn._correlation_spectrum import measure_power
from napari_stbn._dither import dithered, measure_dither
from napari_stbn._generators import last
from napari_stbn._prepared import PreparedMovie, PreparedStack
from napari_stbn.preparation import prepare_stack

Movie = NDArray[Any]


def white_noise(shape: tuple[int, int, int] = (12, 96, 96), seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def smoothed(movie: Movie, width: float = 0.7) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(movie.astype(np.float32), (0, width, width)))


def prepared_of(movie: Movie, axes: str = "TYX") -> PreparedStack:
    stack = stbn.Stack(movie, axes)
    return last(
        prepare_stack(
            stack,
            joint=False,
            noise="estimate",
            flow="none",
            known_noise={},
            known_scaling={},
            correlation="auto",
        )
    )


def as_they_are(prepared: PreparedStack, _seed: int) -> Generator[float, None, list[PreparedMovie]]:
    """In the place of `dithered`."""
    yield 1.0
    return list(prepared.movies.values())


def told_by_neighbours(noise: Movie) -> float:
    """Part of the noise of a pixel that the 24 around it tell, by least squares."""
    pixels = noise[:, 2:-2, 2:-2].ravel()
    around = np.stack(
        [
            np.roll(noise, (y, x), (1, 2))[:, 2:-2, 2:-2].ravel()
            for y in range(-2, 3)
            for x in range(-2, 3)
            if (y, x) != (0, 0)
        ],
        1,
    )
    weights = np.linalg.lstsq(around, pixels, rcond=None)[0]
    return float(1 - np.var(pixels - around @ weights) / np.var(pixels))


@pytest.mark.parametrize("shape", [(6, 64, 64), (12, 96, 96), (32, 128, 128)])
def test_white_noise_needs_nothing(shape: tuple[int, int, int]) -> None:
    assert not any(measure_dither([white_noise(shape, seed)]) for seed in range(4))


def test_too_few_frames_say_nothing() -> None:
    assert measure_power([white_noise((2, 96, 96))]) is None
    assert measure_dither([white_noise((12, 12, 96))]) is None


@pytest.mark.parametrize(
    "kernel", [np.ones((1, 2, 2)) / 4, np.array([0.25, 0.5, 0.25]).reshape(1, 1, 3)]
)
def test_what_is_added_makes_noise_white(kernel: NDArray[np.float64]) -> None:
    """Where the spectrum has zeros, which no filter takes away."""
    noise = ndimage.convolve(white_noise((24, 96, 96)), kernel.astype(np.float32))
    noise /= noise.std()
    assert told_by_neighbours(noise) > 0.6
    dither = measure_dither([noise])
    assert dither is not None
    drawn = dither.draw(noise.shape[1:], np.random.default_rng(1))
    both = noise + np.stack([next(drawn) for _ in noise])
    assert told_by_neighbours(both) < 0.03
    assert both.var() == pytest.approx(dither.ratio, rel=0.05)


def test_a_fit_sees_filtered_frames_with_white_noise() -> None:
    made = stbn.simulate((16, 96, 96), seed=3)
    prepared = prepared_of(smoothed(made.noisy))
    (before,), (after,) = prepared.movies.values(), last(dithered(prepared, seed=0))
    untouched = prepared_of(smoothed(made.noisy)).movies.values()
    assert all(np.array_equal(m.intensities, before.intensities) for m in untouched)
    assert after.flow_to_next is before.flow_to_next  # what is refined in one is so in the other
    added = (after.intensities - before.intensities)[:, 0].numpy()
    noise = prepared.noise[0]
    assert noise is not None
    assert float(added.mean()) == pytest.approx(0, abs=0.02 * float(added.std()))
    more = after.units[0].noise
    assert more is not None
    level = before.intensities[:, 0].numpy()
    share = np.mean(added**2) / np.mean(noise.variance(level))
    assert more.variance(level).mean() / noise.variance(level).mean() == pytest.approx(
        1 + share, rel=0.03
    )
    assert float(after.inputs.std()) == pytest.approx(float(before.inputs.std()), rel=0.1)
    again = last(dithered(prepared, seed=0))[0]
    assert np.array_equal(again.intensities, after.intensities)
    assert len(list(dithered(prepared, seed=0))) == 16, "one who cancels is asked at each frame"
    other = last(dithered(prepared, seed=1))[0]
    assert not np.array_equal(other.intensities, after.intensities)


def test_other_channels_are_left_alone() -> None:
    made = stbn.simulate((16, 96, 96), seed=3).noisy
    prepared = prepared_of(np.stack([made.astype(np.float32), smoothed(made)], 1), "TCYX")
    plain, filtered = prepared.movies.values()
    seen = last(dithered(prepared, seed=0))
    assert seen[0] is plain
    assert seen[1] is not filtered


@pytest.mark.slow
def test_a_fit_does_not_learn_what_the_filter_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without, such a movie had 29.7 dB instead of 37.5 after 100 steps."""
    made = stbn.simulate((16, 96, 96), seed=4)
    movie, clean = smoothed(made.noisy, 0.85), smoothed(made.clean, 0.85)

    def after_fit() -> tuple[float, float]:
        chosen = stbn.Denoiser("balanced", device="cpu", flow="none", turns=1)
        result = chosen.fit(movie, axes="TYX", max_steps=100).denoise(movie, axes="TYX")
        assert result.uncertainty is not None
        error = result.denoised - clean
        inside = np.mean(np.abs(error) <= result.uncertainty)
        return float(np.mean(error**2)), float(inside)

    error, inside = after_fit()
    monkeypatch.setattr(denoiser_module, "dithered", as_they_are)
    without, _ = after_fit()
    assert error < 0.5 * without
    assert 0.6 < inside < 0.9
