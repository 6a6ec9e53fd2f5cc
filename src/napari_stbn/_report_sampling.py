"""Which part of a run a report looks at, so that its work is bounded; and reading it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import lazy_part
from ._unmixed_stack import UnmixedStack, unmixed_array
from .correlation import scaled_noise
from .preparation import KnownNoise
from .result import DenoiseResult
from .stack import ArrayLike, Stack, inspect_movie

Array = NDArray[Any]

CHANNELS = 8  # channels that a report shows
_RUN, _RUNS, _SIDE = 8, 4, 512  # frames in a run, runs of a movie, px: 32 frames of 512 x 512
_PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0))  # of the runs in large frames


def read_frames(
    result: DenoiseResult, noisy: Stack, channel: int, plane: int, frames: slice
) -> tuple[Array, Array, Array | None]:
    """Some frames of one movie, (T, Y, X): noisy, denoised, uncertainty."""

    def cut(array: ArrayLike) -> Array:
        return noisy.like(array).movie(channel, plane, frames=frames)

    seen, denoised = cut(noisy.array), cut(result.denoised)
    if result.uncertainty is None:
        return seen, denoised, None
    uncertainty = cut(result.uncertainty)
    nothing = np.isnan(uncertainty)  # was recorded there: padding, blank frames
    return (np.where(nothing, np.nan, seen) if nothing.any() else seen), denoised, uncertainty


def as_one_movie(result: DenoiseResult, noisy: Stack) -> tuple[DenoiseResult, Stack]:
    """What was denoised as one movie: every n-th frame, every n-th pixel, or all unfiltered.

    Both as they are where frames and pixels follow each other.
    """
    carry = {int(c): float(part) for c, part in result.report.get("frame_carry", {}).items()}
    if carry:
        result, noisy = _unfiltered(result, noisy, carry)
    rows, columns = result.report.get("grid_step", (1, 1))
    steps = {"T": 1 if carry else result.report.get("frame_step", 1), "Y": rows, "X": columns}
    if set(steps.values()) == {1}:
        return result, noisy

    def first(array: ArrayLike) -> ArrayLike:
        return lazy_part(array, tuple(slice(0, None, steps.get(a, 1)) for a in noisy.axes))

    uncertainty = None if result.uncertainty is None else np.asarray(first(result.uncertainty))
    part = replace(result, denoised=np.asarray(first(result.denoised)), uncertainty=uncertainty)
    return part, noisy.like(first(noisy.array))


def _unfiltered(
    result: DenoiseResult, noisy: Stack, carry: Mapping[int, float]
) -> tuple[DenoiseResult, Stack]:
    """Both without what frames hold of those before."""
    gains = {c: UnmixedStack(noisy, carry, "").noise_gain(c) for c in result.noise}
    noise = {c: n and scaled_noise(n, gains[c]) for c, n in result.noise.items()}
    mean, spread = result.denoised, result.uncertainty
    part = replace(
        result,
        denoised=unmixed_array(noisy.like(mean), carry),
        uncertainty=None if spread is None else unmixed_array(noisy.like(spread), carry),
        noise=noise,
    )
    return part, noisy.like(unmixed_array(noisy, carry))


def dead_pixels(noisy: Stack, channel: int, plane: int) -> NDArray[np.bool_]:
    """Pixels (Y, X) that never change: what was made of them is no residual."""
    dead = inspect_movie(noisy.movie(channel, plane, frames=slice(0, 2 * _RUN))).dead
    return np.zeros(noisy.frame_shape, bool) if dead is None else dead


def measured(noisy: Array, dead: NDArray[np.bool_]) -> Array:
    """Frames (T, Y, X) as float64 with NaN where nothing was measured."""
    values = noisy.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    for frame in values:
        finite = frame[np.isfinite(frame)]
        if finite.size and finite.max() == finite.min():
            frame[:] = np.nan
    values[:, dead] = np.nan
    return values


def as_fitted(
    result: DenoiseResult, channel: int, noisy: Array, denoised: Array, uncertainty: Array | None
) -> tuple[Array, Array, Array | None, KnownNoise]:
    """Whole frames (T, Y, X) and their noise as the fit saw them: independent from pixel to pixel.

    NaN stay NaN. A single frame keeps the offsets of its lines, which only others can tell.
    """
    noise, correlation = result.noise.get(channel), result.correlation.get(channel)
    if correlation is None:
        return noisy, denoised, uncertainty, noise
    blank = ~np.isfinite(denoised)
    kept = np.where(blank, 0.0, denoised)
    missing = ~np.isfinite(noisy)
    filled = np.where(missing, kept, noisy)
    white = correlation.whiten(filled, offsets=len(filled) > 1).astype(np.float64)
    white[missing] = np.nan
    smooth = correlation.whiten(kept, offsets=False)
    if noise is not None:
        noise = correlation.white_noise(noise)
        if uncertainty is not None:
            uncertainty = correlation.whiten_std(uncertainty, smooth, noise)
    smooth[blank] = np.nan
    return white, smooth, uncertainty, noise


def windows(stack: Stack) -> Iterator[tuple[slice, slice, slice]]:
    """Runs of frames over the whole time, in large frames each from another place."""
    runs = min(_RUNS, math.ceil(stack.n_frames / _RUN))
    last = max(0, stack.n_frames - _RUN)
    for run, (y, x) in zip(range(runs), _PLACES, strict=False):
        first = round(last * run / max(1, runs - 1))
        height, width = stack.frame_shape
        yield slice(first, first + _RUN), part(height, _SIDE, y), part(width, _SIDE, x)


def part(length: int, most: int, place: float) -> slice:
    """At most `most` of `length`, from the start (place 0) to the end (place 1)."""
    first = round(max(0, length - most) * place)
    return slice(first, first + most)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers; the middle one where there is one, else both ends too."""
    return sorted({round(float(n)) for n in np.linspace(0, count - 1, min(count, most))})
