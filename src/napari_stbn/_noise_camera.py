"""From the line of variance against mean to gain, offset and read noise, in counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_stbn._noise_estimation import correlation_excess

if TYPE_CHECKING:
    from napari_stbn._noise_filters import FloatArray
    from napari_stbn._noise_fit import Line
    from napari_stbn._noise_sampling import Sampling

_CORRELATED = 1.2  # variance of all scales over the finest that is believed to be noise


@dataclass(frozen=True)
class Camera:
    """Parameters of the camera, the curve they rest on, and what the user should know."""

    gain: float  # [counts / photoelectron]
    offset: float  # [counts]
    read_noise: float  # [photoelectrons rms]
    means: FloatArray  # (bins,) [counts]
    variances: FloatArray  # (bins,) [counts^2]
    weights: FloatArray  # (bins,) [1 / counts^4]
    counts: FloatArray  # (bins,) [pixels]
    gain_error: float  # [counts / photoelectron]
    correlation: float
    notes: tuple[str, ...]
    shared: str = ""  # that of them about noise that pixels share, the first one


def fit_camera(
    sampling: Sampling,
    line: Line,
    offset: float | None,
    read_noise: float | None,
    *,
    white: bool,
) -> Camera:
    """Turn a line in scaled units into a model in counts."""
    scale, centre = sampling.scale, sampling.centre
    correlation = correlation_excess(sampling.blocks, line)
    factor = correlation if correlation > _CORRELATED and not white else 1.0
    x, v = line.means * scale + centre, np.maximum(line.variances, 0.0) * factor * scale**2
    w = line.weights / (factor * scale**2) ** 2
    slope = line.slope * factor * scale
    error = math.sqrt(max(float(line.covariance[0, 0]), 0.0)) * factor * scale
    intercept = line.intercept * factor * scale**2 - slope * centre
    dark = sampling.dark * scale + centre
    shared = (
        "Neighbouring pixels share noise: the variance of a pixel is "
        f"{factor:.1f} times that of the finest detail."
    ) * (factor > 1.0)
    notes = [shared] if shared else []
    used = w > 0
    spread = float(np.ptp(x[used])) if used.any() else 0.0
    constant = not (slope > 2.0 * error and slope * spread > 0.0)
    if constant:
        notes.append("The noise does not grow with intensity: constant variance assumed.")
        model = _constant(float(np.average(v, weights=w)), offset, dark, float(x.max()))
    elif offset is None and read_noise is not None:
        model = slope, slope * read_noise**2 - intercept / slope, float(read_noise)
    elif read_noise is not None and offset is not None:
        gain = _gain_through(x - offset, v, w, read_noise, slope)
        model = gain, float(offset), float(read_noise)
    else:
        level = dark if offset is None else float(offset)
        at_dark = slope * level + intercept
        if at_dark < 0.0 and offset is None:
            level, at_dark = min(-intercept / slope, float(x.min())), 0.0
        if at_dark < 0.0 or level * slope + intercept < -1e-9 * abs(intercept):
            slope, at_dark = _gain_through(x - level, v, w, 0.0, slope), 0.0
        model = slope, level, math.sqrt(max(at_dark, 0.0)) / slope
    gain, level, electrons = model
    predicted = gain * np.maximum(x - level, 0.0) + (gain * max(electrons, 0.01)) ** 2
    off = np.abs(v / predicted - 1.0)
    if used.any() and float(np.average(off[used], weights=line.counts[used])) > 0.15:
        notes.append("The variance does not follow a straight line in the mean.")
    if not constant and error > 0.1 * gain:
        notes.append(f"The gain is known to {100 * error / gain:.0f} % only.")
    if sampling.clipped > 0.2:
        notes.append(
            f"{100 * sampling.clipped:.0f} % of the pixels lie at the smallest or largest value, "
            "where clipping hides the noise."
        )
    if line.rejected > 0.2:
        notes.append(f"{100 * line.rejected:.0f} % of the movie was left out as too structured.")
    return Camera(*model, x, v, w, line.counts, error, correlation, tuple(notes), shared)


def _gain_through(
    light: FloatArray,
    v: FloatArray,
    w: FloatArray,
    read_noise: float,
    start: float,
) -> float:
    """Return the gain that fits v = gain * light + (gain * read_noise)^2 (Gauss-Newton)."""
    gain = start
    for _ in range(30):
        residual = v - gain * light - (gain * read_noise) ** 2
        jacobian = light + 2.0 * gain * read_noise**2
        norm = float(np.sum(w * jacobian**2))
        if norm <= 0.0:
            break
        gain = max(gain + float(np.sum(w * jacobian * residual)) / norm, 0.1 * gain)
    return gain


def _constant(
    variance: float, offset: float | None, dark: float, brightest: float
) -> tuple[float, float, float]:
    """Return a valid model whose variance rises by 0.1 % at most from offset to the brightest."""
    level = dark if offset is None else float(offset)
    variance = max(variance, 1e-30)
    reach = max(brightest - level, math.sqrt(variance))
    gain = 1e-3 * variance / reach
    return gain, level, math.sqrt(variance) / gain


def crude_camera(sampling: Sampling, offset: float | None) -> Camera:
    """Return a constant variance from plain frame differences, for frames too small to filter."""
    differences = np.concatenate([np.diff(b.frames, axis=0).ravel() for b in sampling.blocks])
    spread = float(np.median(np.abs(differences))) / 0.6745 or float(np.std(differences))
    variance = spread**2 / 2.0 * sampling.scale**2
    mean = float(np.mean([b.frames.mean() for b in sampling.blocks]))
    x = np.array([mean * sampling.scale + sampling.centre])
    dark = sampling.dark * sampling.scale + sampling.centre
    model = _constant(variance, offset, dark, float(x[0]))
    note = "Too few usable pixels to measure the gain: constant variance assumed."
    ones = np.ones(1)
    return Camera(*model, x, np.array([variance]), ones, ones, math.inf, 1.0, (note,))
