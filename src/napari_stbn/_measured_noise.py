"""Noise whose variance is known level by level: what an unknown transform left of a camera's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import isotonic_regression

from napari_stbn._noise_law import ArrayT, Fusion, clip_below, floating, sqrt

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MeasuredNoise", "monotone_law"]

_LEAST = 1e-4  # of the largest variance: no level is without noise
_KNOTS = 9
_FEWEST_BINS = 6


@dataclass(frozen=True)
class MeasuredNoise(Fusion):
    """Noise of intensities that were transformed: a logarithm, a gamma, a rescaling by display.

    Parameters
    ----------
    levels : tuple of float [counts]
        Increasing, at least two.
    variances : tuple of float [counts²]
        Of the noise at these levels; linear between them and constant beyond.

    Raises
    ------
    ValueError
        If the levels do not increase, or a variance is not positive and finite.

    Examples
    --------
    >>> noise = MeasuredNoise((0.0, 10.0), (1.0, 5.0))
    >>> noise.variance(np.array([-3.0, 5.0, 20.0]))
    array([1., 3., 5.])
    """

    levels: tuple[float, ...]
    variances: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("levels", "variances"):
            try:
                values = tuple(float(value) for value in getattr(self, name))
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{name} must be numbers, got {getattr(self, name)!r}") from error
            if len(values) < 2 or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be two finite numbers at least, got {values}")
            object.__setattr__(self, name, values)
        if len(self.levels) != len(self.variances) or min(np.diff(self.levels)) <= 0:
            raise ValueError(f"levels must increase and have a variance each, got {self.levels}")
        if min(self.variances) <= 0:
            raise ValueError(f"variances must be positive, got {self.variances}")

    @property
    def falls(self) -> bool:
        """Whether bright levels are less noisy than dark ones, as after a logarithm."""
        return self.variances[-1] < self.variances[0]

    def variance(self, mean: ArrayT) -> ArrayT:
        """Return the variance at a mean [counts²], same shape."""
        mean_ = floating(mean)
        total = mean_ * 0.0 + self.variances[0]
        for low, high, before, after in self._segments:
            total = total + (after - before) / (high - low) * _between(mean_ - low, high - low)
        return total  # type: ignore[no-any-return]

    def stabilize(self, y: ArrayT) -> ArrayT:
        """Map counts to values with unit noise variance, same shape.

        Notes
        -----
        The integral of 1 / sqrt(variance) from the lowest level: smooth, strictly increasing, and
        piece by piece ``2 d / (sqrt(v + s d) + sqrt(v))`` with the slope s of the variance.
        """
        y_ = floating(y)
        total = -clip_below(self.levels[0] - y_) / math.sqrt(self.variances[0])
        for low, high, before, after in self._segments:
            step = _between(y_ - low, high - low)
            slope = (after - before) / (high - low)
            total = total + 2.0 * step / (sqrt(before + slope * step) + math.sqrt(before))
        beyond = clip_below(y_ - self.levels[-1]) / math.sqrt(self.variances[-1])
        return total + beyond  # type: ignore[no-any-return]

    def unstabilize(self, z: ArrayT) -> ArrayT:
        """Invert `stabilize` exactly: counts, same shape."""
        z_ = floating(z)
        total = self.levels[0] - clip_below(-z_) * math.sqrt(self.variances[0])
        start = 0.0
        for low, high, before, after in self._segments:
            length = 2.0 * (high - low) / (math.sqrt(after) + math.sqrt(before))
            step = _between(z_ - start, length)
            slope = (after - before) / (high - low)
            total = total + step * (math.sqrt(before) + 0.25 * slope * step)
            start += length
        return total + clip_below(z_ - start) * math.sqrt(self.variances[-1])  # type: ignore[no-any-return]

    def simulate(self, clean: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return noisy counts for clean counts of any shape: Gaussian of the right variance."""
        mean = np.asarray(clean, dtype=np.float64)
        return np.asarray(mean + rng.normal(0.0, 1.0, mean.shape) * np.sqrt(self.variance(mean)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `noise_from_dict`."""
        return {
            "kind": "measured",
            "levels": list(self.levels),
            "variances": list(self.variances),
        }

    @property
    def _segments(self) -> list[tuple[float, float, float, float]]:
        """Lower and upper level, variance at both, of each piece."""
        return list(
            zip(
                self.levels[:-1],
                self.levels[1:],
                self.variances[:-1],
                self.variances[1:],
                strict=True,
            )
        )


def monotone_law(
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    weights: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> MeasuredNoise | None:
    """The monotone law, rising or falling, that fits a photon-transfer curve best.

    Parameters
    ----------
    means, variances, weights, counts : ndarray, shape (bins,)
        As in `NoiseFit`.

    Returns
    -------
    MeasuredNoise or None
        None where too few levels were measured.
    """
    used = np.flatnonzero((weights > 0) & (variances > 0) & (counts > 0))
    order = used[np.argsort(means[used], kind="stable")]
    if len(order) < _FEWEST_BINS:
        return None
    x, v, n = means[order], variances[order], counts[order]
    # In the logarithm, where a bin's error is the same share of any variance.
    laws = [isotonic_regression(np.log(v), weights=n, increasing=up).x for up in (True, False)]
    law = min(laws, key=lambda fitted: float(np.sum(n * np.square(fitted - np.log(v)))))
    share = np.cumsum(n) / n.sum()
    # Some knots by number of pixels, some by level: few pixels are bright.
    places = [np.searchsorted(share, q) for q in np.linspace(0, 1, _KNOTS // 2 + 1)]
    places += [np.abs(x - level).argmin() for level in np.linspace(x[0], x[-1], _KNOTS // 2 + 1)]
    knots = np.unique(np.clip(places, 0, len(x) - 1))
    knots = knots[np.concatenate([[True], np.diff(x[knots]) > 1e-9 * (x[-1] - x[0])])]
    if len(knots) < 2:
        return None
    floor = _LEAST * float(np.exp(law).max())
    return MeasuredNoise(
        tuple(x[knots].tolist()), tuple(np.maximum(np.exp(law[knots]), floor).tolist())
    )


def _between(x: Any, length: float) -> Any:
    """Return x clipped to 0 .. length."""
    return clip_below(x) - clip_below(x - length)
