"""Noisy minus denoised: its size, and whether it is white."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage

from ._report_sampling import (
    Array,
    as_fitted,
    dead_pixels,
    measured,
    read_frames,
    spread,
    windows,
)
from .noise import NoiseModel
from .result import DenoiseResult
from .stack import Stack

LAGS = 3  # px and frames; noise of cameras and scanners that reaches further shows in `low_pass`
LOW_PASS = 2.0  # px, standard deviation of the smoothing
_PLANES = 3  # planes of a channel that its residual is measured on
_TRUST = 0.95  # a pixel that the result follows further tells nothing: its residual is 0 over 0


@dataclass(frozen=True)
class ResidualChecks:
    """What noisy minus denoised says about a run, without the truth.

    Attributes
    ----------
    pixels : int
        How many were looked at.
    mean, std : float
        Of the standardised residual, (noisy - denoised) / sqrt(V - u^2) for noise variance V and
        uncertainty u: 0 and 1 for a right result. `std` is NaN without a noise model, because the
        residual is then standardised by its own deviation.
    over_noise, over_noise_expected : float
        Root mean square of the residual over the noise's standard deviation, and what noise model
        and uncertainty say of it: below 1, since the result follows the measurement as far as it
        is uncertain. NaN without a noise model.
    along_x, along_y, along_t : tuple of 3 float, -1 to 1
        Correlation of the standardised residual with itself 1, 2 and 3 pixels or frames on; NaN
        where the movie is too short.
    rows, columns : float
        Standard deviation of the means of rows and of columns over that of white noise.
    low_pass : float
        Variance of the smoothed residual over that of smoothed white noise.

    Notes
    -----
    For prior variance P the posterior mean leaves V / (P + V) of the noisy pixel's distance from
    the prior mean, a residual of variance V^2 / (P + V) = V - P V / (P + V) = V - u^2. The same
    holds for channels that are denoised together. So the standardised residual is the blind
    prediction's error over its own expected size. V - u^2 is averaged over 3 x 3 pixels: V is known
    from the result, which carries some of the pixel's own noise. Errors of the result that are
    small beside the noise hardly change it.

    Where pixels share noise, frames and noise are those of the fit, which sees it made independent.
    """

    pixels: int
    mean: float
    std: float
    over_noise: float
    over_noise_expected: float
    along_x: tuple[float, ...]
    along_y: tuple[float, ...]
    along_t: tuple[float, ...]
    rows: float
    columns: float
    low_pass: float


def standardise(
    noisy: Array, denoised: Array, uncertainty: Array | None, noise: NoiseModel | None
) -> Array:
    """Residual over its expected deviation; over its own root mean square without a noise model."""
    residual = noisy.astype(np.float64) - denoised
    if noise is None:
        squares = np.square(residual[np.isfinite(residual)])
        own: Array = residual / (math.sqrt(float(squares.mean())) if squares.any() else 1.0)
        return own
    variance = np.asarray(noise.variance(denoised.astype(np.float64)))
    squared = 0.0 if uncertainty is None else np.square(uncertainty, dtype=np.float64)
    left = _around(np.maximum(variance - squared, (1 - _TRUST) * variance))
    standardised: Array = residual / np.sqrt(left)
    return standardised


def _around(values: Array) -> Array:
    """Means of 3 x 3 finite pixels: what a pixel's own noise did to its variance averages out."""
    finite = np.isfinite(values)
    total = ndimage.uniform_filter(np.where(finite, values, 0.0), (0, 3, 3))
    count = ndimage.uniform_filter(finite.astype(np.float64), (0, 3, 3))
    means: Array = np.where(finite, total / np.where(finite, count, 1.0), np.nan)
    return means


