"""Noise that neighbouring pixels share: measured from the movie itself, and made independent.

A blind spot of one pixel learns whatever the pixels around it tell of it, shared noise included.
So the network is shown frames whose noise is white: they are filtered by one over the root of the
noise's spectrum, and what was denoised is filtered back. The two filters are exact inverses of each
other, have no phase, and leave the mean of a frame what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ._correlation_lines import Lines, line_offsets
from ._correlation_spectrum import ORDERS, measure_spectrum, powers
from .noise import GaussianNoise, NoiseFit, PoissonGaussianNoise, estimate_noise

__all__ = [
    "CORRELATIONS",
    "CorrelationChoice",
    "CorrelationFit",
    "NoiseCorrelation",
    "correlation_from_dict",
    "estimate_pixel_noise",
    "even_noise",
    "measure_correlation",
]

CorrelationChoice = Literal["auto", "off"]
CORRELATIONS: tuple[CorrelationChoice, ...] = ("auto", "off")

_LARGEST_GAIN = 16.0  # of a detail over the mean: finer ones hold neither noise nor signal
_UNEVEN = 0.2  # by which the noise of all details may differ; beyond, it is another matter
_INTERPOLATED = 4.0  # gain from which finest details are said to hold next to no noise
_LEAST_SHARED = 0.05  # correlation of neighbours that is worth a filter
_LEAST_LINES = 0.03  # variance of offsets of lines over that of the noise, likewise
_SURE = 4.0  # standard errors; motion that was taken for noise has large ones
_GRID = 64  # frequencies along each axis that a spectrum is averaged over

Noise = PoissonGaussianNoise | GaussianNoise


@dataclass(frozen=True)
class NoiseCorrelation:
    """How the noise of a channel is shared between pixels, and the filters that follow from it.

    Attributes
    ----------
    coefficients : tuple of float
        Of the logarithm of the noise's spectrum, a series of cosines; zeros for white noise.
    lines : {"none", "rows", "columns"}
        Lines of pixels that have an offset of their own in every frame.
    line_share : float
        Variance of these offsets over that of the other noise.
    error_x, error_y : float
        Standard errors of the correlation with the next pixel along x and y.

    Raises
    ------
    ValueError
        If the coefficients are not as many finite numbers as there are orders, or `lines` is
        unknown.
    """

    coefficients: tuple[float, ...]
    lines: Lines = "none"
    line_share: float = 0.0
    error_x: float = 0.0
    error_y: float = 0.0

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(ORDERS):
            raise ValueError(
                f"coefficients must be {len(ORDERS)} numbers, got {len(self.coefficients)}"
            )
        if not all(map(math.isfinite, (*self.coefficients, self.line_share))):
            raise ValueError(f"coefficients must be finite, got {self.coefficients}")
        if self.lines not in ("none", "rows", "columns"):
            raise ValueError(f"lines must be none, rows or columns, got {self.lines!r}")

    def whiten(self, frames: NDArray[Any], *, offsets: bool = True) -> NDArray[np.float32]:
        """Make the noise of frames independent from pixel to pixel.

        Parameters
        ----------
        frames : ndarray, shape (T, Y, X) [user's units]
            Consecutive frames, all finite; not modified.
        offsets : bool, default True
            Take away the offsets of lines; denoised frames have none.

        Returns
        -------
        ndarray, shape (T, Y, X), float32 [user's units]
            Each frame has the mean it had, less the mean offset of its lines. Details are stronger
            where they hold less noise.
        """
        plain = np.asarray(frames, np.float32)
        if offsets and self.lines != "none":
            plain = plain - line_offsets(plain, self.lines, self.line_share)
        return _filtered(plain, _gain(self.coefficients, plain.shape[1:]))

    def restore(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Undo the filter of `whiten`; offsets of lines were noise and stay away.

        Parameters
        ----------
        frames : ndarray, shape (T, Y, X) [user's units]

        Returns
        -------
        ndarray, shape (T, Y, X), float32 [user's units]
        """
        plain = np.asarray(frames, np.float32)
        return _filtered(plain, _inverse(self.coefficients, plain.shape[1:]))

    @property
    def variance_ratio(self) -> float:
        """Variance of the noise of a pixel over that after `whiten`."""
        return float(np.mean(_gain(self.coefficients, (_GRID, _GRID)) ** -2.0))

    @property
    def note(self) -> str:
        """Sentences for the user."""
        said = []
        if any(self.coefficients):
            said.append(
                f"Neighbouring pixels share noise (correlation {self.along(0, 1):.2f} ± "
                f"{self.error_x:.2f} along x, {self.along(1, 0):.2f} ± {self.error_y:.2f} along "
                "y): it was made independent by a filter before the fit, and the filter undone "
                "after it."
            )
            if self.finest_gain > _INTERPOLATED:
                said.append(
                    "The finest details hold next to no noise, as in frames that were interpolated "
                    "or compressed: take the recorded ones where there are any."
                )
        if self.lines != "none":
            said.append(
                f"The {self.lines} of a frame have offsets of their own, "
                f"{100 * self.line_share:.0f} % of the noise's variance: they were taken away."
            )
        return " ".join(said)

    @property
    def finest_gain(self) -> float:
        """Largest gain over that of the mean that makes the noise white; used up to 16."""
        return float(_needed(self.coefficients, (_GRID, _GRID)).max())

    def along(self, rows: int, columns: int) -> float:
        """Correlation of the noise with that so many rows and columns on."""
        return _correlation(np.array(self.coefficients), rows, columns)

    def restore_std(
        self, std: NDArray[Any], mean: NDArray[Any], noise: Noise
    ) -> NDArray[np.float32]:
        """Bring the uncertainty of denoised frames back.

        Parameters
        ----------
        std, mean : ndarray, shape (T, Y, X) [user's units]
            Posterior standard deviation and mean, before `restore`.
        noise : noise model
            Of the frames after `whiten`.

        Returns
        -------
        ndarray, shape (T, Y, X), float32 [user's units]

        Notes
        -----
        The error of a posterior mean has two parts: that of the blind prediction, which is smooth,
        so that a filter whose gain for the mean is 1 leaves its size; and as much of the pixel's
        own noise as the posterior follows it, a share ``w = u^2 / S``, which is white and shrinks
        with `variance_ratio`. Their variances are ``u^2 (1 - w)`` and ``u^2 w``.
        """
        squared = np.square(np.asarray(std, np.float64))
        share = squared / np.asarray(noise.variance(np.asarray(mean, np.float64)))
        left = 1 - np.clip(share, 0, 1) * (1 - self.variance_ratio)
        return np.sqrt(squared * left).astype(np.float32)

    def whiten_std(
        self, std: NDArray[Any], mean: NDArray[Any], noise: Noise
    ) -> NDArray[np.float32]:
        """Undo `restore_std`; where the result follows the measurement too far for that, at most.

        Parameters
        ----------
        std, mean : ndarray, shape (T, Y, X) [user's units]
            Uncertainty, and the posterior mean after `whiten`.
        noise : noise model
            Of the frames after `whiten`.

        Returns
        -------
        ndarray, shape (T, Y, X), float32 [user's units]
        """
        variance = np.asarray(noise.variance(np.asarray(mean, np.float64)))
        squared = np.square(np.asarray(std, np.float64)) / variance
        shrink = 1 - self.variance_ratio
        if abs(shrink) > 1e-6:
            root = np.sqrt(np.maximum(1 - 4 * shrink * squared, 0.0))
            squared = (1 - root) / (2 * shrink)
        return np.sqrt(np.clip(squared, 0, 1) * variance).astype(np.float32)

    def white_noise(self, pixel: Noise) -> Noise:
        """Noise model after `whiten`, from that of a pixel as recorded."""
        return _scaled(pixel, 1 / self.variance_ratio)

    def pixel_noise(self, white: Noise) -> Noise:
        """Noise model of a pixel as recorded, less offsets of lines, from that after `whiten`."""
        return _scaled(white, self.variance_ratio)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, read back by `correlation_from_dict`."""
        return asdict(self) | {"coefficients": list(self.coefficients)}


def correlation_from_dict(description: Mapping[str, Any]) -> NoiseCorrelation:
    """Read what `NoiseCorrelation.to_dict` described.

    Raises
    ------
    ValueError
        If it does not describe one.
    """
    try:
        values = {**description, "coefficients": tuple(map(float, description["coefficients"]))}
        return NoiseCorrelation(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"correlation cannot be read from {description}: {error}") from error


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
    """

    correlation: NoiseCorrelation | None
    along_x: float = math.nan
    error_x: float = math.nan
    along_y: float = math.nan
    error_y: float = math.nan
    rows: float = math.nan
    columns: float = math.nan

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
        more than 3 %, by four standard errors: what moves everywhere makes these errors large. The
        finest details, which no optics pass, must say so too.
    """
    spectrum = measure_spectrum(movies)
    if spectrum is None:
        return CorrelationFit(None)
    x, error_x = _jackknife([_correlation(c, 0, 1) for c in spectrum.coefficients])
    y, error_y = _jackknife([_correlation(c, 1, 0) for c in spectrum.coefficients])
    fine = [_jackknife(values.tolist()) for values in spectrum.fine.T]
    shared = all(
        max(abs(value) - _SURE * error for value, error in estimates) > _LEAST_SHARED
        for estimates in (((x, error_x), (y, error_y)), fine)
    )
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
    return CorrelationFit(
        correlation, x, error_x, y, error_y, measured["rows"][0], measured["columns"][0]
    )


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
        return estimate_noise(movie), ""
    fit = estimate_noise(correlation.whiten(movie))
    pixel = _scaled_camera(even_noise(fit), correlation.variance_ratio)
    return replace(fit, model=pixel), correlation.note


def even_noise(fit: NoiseFit) -> PoissonGaussianNoise:
    """Noise of a movie after `NoiseCorrelation.whiten`, by all its details instead of the finest.

    Parameters
    ----------
    fit : NoiseFit
        Of the filtered movie; its finest details alone tell the model.

    Returns
    -------
    PoissonGaussianNoise
        The filter is not perfect: the other details may hold some per cent more noise, or less. Left
        out, they would be taken for uncertainty of the prediction, which is smaller than that.
    """
    near = abs(fit.correlation - 1) <= _UNEVEN
    return _scaled_camera(fit.model, fit.correlation) if near else fit.model


def _jackknife(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error, from values with one group left out each."""
    return float(np.mean(values)), float(np.sqrt((len(values) - 1) * np.var(values)))


def _scaled(noise: Noise, ratio: float) -> Noise:
    """A noise model whose variance is so many times as large."""
    if isinstance(noise, GaussianNoise):
        return GaussianNoise(noise.sigma * math.sqrt(ratio))
    return _scaled_camera(noise, ratio)


def _scaled_camera(noise: PoissonGaussianNoise, ratio: float) -> PoissonGaussianNoise:
    """The same for shot noise and read noise."""
    return PoissonGaussianNoise(
        noise.gain * ratio, noise.offset, noise.read_noise / math.sqrt(ratio)
    )


def _correlation(coefficients: NDArray[np.float64], rows: int, columns: int) -> float:
    """Correlation at an offset, by the whole spectrum."""
    angle = np.pi * (np.arange(_GRID) + 0.5) / _GRID
    power = powers(angle, angle, coefficients)
    wave = np.cos(rows * angle)[:, None] * np.cos(columns * angle)
    return float(np.sum(power * wave) / np.sum(power))


def _needed(coefficients: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Gain of each cosine of a frame that would make the noise white; 1 for the mean."""
    y, x = (np.pi * np.arange(length) / length for length in shape)
    power = powers(y, x, np.array(coefficients))
    return np.asarray(np.sqrt(power[0, 0] / power))


@lru_cache(maxsize=8)
def _gain(coefficients: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The same within bounds: nothing is enhanced that holds next to no noise."""
    needed = _needed(coefficients, shape)
    return np.clip(needed, 1 / _LARGEST_GAIN, _LARGEST_GAIN).astype(np.float32)


def _inverse(coefficients: tuple[float, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What undoes that gain."""
    return np.reciprocal(_gain(coefficients, shape))


def _filtered(frames: NDArray[np.float32], gain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply the cosines of frames, that is, filter with mirrored borders."""
    if np.all(gain == 1):
        return frames
    out = np.empty_like(frames)
    for t, frame in enumerate(frames):  # frame by frame: no second movie in memory
        out[t] = fft.idctn(fft.dctn(frame, norm="ortho") * gain, norm="ortho")
    return out
