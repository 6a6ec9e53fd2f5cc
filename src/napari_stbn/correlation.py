"""Noise that neighbouring pixels share: measured from the movie itself, and made independent.

A blind spot of one pixel learns whatever the pixels around it tell of it, shared noise included.
So the network is shown frames whose noise is white: they are filtered by one over the root of the
noise's spectrum, and what was denoised is filtered back. The two filters are exact inverses of each
other, have no phase, and leave the mean of a frame what it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._correlation_filter import (
    NoiseCorrelation,
    correlation_at,
    correlation_from_dict,
    scaled_camera,
    scaled_noise,
)
from ._correlation_lines import Lines
from ._correlation_spectrum import ORDERS, measure_spectrum
from .noise import NoiseFit, PoissonGaussianNoise, estimate_noise

__all__ = [
    "CORRELATIONS",
    "CorrelationChoice",
    "CorrelationFit",
    "NoiseCorrelation",
    "correlation_from_dict",
    "estimate_pixel_noise",
    "even_noise",
    "measure_correlation",
    "said_besides",
    "scaled_camera",
    "scaled_noise",
]

CorrelationChoice = Literal["auto", "off"]
CORRELATIONS: tuple[CorrelationChoice, ...] = ("auto", "off")

_UNEVEN = 0.2  # by which the noise of all details may differ; beyond, it is another matter
_LEAST_SHARED = 0.05  # correlation of neighbours that is worth a filter
_LEAST_LINES = 0.03  # variance of offsets of lines over that of the noise, likewise
_SURE = 4.0  # standard errors; motion that was taken for noise has large ones
_LITTLE, _SURELY_WHITE = 0.1, 2.0  # correlation that is none, and standard errors by which
_LASTS = 0.75  # of what fine details share, in the finest: that of motion is down to a half


@dataclass(frozen=True)
class CorrelationFit:
    """What was measured of the noise that pixels share.

    Attributes
    ----------
    correlation : NoiseCorrelation or None
        None where the noise is as good as independent, or too little could be measured.
    along_x, along_y : float, -1 to 1
        Correlation of the noise with that of the next pixel; NaN where it was not measured.
    error_x, error_y : float
        Their standard errors.
    rows, columns : float
        Variance of offsets of whole rows and columns over that of the other noise.
    white : bool
        Whether the noise is surely independent: by the finest details neighbours share less than a
        tenth of it, by two standard errors. What moves does not hide that.
    misfit : float
        Of the model of its spectrum, in units of the natural logarithm: large where the spectrum
        has zeros, as after a mean of neighbours; 0 where it was not measured.
    """

    correlation: NoiseCorrelation | None
    along_x: float = math.nan
    error_x: float = math.nan
    along_y: float = math.nan
    error_y: float = math.nan
    rows: float = math.nan
    columns: float = math.nan
    white: bool = False
    misfit: float = 0.0

    @property
    def note(self) -> str:
        """Sentences for the user; empty for independent noise."""
        return "" if self.correlation is None else self.correlation.note


def measure_correlation(movies: Sequence[NDArray[Any]]) -> CorrelationFit:
    """Measure which noise neighbouring pixels share, and whether it is worth a filter.

    Parameters
    ----------
    movies : sequence of ndarrays, shape (T, Y, X)
        Of one camera setting and one size; all finite.

    Returns
    -------
    CorrelationFit
        Without a `NoiseCorrelation` unless neighbours share more than 5 % of the noise, or lines
        more than 3 %, by four standard errors: what moves everywhere makes these errors large. Fine
        details, of which optics pass little, must say so too, and the finest of them as much.
    """
    spectrum = measure_spectrum(movies)
    if spectrum is None:
        return CorrelationFit(None)
    x, error_x = _jackknife([correlation_at(c, 0, 1) for c in spectrum.coefficients])
    y, error_y = _jackknife([correlation_at(c, 1, 0) for c in spectrum.coefficients])
    fine, finest = (
        [_jackknife(values.tolist()) for values in details.T]
        for details in (spectrum.fine, spectrum.finest)
    )
    shared = all(
        max(abs(value) - _SURE * error for value, error in estimates) > _LEAST_SHARED
        for estimates in (((x, error_x), (y, error_y)), fine)
    ) and _lasts(fine, finest)
    lines: Lines = "none"
    line_share = 0.0
    measured = {
        "rows": _jackknife(spectrum.rows.tolist()),
        "columns": _jackknife(spectrum.columns.tolist()),
    }
    for name, (share, error) in measured.items():
        if share - _SURE * error > _LEAST_LINES and share > line_share:
            lines, line_share = ("rows" if name == "rows" else "columns"), share
    coefficients = spectrum.coefficients.mean(0) if shared else np.zeros(len(ORDERS))
    correlation = None
    if shared or lines != "none":
        correlation = NoiseCorrelation(
            tuple(coefficients.tolist()), lines, line_share, error_x, error_y
        )
    white = correlation is None and all(
        abs(value) + _SURELY_WHITE * error < _LITTLE for value, error in finest
    )
    return CorrelationFit(
        correlation,
        x,
        error_x,
        y,
        error_y,
        measured["rows"][0],
        measured["columns"][0],
        white,
        spectrum.misfit,
    )


def _lasts(fine: Sequence[tuple[float, float]], finest: Sequence[tuple[float, float]]) -> bool:
    """Whether what is shared most, and its error, is found in the finest details as well."""
    pairs = zip(fine, finest, strict=True)
    (value, _), (last, error) = max(pairs, key=lambda pair: abs(pair[0][0]))
    return math.copysign(1, value) * last + error >= _LASTS * abs(value)


def estimate_pixel_noise(
    movie: NDArray[Any], choice: CorrelationChoice = "auto"
) -> tuple[NoiseFit, str]:
    """Noise of a pixel as recorded, measured where it was made independent: a look before a run.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X) [user's units]
        All finite.
    choice : {"auto", "off"}, default "auto"
        As of `napari_stbn.Denoiser`.

    Returns
    -------
    NoiseFit
        Its `model` is that of a pixel as recorded, all else is of the movie after the filter.
        Its `note` leaves out what the other one says.
    str
        What is worth saying of shared noise; empty where there is none.

    Raises
    ------
    ValueError
        If the noise of the movie cannot be measured; see `napari_stbn.noise.estimate_noise`.
    """
    found = CorrelationFit(None) if choice == "off" else measure_correlation([movie])
    correlation = found.correlation
    if correlation is None:
        return estimate_noise(movie, white=found.white), ""
    fit = estimate_noise(correlation.whiten(movie))
    pixel = scaled_camera(even_noise(fit), correlation.variance_ratio)
    return replace(fit, model=pixel, note=said_besides(fit)), correlation.note


def said_besides(fit: NoiseFit) -> str:
    """What a fit to filtered frames says, but for shared noise: the note on the filter says it."""
    return fit.note.removeprefix(fit.shared).strip()


def even_noise(fit: NoiseFit) -> PoissonGaussianNoise:
    """Noise of a movie after `NoiseCorrelation.whiten`, by all its details instead of the finest.

    Parameters
    ----------
    fit : NoiseFit
        Of the filtered movie; its finest details alone tell the model.

    Returns
    -------
    PoissonGaussianNoise
        The filter is not perfect: other details may hold some per cent more noise, or less. Left
        out, that would pass for uncertainty of the prediction, which is smaller.
    """
    near = abs(fit.correlation - 1) <= _UNEVEN
    return scaled_camera(fit.model, fit.correlation) if near else fit.model


def _jackknife(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error, from values with one group left out each."""
    return float(np.mean(values)), float(np.sqrt((len(values) - 1) * np.var(values)))