def check_residual(result: DenoiseResult, noisy: Stack, channels: Sequence[int]) -> ResidualChecks:
    """Checks pooled over these channels, a few planes of each, a few runs of frames of those."""
    sums = _Sums()
    for channel, plane in product(channels, spread(noisy.n_planes, _PLANES)):
        dead = dead_pixels(noisy, channel, plane)
        for frames, rows, columns in windows(noisy):
            where = (slice(None), rows, columns)
            y, denoised, uncertainty = read_frames(result, noisy, channel, plane, frames)
            y, denoised, uncertainty, noise = as_fitted(
                result, channel, measured(y, dead), denoised, uncertainty
            )
            y, denoised = y[where], denoised[where]
            uncertainty = None if uncertainty is None else uncertainty[where]
            z = standardise(y, denoised, uncertainty, noise)
            sums.add(z)
            if noise is not None:
                variance = np.asarray(noise.variance(denoised.astype(np.float64)))
                squared = 0.0 if uncertainty is None else np.square(uncertainty)
                sums.add_noise(np.square(y - denoised) / variance, 1 - squared / variance)
    return sums.checks()


class _Sums:
    """Sums over windows, from which the checks follow; NaN take no part."""

    def __init__(self) -> None:
        self.ratios: dict[str, list[float]] = {}
        self.total = np.zeros(3)  # number, sum, sum of squares

    def add(self, z: Array) -> None:
        """Take in a window of the standardised residual, (T, Y, X)."""
        valid = np.isfinite(z)
        number = int(valid.sum())
        if not number:
            return
        z = np.where(valid, z, 0.0)
        self.total += number, z.sum(), np.sum(z**2)
        z = np.where(valid, z - z.sum() / number, 0.0)
        self._put("variance", np.sum(z**2), number)
        for axis, name in enumerate("tyx"):
            for lag in range(1, min(LAGS, z.shape[axis] - 1) + 1):
                both = [np.moveaxis(a, axis, 0) for a in (z, valid)]
                pairs = [a[lag:] * a[:-lag] for a in both]
                self._put(f"{name}{lag}", pairs[0].sum(), pairs[1].sum())
        for axis, name in ((2, "rows"), (1, "columns")):
            count = valid.sum(axis)
            means = z.sum(axis)[count > 0] / np.sqrt(count[count > 0])
            self._put(name, np.sum(means**2), means.size)
        smooth = ndimage.gaussian_filter(z, (0, LOW_PASS, LOW_PASS), mode="constant")
        width = LOW_PASS / math.sqrt(2)  # the square of a Gaussian is a narrower Gaussian
        share = ndimage.gaussian_filter(
            valid.astype(np.float64), (0, width, width), mode="constant"
        )
        self._put("low_pass", np.sum(smooth**2), share.sum() / (4 * math.pi * LOW_PASS**2))

    def add_noise(self, squared: Array, expected: Array) -> None:
        """Take in the squared residual over the noise variance, and its expectation."""
        valid = np.isfinite(squared) & np.isfinite(expected)
        self._put("over_noise", squared[valid].sum(), valid.sum())
        self._put("expected", np.maximum(expected[valid], 0.0).sum(), valid.sum())

    def checks(self) -> ResidualChecks:
        """What the sums say."""
        number, first, second = self.total
        mean = float(first / number) if number else math.nan
        std = math.sqrt(max(second / number - mean**2, 0.0)) if number else math.nan
        variance = self._get("variance") or math.nan
        lags = {
            axis: tuple(self._get(f"{axis}{lag}") / variance for lag in range(1, LAGS + 1))
            for axis in "xyt"
        }
        known = "over_noise" in self.ratios
        return ResidualChecks(
            pixels=int(number),
            mean=mean,
            std=std if known else math.nan,
            over_noise=math.sqrt(self._get("over_noise")),
            over_noise_expected=math.sqrt(self._get("expected")),
            along_x=lags["x"],
            along_y=lags["y"],
            along_t=lags["t"],
            rows=math.sqrt(self._get("rows") / variance),
            columns=math.sqrt(self._get("columns") / variance),
            low_pass=self._get("low_pass") / variance,
        )

    def _put(self, name: str, part: Any, weight: Any) -> None:
        sums = self.ratios.setdefault(name, [0.0, 0.0])
        sums[0] += float(part)
        sums[1] += float(weight)

    def _get(self, name: str) -> float:
        part, weight = self.ratios.get(name, (0.0, 0.0))
        return part / weight if weight else math.nan
