"""Intensities: one robust scaling per movie, its inverse, and the way back to integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_SAMPLES: Final = 2_000_000  # values that a fit looks at: quantiles to 1e-4 in 0.05 s
_QUANTILES: Final = (0.001, 0.999)


def cast_like(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Convert to `dtype`; integer types are rounded and clipped, never wrapped.

    Parameters
    ----------
    values : ndarray, any shape
        Real numbers; not modified.
    dtype : dtype-like
        Integer or floating type.

    Returns
    -------
    ndarray, same shape
        New array of `dtype` in native byte order.

    Raises
    ------
    ValueError
        `dtype` is neither integer nor floating, or `values` hold NaN and `dtype` is an integer.
    """
    target: np.dtype[Any] = np.dtype(dtype).newbyteorder("=")
    if target.kind == "f":
        return values.astype(target)
    if target.kind not in "iu":
        raise ValueError(f"dtype must be an integer or floating type, got {target}.")
    info = np.iinfo(target)
    if values.dtype.kind in "iub":
        source = np.iinfo(values.dtype) if values.dtype.kind != "b" else np.iinfo(np.uint8)
        low, high = max(info.min, source.min), min(info.max, source.max)
        clipped: npt.NDArray[Any] = np.clip(values, low, high).astype(target)
        return clipped
    # float32 holds every 16-bit integer; wider ones need float64
    wide = values.dtype if target.itemsize <= 2 and values.dtype.itemsize >= 4 else np.float64
    rounded = np.rint(values, dtype=wide)
    if np.isnan(rounded).any():
        raise ValueError(f"values hold NaN, which {target} cannot; use a floating dtype.")
    above = rounded >= float(info.max)  # float(2**63 - 1) is 2**63: would wrap
    rounded[above] = 0
    result: npt.NDArray[Any] = np.maximum(rounded, float(info.min), out=rounded).astype(target)
    result[above] = info.max
    return result


@dataclass(frozen=True)
class IntensityScaling:
    """The affine map from a user's intensities to those the network sees, and back.

    Attributes
    ----------
    offset : float [counts]
        Intensity that becomes 0.
    scale : float [counts], > 0
        Intensity difference that becomes 1.

    Notes
    -----
    There is ONE scaling for a whole movie, never one per clip or frame: the denoised movie would
    otherwise get an uneven baseline. It is equivariant: the scaled values of ``a * movie + b``
    are those of ``movie`` for any a > 0 and b.
    """

    offset: float
    scale: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.offset) and math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                "offset must be finite and scale finite and positive, "
                f"got offset {self.offset} and scale {self.scale}."
            )

    @classmethod
    def fit(cls, movie: npt.NDArray[Any]) -> IntensityScaling:
        """Choose the scaling that maps the 0.1 % quantile to 0 and the 99.9 % quantile to 1.

        Parameters
        ----------
        movie : ndarray, any shape [counts]
            Not modified; NaN and infinities are ignored.

        Returns
        -------
        IntensityScaling
            Of scale 1 for a constant movie; where only less than 0.1 % of the values differ from
            the rest, minimum and maximum take the place of the quantiles.

        Raises
        ------
        ValueError
            The movie holds no finite value.

        Notes
        -----
        Quantiles of an evenly strided subsample of about two million values.
        """
        finite = _finite_sample(movie)
        if finite.size == 0:
            finite = movie[np.isfinite(movie)]
        if finite.size == 0:
            raise ValueError("the movie holds no finite value; check the file for missing frames.")
        low, high = (float(q) for q in np.quantile(finite.astype(np.float64), _QUANTILES))
        if not high > low:
            everything = movie[np.isfinite(movie)]
            low, high = float(everything.min()), float(everything.max())
        return cls(low, high - low if high > low else 1.0)

    def apply(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Map intensities to network values, ``(values - offset) / scale``.

        Parameters
        ----------
        values : ndarray, any shape [counts]
            Not modified.

        Returns
        -------
        ndarray of float32, same shape [dimensionless]
            New array.
        """
        # Computed in float64 by the buffered loop of the ufunc, so no wide copy is made.
        result = np.empty(values.shape, np.float32)
        np.subtract(values, self.offset, out=result, dtype=np.float64, casting="unsafe")
        np.divide(result, self.scale, out=result, dtype=np.float64, casting="unsafe")
        return result

    def invert(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map network values back to intensities, ``values * scale + offset``.

        Parameters
        ----------
        values : ndarray, any shape [dimensionless]
            Not modified.

        Returns
        -------
        ndarray of float32, or of float64 for float64 `values`, same shape [counts]
            New array. ``cast_like(invert(apply(y)), y.dtype)`` is y for integers up to 16 bits,
            and for wider ones that stay below two million.
        """
        wide = values.dtype == np.float64
        result = np.empty(values.shape, np.float64 if wide else np.float32)
        np.multiply(values, self.scale, out=result, dtype=np.float64, casting="unsafe")
        np.add(result, self.offset, out=result, dtype=np.float64, casting="unsafe")
        return result


def _finite_sample(movie: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Finite values at an even stride that does not run along with the columns."""
    step = max(1, movie.size // _SAMPLES)
    while movie.ndim and step > 1 and math.gcd(step, movie.shape[-1]) > 1:
        step += 1
    sample = movie.reshape(-1)[::step]
    finite: npt.NDArray[Any] = sample[np.isfinite(sample)]
    return finite
