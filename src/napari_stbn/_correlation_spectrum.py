"""Shape of the spectrum of a movie's noise, whatever moves in the movie.

1. Differences of frames hold no static scene. They are looked at in small windows, and a window
   counts where *other* frames say that little moves there: choosing by the same frames would choose
   noise.
2. What an optical system images is smooth. The lowest frequencies, where motion shows, are left
   out; the spectrum there follows from the rest, since the logarithm of a spectrum of shared noise
   is a short series of cosines (Bloomfield, Biometrika 60, 217, 1973).
3. Windows are averaged by the logarithm of their periodograms: a bright one counts no more than a
   dark one, and a few in which something moves count little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["ORDERS", "Spectrum", "measure_power", "measure_spectrum", "powers"]

FloatArray = NDArray[np.float64]

ORDERS = tuple((j, k) for j in range(4) for k in range(4) if 0 < j + k <= 3)
"""Orders of the cosines, along y and x."""
_FIRST = [0, 1 + ORDERS.index((1, 0)), 1 + ORDERS.index((0, 1))]  # constant, along y, along x

_SIDE = 32  # px of a window
_SMALLEST = 16  # px
_LOW, _HIGH = 0.06, 0.2  # cycles / px between which motion shows most
_CUT = 0.16  # cycles / px below which the spectrum of the noise is not looked at
_BESIDE_CUT = 0.06  # cycles / px beyond that which stand for what is below
_SMOOTHED = 0.8  # bins
_FINE = 0.28  # cycles / px above which optics pass little
_FINEST = 0.42  # cycles / px above which they pass next to nothing
_QUIET = 0.12  # part of the windows that counts
_FEW, _MOST = 240, 0.33  # where these are fewer than so many: up to this part
_GROUPS = 12  # of windows, left out one after the other
_WINDOWS = 4000  # looked at, spread over the movies
_ENOUGH = 24  # windows of which less say nothing
_RUN, _RUNS = 8, 8  # differences in a row, and such runs in a long movie
_APART = 2  # differences of frames that have no frame in common
_CHANCE = np.pi**2 / 6  # variance of the logarithm of a periodogram
_LINE, _BESIDE = 4, slice(2, 5)  # bins: where lines are looked for; what they are compared with


@dataclass(frozen=True)
class Spectrum:
    """What the windows say of the noise.

    Attributes
    ----------
    coefficients : ndarray, shape (groups, orders)
        Of the logarithm of the spectrum, once with each group of windows left out.
    fine, finest : ndarray, shape (groups, 2)
        Correlation with the next pixel along y and x, to first order, by fine details alone, and by
        the finest of these. Shared noise is seen in both alike; what moves hardly in the finest.
    rows, columns : ndarray, shape (groups,)
        Variance of offsets of whole rows and columns over that of the other noise.
    misfit : float
        Root mean square by which the logarithm of the spectrum differs from the series of cosines,
        beyond chance: large where it has zeros, as after a mean of neighbours.
    """

    coefficients: FloatArray
    fine: FloatArray
    finest: FloatArray
    rows: FloatArray
    columns: FloatArray
    misfit: float


@dataclass(frozen=True)
class _Windows:
    """Windows in which little moves.

    Attributes
    ----------
    logarithms : ndarray, shape (windows, side, side)
        Of their periodograms.
    frequency : ndarray, shape (side,) [cycles / px]
    radius : ndarray, shape (side, side) [cycles / px]
    usable : ndarray of bool, shape (side, side)
        Frequencies at which motion shows little.
    gathered : float
        How much more a taper leaves of a line than of noise.
    """

    logarithms: FloatArray
    frequency: FloatArray
    radius: FloatArray
    usable: NDArray[np.bool_]
    gathered: float


def powers(y: FloatArray, x: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Spectrum over its geometric mean.

    Parameters
    ----------
    y, x : ndarray, shapes (H,) and (W,) [radians / px]
    coefficients : ndarray, shape (orders,)

    Returns
    -------
    ndarray, shape (H, W)
    """
    logarithm = np.zeros((len(y), len(x)))
    for (j, k), value in zip(ORDERS, coefficients, strict=True):
        logarithm += value * np.cos(j * y)[:, None] * np.cos(k * x)
    return np.asarray(np.exp(logarithm))


