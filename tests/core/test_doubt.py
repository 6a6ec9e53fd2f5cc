"""Claims of doubting: single wrong pixels count for nothing, events and noise count as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_stbn import Denoiser, GaussianNoise, simulate
from napari_stbn._doubt import doubt
from napari_stbn.prior import Units
from napari_stbn.stack import IntensityScaling

SIGMA = 2.0


def doubted(frame: NDArray[np.float64], *, width: float = 0.5) -> torch.Tensor:
    """Doubt of a frame [counts] whose prediction is zero everywhere, of this width [noise std]."""
    unit = Units(GaussianNoise(SIGMA), IntensityScaling(0.0, 1.0))
    noisy = torch.from_numpy(frame).float()[None]
    std = torch.full_like(noisy, width * SIGMA)
    return doubt(noisy, torch.zeros_like(noisy), std, (unit,))[0]


def spot(sigma: float) -> NDArray[np.float64]:
    """A bright event behind a point-spread function, in the middle of a frame."""
    y, x = np.mgrid[-8:9, -8:9]
    return np.asarray(60 * np.exp(-(x**2 + y**2) / (2 * sigma**2)))


@pytest.mark.parametrize("value", [60.0, -60.0])
def test_a_pixel_far_off_and_alone_counts_for_nothing(value: float) -> None:
    frame = np.zeros((17, 17))
    frame[8, 8] = value
    found = doubted(frame)
    assert found[8, 8] == 1
    assert found.sum() == 1


def test_corners_are_judged_too() -> None:
    frame = np.zeros((9, 9))
    frame[0, 0] = frame[8, 8] = 60.0
    assert doubted(frame)[0, 0] == doubted(frame)[8, 8] == 1


@pytest.mark.parametrize("sigma", [0.8, 1.0, 1.6])
def test_an_event_that_the_prediction_missed_is_kept(sigma: float) -> None:
    assert doubted(spot(sigma)).sum() == 0


def test_noise_is_no_reason_to_doubt() -> None:
    noise = np.random.default_rng(0).normal(0, SIGMA, (256, 256))
    found = doubted(noise, width=0.01)
    assert (found == 1).sum() == 0
    assert (found > 0).float().mean() < 5e-4


def test_what_the_prediction_was_not_sure_of_is_believed() -> None:
    frame = np.zeros((17, 17))
    frame[8, 8] = 20.0  # ten deviations of the noise, but two of the prediction
    assert doubted(frame, width=5.0).sum() == 0


def test_a_wrong_pixel_of_a_movie_leaves_no_trace() -> None:
    movie = simulate((8, 48, 48), kind="nuclei", photons=200, seed=4)
    spoilt = movie.noisy.copy()
    spoilt[4, 20, 20] = 4000
    denoiser = Denoiser("preview", device="cpu", flow="none").fit(
        movie.noisy, axes="TYX", max_steps=1
    )
    good, result = (denoiser.denoise(m, axes="TYX") for m in (movie.noisy, spoilt))
    assert good.uncertainty is not None
    assert result.uncertainty is not None
    off = abs(float(result.denoised[4, 20, 20]) - float(movie.clean[4, 20, 20]))
    assert off < 0.05 * float(np.ptp(movie.clean))
    # The prediction is all that is left there, and less sure than with the pixel.
    assert result.uncertainty[4, 20, 20] > good.uncertainty[4, 20, 20]
