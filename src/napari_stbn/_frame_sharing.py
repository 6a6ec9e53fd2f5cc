"""Noise that frames share with those before them: measured, and how far apart it is gone.

A running average, a recursive filter of a confocal microscope (Kalman), a camera that repeats
frames: then a frame holds some of the noise of the last ones, and a network that is blind to a
pixel reads it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import MovieView, middle_of

__all__ = ["FrameSharing", "measure_frame_sharing"]

FloatArray = NDArray[np.float64]

_FRAMES, _SIDE = 64, 512  # of the part that is looked at
_BLOCK = 16  # px
_SMALLEST_BLOCK = 4  # px
_FEWEST = 4  # blocks
_SHARED = 0.2  # correlation of the noise in two frames that is worth keeping them apart
_LEFT = 0.25  # and what may be left then: movies of fewer frames have less to learn from
_FARTHEST = 8  # frames
_LEAST = 3  # frames of each part movie
_SHORTEST = 8  # frames of a movie whose noise can be told from what stands still


@dataclass(frozen=True)
class FrameSharing:
    """What frames share.

    Attributes
    ----------
    step : int
        Frames that lie so far apart have noise of their own; 1 where all have.
    correlation : float
        Of the noise of a frame and the next one.
    """

    step: int
    correlation: float = 0.0


def measure_frame_sharing(movie: NDArray[Any] | MovieView) -> FrameSharing:
    """Measure how many frames apart noise is independent.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
        Of a large one the middle is read.

    Returns
    -------
    FrameSharing
        By the finest details (differences of differences along both axes) of the half of the field
        in which they change least, without what stands still: there it is noise that changes.
    """
    part = np.asarray(movie[middle_of(movie.shape, _FRAMES, _SIDE)], np.float64)
    part[~np.isfinite(part)] = np.nan
    low = np.nanmin(part, axis=(1, 2), initial=np.inf)
    changing = low < np.nanmax(part, axis=(1, 2), initial=-np.inf)  # the others are blank
    if changing.sum() < _SHORTEST:
        return FrameSharing(1)
    shared = _shared(part, changing)
    if shared is None or max(shared) < _SHARED:
        return FrameSharing(1)
    gone = [lag for lag in range(1, len(shared) + 1) if max(shared[lag - 1 :]) < _LEFT]
    step = gone[0] if gone else 1
    return FrameSharing(step, shared[0]) if step * _LEAST <= len(movie) else FrameSharing(1)


def _shared(movie: FloatArray, seen: NDArray[np.bool_]) -> list[float] | None:
    """Correlation of noise between frames 1, 2, … apart, of the frames (T, Y, X) that are seen."""
    detail = movie[:, :-2] - 2 * movie[:, 1:-1] + movie[:, 2:]
    detail = detail[:, :, :-2] - 2 * detail[:, :, 1:-1] + detail[:, :, 2:]
    frames, height, width = detail.shape
    side = min(_BLOCK, height // 2, width // 2)
    rows, columns = height // side, width // side
    if side < _SMALLEST_BLOCK:
        return None
    blocks = detail[:, : rows * side, : columns * side].reshape(frames, rows, side, columns, side)
    blocks = blocks.transpose(1, 3, 0, 2, 4).reshape(rows * columns, frames, side * side)
    blocks[:, seen] -= blocks[:, seen].mean(1, keepdims=True)
    blocks[:, ~seen] = 0
    power = np.sum(blocks**2, axis=(1, 2)) / seen.sum()
    alive = np.flatnonzero(power > 0)  # of NaN it is not
    if len(alive) < _FEWEST:
        return None
    quiet = alive[np.argsort(power[alive])[: max(_FEWEST, len(alive) // 2)]]
    found = []
    for lag in range(1, min(_FARTHEST, frames // 2) + 1):
        pairs = max(1, int(np.sum(seen[lag:] & seen[:-lag])))
        both = np.sum(blocks[quiet, lag:] * blocks[quiet, :-lag], axis=(1, 2)) / pairs
        # Taking out the mean has made white noise share -1/T.
        found.append(float(np.median(both / power[quiet])) + 1 / int(seen.sum()))
    return found
