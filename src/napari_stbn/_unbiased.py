"""Back from stabilised intensities, where an average of them is meant and not a single one.

A transform that bends takes the mean of noisy values elsewhere than their mean: what a denoiser
estimates between its two ends is the expectation of the stabilised pixel. Looked up over the clean
value it comes from, it gives that back without bias (Mäkitalo and Foi, 2011 and 2013; summed
numerically here, for any law of the noise).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .noise import MeasuredNoise, PoissonGaussianNoise

__all__ = ["UnbiasedInverse"]

_KNOTS = 400  # of the table, evenly spaced where the noise is even
_BEYOND = 4.0  # standard deviations of noise by which it reaches beyond the movie's values
_NODES = 41
_FEW = 100.0  # photoelectrons: their distribution is summed, beyond it is as good as normal
Values = NDArray[np.float64]


class UnbiasedInverse:
    """Table of the clean value over the expectation of the stabilised pixel.

    Parameters
    ----------
    noise : PoissonGaussianNoise or MeasuredNoise
    limits : (low, high) [user's units]
        Values of the movie, about; beyond them the inverse is that of the transform, moved by what
        it is off at their ends.
    """

    def __init__(
        self, noise: PoissonGaussianNoise | MeasuredNoise, limits: tuple[float, float]
    ) -> None:
        first, last = (float(noise.stabilize(np.float64(value))) for value in limits)
        stable = np.linspace(first - _BEYOND, last + _BEYOND, _KNOTS)
        clean = np.asarray(noise.unstabilize(stable), np.float64)
        expected = np.maximum.accumulate(_expected(noise, clean))
        expected += 1e-9 * np.arange(_KNOTS)  # strictly increasing
        self._expected, self._clean = expected, clean
        self._noise, ends = noise, [0, -1]
        self._off = clean[ends] - np.asarray(noise.unstabilize(expected[ends]))
        self._slope = np.gradient(clean, expected)
        self._bend = np.clip(np.gradient(self._slope, expected), 0, None)

    def __call__(
        self, mean: NDArray[np.float32], std: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Mean and standard deviation [user's units] from those of the stabilised value."""
        clean = np.interp(mean, self._expected, self._clean)
        for beyond, off in zip(
            (mean < self._expected[0], mean > self._expected[-1]), self._off, strict=True
        ):
            clean[beyond] = np.asarray(self._noise.unstabilize(mean[beyond])) + off
        if std is None:
            return clean.astype(np.float32), None
        # The mean of a value that is known to within `std` only: the inverse bends as well.
        clean += np.interp(mean, self._expected, self._bend) / 2 * std * std
        slope = np.interp(mean, self._expected, self._slope)
        return clean.astype(np.float32), (slope * std).astype(np.float32)


def _expected(noise: PoissonGaussianNoise | MeasuredNoise, clean: Values) -> Values:
    """Expectation of the stabilised pixel at clean values."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights /= weights.sum()
    std = np.sqrt(noise.variance(clean))
    expected = np.asarray(noise.stabilize(clean[:, None] + std[:, None] * nodes)) @ weights
    if isinstance(noise, PoissonGaussianNoise):
        photons = (clean - noise.offset) / noise.gain
        few = (photons > 0) & (photons < _FEW)
        events = np.arange(int(_FEW + 12 * np.sqrt(_FEW) + 30))
        counts = noise.offset + noise.gain * (events[:, None] + noise.read_noise * nodes)
        given = np.asarray(noise.stabilize(counts)) @ weights
        expected[few] = stats.poisson.pmf(events, photons[few, None]) @ given
    values: Values = expected
    return values
