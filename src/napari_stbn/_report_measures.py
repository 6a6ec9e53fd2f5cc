"""What a report measures beside the residual: brightness, motion and noise, on a bounded part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ._aligned_stack import placed_stack
from ._generators import last
from ._report_sampling import Array, dead_pixels, measured, part, read_frames, spread
from .correlation import NoiseCorrelation
from .noise import NoiseFit, estimate_noise
from .preparation import recorded_frames
from .result import DenoiseResult
from .stack import Stack

_FRAMES = 100  # whose brightness is compared
_PAIRS, _VECTORS = 64, 65536  # pairs of frames, and flow vectors of each, that motion is taken from
_CURVE_FRAMES, _CURVE_SIDE = 64, 256  # that the photon-transfer curve is measured on


@dataclass(frozen=True)
class Brightness:
    """Mean of the frames before and after; arrays of one length, NaN for frames without data."""

    frames: Array  # numbers of the frames
    noisy: Array  # [counts]
    denoised: Array  # [counts]
    error: Array  # standard error of `noisy` by its noise [counts]
    span: float  # from dark to bright in the denoised movie [counts]

    @property
    def deviation(self) -> Array:
        """Denoised minus noisy, as part of the range."""
        deviation: Array = (self.denoised - self.noisy) / self.span
        return deviation


@dataclass(frozen=True)
class Motion:
    """Length of the flow from frame to frame [px]."""

    frames: Array  # the later frame of each pair
    median: Array
    high: Array  # 95th percentile
    speed: tuple[float, float] | None  # of median and 95th percentile over all [unit / s]
    whole: tuple[float, float]  # median and 95th percentile over all


def measure_brightness(
    result: DenoiseResult, noisy: Stack, channel: int, span: float
) -> Brightness:
    """Compare frames of the middle plane, one by one."""
    plane, noise = noisy.n_planes // 2, result.noise.get(channel)
    dead = dead_pixels(noisy, channel, plane)
    frames = spread(noisy.n_frames, _FRAMES)
    means, smooth_means, errors = np.full((3, len(frames)), np.nan)
    for number, t in enumerate(frames):
        y, denoised, _ = read_frames(result, noisy, channel, plane, slice(t, t + 1))
        y = measured(y, dead)
        both = np.isfinite(y) & np.isfinite(denoised)
        if not both.any():
            continue
        y, smooth = y[both], denoised[both].astype(np.float64)
        variance = np.var(y - smooth) if noise is None else np.mean(noise.variance(smooth))
        means[number], smooth_means[number] = y.mean(), smooth.mean()
        errors[number] = math.sqrt(float(variance) / y.size)
    return Brightness(np.array(frames), means, smooth_means, errors, span)


def measure_motion(result: DenoiseResult, noisy: Stack, channel: int) -> Motion:
    """Length of the flow to the next frame in the middle plane."""
    flow = result.flow_to_next
    if flow.ndim == 6:  # one movie for each channel and plane; joint channels share theirs
        flow = flow[min(channel, len(flow) - 1), noisy.n_planes // 2]
    pairs = spread(len(flow), _PAIRS)
    stride = max(1, math.ceil(math.sqrt(flow[0, 0].size / _VECTORS)))
    vectors = flow[pairs, :, ::stride, ::stride].astype(np.float64)  # (pairs, 2, Y, X)
    length = np.hypot(vectors[:, 0], vectors[:, 1])
    sizes = [noisy.pixel_size.get(axis) for axis in "XY"]
    speed = None
    if noisy.frame_interval and sizes[0] and sizes[1]:
        physical = np.hypot(vectors[:, 0] * sizes[0], vectors[:, 1] * sizes[1])
        speed = _median_and_high(physical / noisy.frame_interval)
    return Motion(
        np.array(pairs) + 1,
        np.median(length, axis=(1, 2)),
        np.quantile(length, 0.95, axis=(1, 2)),
        speed,
        _median_and_high(length),
    )


def measure_noise(
    noisy: Stack, channel: int, correlation: NoiseCorrelation | None = None, *, lines: bool = False
) -> NoiseFit | None:
    """Photon-transfer curve of the middle of the movie as it was fitted to; None without one.

    `lines`: whether some were shifted then.
    """
    first = max(0, (noisy.n_frames - _CURVE_FRAMES) // 2)
    recorded = last(placed_stack(noisy, lines=lines))
    movie = recorded.movie(channel, noisy.n_planes // 2, frames=slice(first, first + _CURVE_FRAMES))
    if correlation is not None:
        movie = correlation.whiten(recorded_frames(movie))
    rows, columns = (part(length, _CURVE_SIDE, 0.5) for length in movie.shape[1:])
    try:
        return estimate_noise(movie[:, rows, columns])
    except ValueError:  # constant or without a finite pixel
        return None


def _median_and_high(values: Array) -> tuple[float, float]:
    """Median and 95th percentile."""
    low, high = np.quantile(values, [0.5, 0.95])
    return float(low), float(high)
