"""The filter that makes shared noise white, and what it does to noise and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ._correlation_lines import LINES_REACH, Lines, line_offsets
from ._correlation_spectrum import ORDERS, powers
from .noise import GaussianNoise, MeasuredNoise, PoissonGaussianNoise

__all__ = [
    "NoiseCorrelation",
    "correlation_at",
    "correlation_from_dict",
    "scaled_camera",
    "scaled_noise",
]

_LARGEST_GAIN = 16.0  # of a detail over the mean: finer ones hold neither noise nor signal
_INTERPOLATED = 4.0  # gain from which finest details are said to hold next to no noise
_GRID = 64  # frequencies along each axis that a spectrum is averaged over

Noise = PoissonGaussianNoise | GaussianNoise | MeasuredNoise


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
    def reach(self) -> int:
        """Frames before and after one that `whiten` looks at for it."""
        return 0 if self.lines == "none" else LINES_REACH

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
                f"{max(self.error_x, 0.01):.2f} along x, {self.along(1, 0):.2f} ± "
                f"{max(self.error_y, 0.01):.2f} along y): for the fit a filter makes it "
                "independent, which is undone afterwards."
            )
            if self.finest_gain > _INTERPOLATED:
                said.append(
                    "The finest details hold next to no noise, as in frames that were interpolated "
                    "or compressed: take the recorded ones where there are any."
                )
        if self.lines != "none":
            said.append(
                f"The {self.lines} of a frame have offsets of their own, "
                f"{100 * self.line_share:.0f} % of the noise's variance: they are taken away."
            )
        return " ".join(said)

    @property
    def finest_gain(self) -> float:
        """Largest gain over that of the mean that makes the noise white; used up to 16."""
        return float(_needed(self.coefficients, (_GRID, _GRID)).max())

    @property
    def unevenness(self) -> float:
        """Mean of the spectrum over its geometric mean; 1 where no noise is shared."""
        angle = np.pi * (np.arange(_GRID) + 0.5) / _GRID
        return float(powers(angle, angle, np.array(self.coefficients)).mean())

    def along(self, rows: int, columns: int) -> float:
        """Correlation of the noise with that so many rows and columns on."""
        return correlation_at(np.array(self.coefficients), rows, columns)

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
        return scaled_noise(pixel, 1 / self.variance_ratio)

    def pixel_noise(self, white: Noise) -> Noise:
        """Noise model of a pixel as recorded, less offsets of lines, from that after `whiten`."""
        return scaled_noise(white, self.variance_ratio)

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


def scaled_noise(noise: Noise, ratio: float) -> Noise:
    """A noise model whose variance is so many times as large."""
    if isinstance(noise, GaussianNoise):
        return GaussianNoise(noise.sigma * math.sqrt(ratio))
    if isinstance(noise, MeasuredNoise):
        return MeasuredNoise(noise.levels, tuple(ratio * v for v in noise.variances))
    return scaled_camera(noise, ratio)


def scaled_camera(noise: PoissonGaussianNoise, ratio: float) -> PoissonGaussianNoise:
    """The same for shot noise and read noise."""
    return PoissonGaussianNoise(
        noise.gain * ratio, noise.offset, noise.read_noise / math.sqrt(ratio)
    )


def correlation_at(coefficients: NDArray[np.float64], rows: int, columns: int) -> float:
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