def measure_spectrum(movies: Sequence[NDArray[Any]]) -> Spectrum | None:
    """Measure the noise's spectrum.

    Parameters
    ----------
    movies : sequence of ndarrays, shape (T, Y, X)
        Of one camera setting and size; all finite.

    Returns
    -------
    Spectrum or None
        None where frames or windows are too few to say anything.
    """
    windows = _quiet_windows(movies)
    return None if windows is None else _fit(windows)


def measure_power(movies: Sequence[NDArray[Any]]) -> tuple[FloatArray, float] | None:
    """Measure the noise's spectrum as it is, zeros included, of which the series knows nothing.

    Parameters
    ----------
    movies : sequence of ndarrays, shape (T, Y, X)
        As of `measure_spectrum`.

    Returns
    -------
    power : ndarray, shape (side, side)
        Over its mean; ordered as by `numpy.fft`, and the same for either sign of both frequencies.
        Where motion shows, it is that of the details next to it.
    spread : float
        Variance of its logarithm, without that by chance: as much of a pixel's noise its neighbours
        tell where it is small.

    None where frames or windows are too few.
    """
    windows = _quiet_windows(movies)
    if windows is None:
        return None
    half = len(windows.logarithms) // 2  # of other places, or of other frames
    one, other = (
        _smooth_logarithm(some, windows)
        for some in (windows.logarithms[:half], windows.logarithms[half:])
    )
    power = np.exp((one + other) / 2)
    spread = float(np.mean((one - one.mean()) * (other - other.mean())))
    return power / power.mean(), spread


def _smooth_logarithm(logarithms: FloatArray, windows: _Windows) -> FloatArray:
    """Mean logarithm of periodograms, the same for either sign of both frequencies."""
    mean = logarithms.mean(0)
    mean = (mean + np.roll(mean[::-1], 1, 0)) / 2  # of a real movie it is so for both at once
    beside = windows.usable & (windows.radius < _CUT + _BESIDE_CUT)
    mean[~windows.usable] = np.median(mean[beside])
    return np.asarray(ndimage.gaussian_filter(mean, _SMOOTHED, mode="wrap"))


