"""How far apart pixels of a frame are taken, so that they share noise no more than a filter undoes.

A filter makes shared noise white where all details hold some of it. In frames that were enlarged,
smoothed or reconstructed the finest hold none: to divide by next to nothing is no remedy. Every
second or third pixel shows as much of such a scene, with noise that is nearly its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._correlation_spectrum import powers
from ._defects import is_blank
from ._filling import recorded_frames
from ._lazy import MovieView, middle_of
from .correlation import measure_correlation

__all__ = [
    "LARGEST_GRID_STEP",
    "GridStep",
    "measure_grid_step",
    "pixels_apart",
    "shortest_of",
]

LARGEST_GRID_STEP = 4
_FRAMES, _SIDE = 24, 256  # that are looked at
_SMALLEST = 24  # px that are left along each axis
# Mean of the noise's spectrum over its geometric mean, 1 for white noise: what a filter still makes
# white; what it does where the spectrum has zeros between; what is looked for where it does not.
# From `benchmarks/red_noise.py`.
_FILTERED, _WITH_ZEROS, _NEARLY_WHITE = 40.0, 4.65, 3.5
_ZEROS = 0.4  # misfit of the series of cosines that says so
_ALL = 0.8  # of the lines that may be copies of the one before
_GRID = 96  # frequencies along each axis; 1, 2, 3 and 4 divide it


@dataclass(frozen=True)
class GridStep:
    """How far apart.

    Attributes
    ----------
    rows, columns : int
        1 where all pixels are taken together.
    correlation : float, optional
        Of the noise of the next pixels, the larger one; None where a fit has told the step.
    """

    rows: int = 1
    columns: int = 1
    correlation: float | None = None

    @property
    def pixels(self) -> int:
        """Pixels of which each begins a movie of its own."""
        return self.rows * self.columns

    @property
    def note(self) -> str:
        """Sentence for the user; empty where pixels are taken together."""
        if self.pixels == 1:
            return ""
        words = {2: "second", 3: "third", 4: "fourth"}
        steps = [
            f"{words[step]} {name}"
            for step, name in ((self.rows, "row"), (self.columns, "column"))
            if step > 1
        ]
        taken = f"every {' and '.join(steps)} is denoised as a movie of its own."
        if self.correlation is None:
            return f"As in the fit, {taken}"
        return (
            f"Neighbouring pixels share nearly all of their noise (correlation "
            f"{self.correlation:.2f}), as in frames that were enlarged, smoothed or reconstructed: "
            f"{taken} Take the recorded frames where there are any."
        )


def measure_grid_step(movie: NDArray[Any] | MovieView) -> GridStep | None:
    """Look for noise that no filter makes white.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
        NaN counts as not recorded.

    Returns
    -------
    GridStep or None
        None where nothing can be measured.
    """
    part = np.asarray(movie[middle_of(movie.shape, _FRAMES, _SIDE)])
    if not np.isfinite(part).any():
        return None
    most = [min(LARGEST_GRID_STEP, length // _SMALLEST) for length in movie.shape[1:]]
    if min(most) < 1:
        return GridStep()
    rows, columns = (min(_copies(part, axis), limit) for axis, limit in enumerate(most, 1))
    if rows * columns > 1:
        return GridStep(rows, columns, correlation=1.0)
    found = measure_correlation([recorded_frames(part)])
    if np.isnan(found.along_x):
        return None
    shared = found.correlation
    limit = _WITH_ZEROS if found.misfit > _ZEROS else _FILTERED
    if shared is None or shared.unevenness <= limit:
        return GridStep()
    power = _powers(np.array(shared.coefficients))
    steps = [(y, x) for y in range(1, most[0] + 1) for x in range(1, most[1] + 1)]
    steps.sort(key=lambda step: (step[0] * step[1], max(step)))
    uneven = {step: _unevenness(power, *step) for step in steps}
    fine = (step for step in steps if uneven[step] <= _NEARLY_WHITE)
    rows, columns = next(fine, min(steps, key=lambda step: uneven[step]))
    return GridStep(rows, columns, max(shared.along(1, 0), shared.along(0, 1)))


def _copies(part: NDArray[Any], axis: int) -> int:
    """How often each line across an axis of frames (T, Y, X) comes, one after the other."""
    lines = [line for line in np.moveaxis(part, axis, 0) if not is_blank(line)]
    if len(lines) < part.shape[axis] / 2:
        return 1
    alike = sum(_is_copy(line, after) for line, after in pairwise(lines)) / (len(lines) - 1)
    return round(1 / (1 - alike)) if alike < _ALL else 1


def _is_copy(line: NDArray[Any], after: NDArray[Any]) -> bool:
    """Whether two lines are the same wherever both were recorded."""
    both = np.isfinite(line) & np.isfinite(after)
    return bool(both.any()) and np.array_equal(line[both], after[both])


def shortest_of(found: Iterable[GridStep | None]) -> GridStep:
    """One step for all channels of a stack: a short one where some need none."""
    return min(
        (step for step in found if step is not None),
        key=lambda step: step.pixels,
        default=GridStep(),
    )


def pixels_apart(movie: NDArray[Any]) -> tuple[NDArray[Any], GridStep]:
    """Frames (T, Y', X') of pixels whose noise is nearly their own, and how far apart they were."""
    found = measure_grid_step(movie) or GridStep()
    return movie[:, :: found.rows, :: found.columns], found


def _powers(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = 2 * np.pi * np.abs(np.fft.fftfreq(_GRID))
    return powers(angle, angle, coefficients)


def _unevenness(power: NDArray[np.float64], rows: int, columns: int) -> float:
    """Mean over geometric mean of the spectrum that every so many-th pixel has."""
    folded = power.reshape(rows, _GRID // rows, columns, _GRID // columns).sum((0, 2))
    return float(folded.mean() / np.exp(np.log(folded).mean()))
