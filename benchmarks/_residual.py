"""What a denoised movie says about itself, without the truth.

The noisy movie minus the denoised one should be nothing but noise: of the size that the noise
model says, independent from pixel to pixel and from frame to frame, alike at the border and in the
middle. And the denoised movie should not carry the network's own lattice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_stbn.noise import NoiseModel

Movie = NDArray[np.float64]

_LOW_PASS = 2.0  # px, standard deviation
_BORDER = 4  # px
_NEAR, _FAR = 2, 6  # frequency bins around a lattice frequency that it is compared with
PERIODS = {2: ((0, 2), (2, 0), (2, 2)), 4: ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))}  # quarters


def standardise(
    noisy: NDArray[Any],
    denoised: NDArray[Any],
    uncertainty: NDArray[Any],
    noise: NoiseModel,
) -> tuple[Movie, Movie]:
    """Residual over the noise's standard deviation, and the deviation expected of it.

    Parameters
    ----------
    noisy, denoised, uncertainty : ndarray, shape (T, Y, X) [counts]
    noise : noise model

    Returns
    -------
    residual : ndarray, shape (T, Y, X)
        (noisy - denoised) / noise.
    expected : ndarray, shape (T, Y, X)
        Below 1, because the posterior mean follows the noisy pixel as far as its uncertainty u
        says: for noise variance S the residual has variance ``S - u**2``.
    """
    variance = np.asarray(noise.variance(denoised.astype(np.float64)))
    residual = (noisy.astype(np.float64) - denoised) / np.sqrt(variance)
    expected = np.sqrt(np.clip(1.0 - uncertainty.astype(np.float64) ** 2 / variance, 0.0, None))
    return residual, expected


def measures(
    noisy: NDArray[Any],
    denoised: NDArray[Any],
    uncertainty: NDArray[Any],
    noise: NoiseModel,
) -> dict[str, float]:
    """Every number about one movie; all arrays (T, Y, X) [counts]."""
    residual, expected = standardise(noisy, denoised, uncertainty, noise)
    whole = float(np.sqrt(np.nanmean(expected**2)))
    centred = np.nan_to_num(residual - np.nanmean(residual))
    border = np.ones(residual.shape[1:], bool)
    border[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    per_frame = np.nanstd(residual, axis=(1, 2)) / np.sqrt(np.nanmean(expected**2, axis=(1, 2)))
    ratio = np.nanmean(denoised, axis=(1, 2)) / np.nanmean(noisy, axis=(1, 2), dtype=np.float64)
    return {
        "mean": float(np.nanmean(residual)),
        "std": float(np.nanstd(residual)),
        "std_expected": whole,
        "x": _correlation(centred, 2),
        "y": _correlation(centred, 1),
        "t": _correlation(centred, 0),
        "low_pass": _low_passed(centred),
        "border": float(np.nanstd(residual[:, border]) / np.nanstd(residual[:, ~border])),
        "border_expected": float(
            np.sqrt(np.nanmean(expected[:, border] ** 2) / np.nanmean(expected[:, ~border] ** 2))
        ),
        "first_frame": float(per_frame[0]),
        "last_frame": float(per_frame[-1]),
        "middle_frames": float(np.median(per_frame)),
        "brightness_first": float(ratio[0]),
        "brightness_last": float(ratio[-1]),
        "brightness_worst": float(ratio[np.nanargmax(np.abs(ratio - 1))]),
        "period_2": lattice(denoised, 2),
        "period_4": lattice(denoised, 4),
        "period_2_uncertainty": lattice(uncertainty, 2),
        "period_4_uncertainty": lattice(uncertainty, 4),
        "period_2_noisy": lattice(noisy, 2),
        "period_4_noisy": lattice(noisy, 4),
    }


def _correlation(centred: Movie, axis: int) -> float:
    """Correlation of neighbours along an axis."""
    before = np.moveaxis(centred, axis, 0)[:-1]
    after = np.moveaxis(centred, axis, 0)[1:]
    return float(np.mean(before * after) / np.mean(centred**2))


def _low_passed(centred: Movie) -> float:
    """Variance of the smoothed residual frames over that of smoothed white noise.

    Above 1 signal was taken away; below 1 noise was left in.
    """
    impulse = np.zeros((33, 33))
    impulse[16, 16] = 1
    share = float(np.sum(ndimage.gaussian_filter(impulse, _LOW_PASS) ** 2))
    smooth = ndimage.gaussian_filter(centred, (0, _LOW_PASS, _LOW_PASS))
    edge = int(4 * _LOW_PASS)
    inner = smooth[:, edge:-edge, edge:-edge] if min(smooth.shape[1:]) > 4 * edge else smooth
    return float(np.mean(inner**2) / (share * np.mean(centred**2)))


def lattice(movie: NDArray[Any], period: int) -> float:
    """Power at the frequencies of a pixel lattice over that of the frequencies around them.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X)
        NaN count as zero.
    period : {2, 4} [px]
        2 is a checkerboard or stripes one pixel wide; 4 the period of the network's unshuffle.

    Returns
    -------
    float
        The largest ratio among the period's frequencies: near 1 where there is no lattice.
    """
    height, width = (4 * (n // 4) for n in movie.shape[1:])
    cut = np.nan_to_num(movie[:, :height, :width].astype(np.float64))
    cut -= cut.mean(axis=(1, 2), keepdims=True)
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.mean(np.abs(np.fft.fft2(cut * window)) ** 2, axis=0)
    offsets = np.arange(-_FAR, _FAR + 1)
    dy, dx = np.meshgrid(offsets, offsets, indexing="ij")
    ring = np.maximum(abs(dy), abs(dx)) >= _NEAR  # the window spreads a line over its neighbours
    ratios = []
    for quarter_y, quarter_x in PERIODS[period]:
        y, x = quarter_y * height // 4, quarter_x * width // 4
        around = power[(y + dy) % height, (x + dx) % width]
        ratios.append(float(around[_FAR, _FAR] / max(np.median(around[ring]), 1e-30)))
    return max(ratios)