def _quiet_windows(movies: Sequence[NDArray[Any]]) -> _Windows | None:
    """Look at windows of differences of frames; None where they are too few to say anything."""
    side = min(_SIDE, *(2 * (length // 2) for length in movies[0].shape[1:]))
    if side < _SMALLEST:
        return None
    frequency = np.asarray(np.fft.fftfreq(side), np.float64)
    radius = np.hypot(frequency[:, None], frequency)
    taper = np.hanning(side + 1)[:side]
    usable = radius >= _CUT
    chosen = []
    for movie in movies:
        for run in _runs(movie, side, _WINDOWS // len(movies)):
            power = np.abs(np.fft.fft2(run * np.outer(taper, taper).astype(np.float32))) ** 2
            level = power[..., usable].mean(-1)
            power /= np.where(level > 0, level, 1.0)[..., None, None]
            motion = power[..., (radius > _LOW) & (radius < _HIGH)].mean(-1)
            motion[level <= 0] = np.inf  # padding, copied frames
            elsewhere = _elsewhere(motion)
            good = (level > 0) & np.isfinite(elsewhere)
            if good.any():
                part = max(_QUIET, min(_MOST, _FEW / good.sum()))
                quiet = good & (elsewhere <= np.quantile(elsewhere[good], part))
                chosen.append(np.log(np.maximum(power[quiet], 1e-12)))
    logarithms = np.concatenate(chosen) if chosen else np.empty((0, side, side))
    if len(logarithms) < _ENOUGH:
        return None
    gathered = float(taper.sum() ** 2 / np.sum(taper**2))
    return _Windows(logarithms, frequency, radius, usable, gathered)


def _runs(movie: NDArray[Any], side: int, count: int) -> Iterator[NDArray[np.float32]]:
    """Differences of frames in windows, (places, differences, side, side), run by run."""
    pairs = len(movie) - 1
    if pairs <= _APART:
        return
    spread = np.linspace(0, pairs - _RUN, _RUNS).round().astype(int)
    firsts = spread.tolist() if pairs > _RUN * _RUNS else [0]
    length = _RUN if len(firsts) > 1 else pairs
    corners = [
        np.linspace(0, extent - side, 2 * (extent - side) // side + 1).round().astype(int)
        for extent in movie.shape[1:]
    ]
    places = [(y, x) for y in corners[0] for x in corners[1]]
    few = np.linspace(0, len(places) - 1, max(1, count // (length * len(firsts))))
    places = [places[i] for i in dict.fromkeys(few.round().astype(int).tolist())]
    for first in firsts:
        difference = np.diff(movie[first : first + length + 1].astype(np.float32), axis=0)
        windows = [difference[:, y : y + side, x : x + side] for y, x in places]
        run = np.stack(windows)
        yield run - run.mean((2, 3), keepdims=True)


def _elsewhere(motion: FloatArray) -> FloatArray:
    """Mean of what earlier and later frames say of motion in a window, (places, differences)."""
    total, count = np.zeros(motion.shape), np.zeros(motion.shape[1])
    total[:, _APART:] += motion[:, :-_APART]
    total[:, :-_APART] += motion[:, _APART:]
    count[_APART:] += 1
    count[:-_APART] += 1
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.inf))


def _fit(windows: _Windows) -> Spectrum:
    """Fit the series of cosines, and look at the frequencies of lines."""
    logarithms, frequency, radius = windows.logarithms, windows.frequency, windows.radius
    usable, side = windows.usable, len(frequency)
    near = np.rint(np.abs(frequency) * side).astype(int)  # bins from the mean
    inside = usable & (near[:, None] > 1) & (near > 1)  # a taper spreads a line over two bins
    angle = 2 * np.pi * frequency
    design = np.stack(
        [np.cos(j * angle)[:, None] * np.cos(k * angle) for j, k in ((0, 0), *ORDERS)], -1
    )
    solve = np.linalg.pinv(design[inside])
    detailed = [inside & (radius >= least) for least in (_FINE, _FINEST)]
    slopes = [np.linalg.pinv(design[some][:, _FIRST]) for some in detailed]
    group = np.arange(len(logarithms)) * _GROUPS // len(logarithms)
    sums = np.stack([logarithms[group == g].sum(0) for g in range(_GROUPS)])
    counts = np.bincount(group, minlength=_GROUPS)
    coefficients: list[FloatArray] = []
    fine: tuple[list[FloatArray], ...] = ([], [])
    rows: list[float] = []
    columns: list[float] = []
    for own, count in zip(sums, counts, strict=True):
        mean = (sums.sum(0) - own) / (counts.sum() - count)
        found = solve @ mean[inside]
        model = design @ found
        coefficients.append(found[1:])
        for details, some, slope in zip(fine, detailed, slopes, strict=True):
            details.append((slope @ mean[some])[1:] / 2)  # log(1 + 2 r cos) is about 2 r cos
        for lines, excess, smooth in (
            (rows, mean - model, model),
            (columns, (mean - model).T, model.T),
        ):
            along = near > _LINE
            line = float(np.exp((excess[along, 0] - excess[along, _BESIDE].mean(1)).mean()))
            share = float(np.exp(smooth[along, 0]).mean() / np.exp(smooth).mean())
            lines.append((line - 1) * share / windows.gathered)
    detail, finest = map(np.array, fine)
    whole = logarithms.mean(0)[inside]
    squares = float(np.mean((whole - design[inside] @ (solve @ whole)) ** 2))
    misfit = max(0.0, squares - _CHANCE / len(logarithms)) ** 0.5
    return Spectrum(
        np.array(coefficients), detail, finest, np.array(rows), np.array(columns), misfit
    )
