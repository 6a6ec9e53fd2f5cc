"""Noise that frames share with those before them: measured, and how far apart it is gone.

A running average, a recursive filter of a confocal microscope (Kalman), a camera that repeats
frames: then a frame holds some of the noise of the last ones, and a network that is blind to a
pixel reads it there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import MovieView, middle_of

__all__ = ["FrameSharing", "measure_frame_sharing"]

FloatArray = NDArray[np.float64]

_FRAMES, _SIDE = 64, 256  # of the part that is looked at
_BLOCK = 16  # px
_SMALLEST_BLOCK = 4  # px
_FEWEST = 4  # blocks
_MEASURED = 0.5  # of a block's details that have to be there; 3 x 3 pixels make one
_SHARED = 0.2  # correlation of the noise in two frames that is worth keeping them apart
_LEFT = 0.08  # of it between frames that are kept apart; a fit would learn more
_FARTHEST = 8  # frames
_CARRIED = 0.12  # correlation from which a recursive filter is undone
_POWERS = 4  # frames apart, up to which a recursive filter is told from others
_ALIKE = 0.09  # by which what is shared may differ from what a recursive filter leaves
_EVERYWHERE = 0.8  # of what is shared where most changes, where least does: noise is everywhere
_CHANCE = 0.03  # by which correlations are off by chance
_LARGEST_CARRY = 0.85  # beyond it, taking it out makes much of rounding, and long means look alike
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
    carry : float, 0 to 1
        Part of what was shown before that a recursive filter keeps in each frame; 0 where it is no
        such filter.
    """

    step: int
    correlation: float = 0.0
    carry: float = 0.0


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
        in which they change least, without what stands still: there it is noise that changes. What
        is shared more where more changes is none.
    """
    part = np.asarray(movie[middle_of(movie.shape, _FRAMES, _SIDE)], np.float64)
    part[~np.isfinite(part)] = np.nan
    low = np.nanmin(part, axis=(1, 2), initial=np.inf)
    changing = low < np.nanmax(part, axis=(1, 2), initial=-np.inf)  # the others are blank
    if changing.sum() < _SHORTEST:
        return FrameSharing(1)
    shared = _shared(part, changing)
    if shared is None:
        return FrameSharing(1)
    carry = _carried(shared)
    if not carry and max(shared) < _SHARED:
        return FrameSharing(1)
    gone = [lag for lag in range(1, len(shared) + 1) if max(shared[lag - 1 :]) < _LEFT]
    step = gone[0] if gone else 1
    step = step if step * _LEAST <= len(movie) else 1
    return FrameSharing(step, shared[0], carry)


def _carried(shared: list[float]) -> float:
    """Part of the last frame that a recursive filter keeps, if it is one: shares are powers."""
    one, two = shared[0], shared[1] if shared[1:] else 0.0
    powers = [one ** (lag + 1) for lag in range(len(shared))]
    off = [abs(share - power) for share, power in zip(shared, powers, strict=True)]
    if one < _CARRIED or max(off[:_POWERS]) > _ALIKE:
        return 0.0
    # What makes frames less so much of the one before independent of each other
    root = (1 + two) ** 2 - 4 * one**2
    carry = (1 + two - math.sqrt(max(root, 0.0))) / (2 * one)
    return carry if carry <= _LARGEST_CARRY else 0.0


def _shared(movie: FloatArray, seen: NDArray[np.bool_]) -> list[float] | None:
    """Correlation of noise between frames 1, 2, … apart, of the frames (T, Y, X) that are seen."""
    blocks = _detail_blocks(movie)
    if blocks is None:
        return None
    blocks[:, ~seen] = np.nan
    there = np.isfinite(blocks)
    enough = there.sum((1, 2)) >= _MEASURED * seen.sum() * blocks.shape[2]
    blocks, there = blocks[enough], there[enough]
    blocks[~there] = 0  # counts for nothing
    blocks -= blocks.sum(1, keepdims=True) / np.maximum(there.sum(1, keepdims=True), 1)
    blocks[~there] = 0
    power = np.sum(blocks**2, axis=(1, 2)) / there.sum((1, 2))
    alive = np.flatnonzero(power > 0)
    if len(alive) < _FEWEST:
        return None
    order = alive[np.argsort(power[alive])]
    lags = range(1, min(_FARTHEST, len(movie) // 2) + 1)

    def share(lag: int, chosen: NDArray[np.int_]) -> float:
        late, early = blocks[chosen, lag:], blocks[chosen, :-lag]
        pairs = np.sum(there[chosen, lag:] & there[chosen, :-lag], axis=(1, 2))
        both = np.sum(late * early, axis=(1, 2)) / np.maximum(pairs, 1)
        return float(np.median(both / power[chosen]))

    quietest, loud = order[: max(_FEWEST, len(order) // 4)], order[len(order) // 2 :]
    if share(1, quietest) + _CHANCE < _EVERYWHERE * share(1, loud):
        return None  # it is the scene, of which some places have more
    quiet = order[: max(_FEWEST, len(order) // 2)]
    raw = [share(lag, quiet) for lag in lags]
    # Taking out the mean has taken from all of them what the mean of the noise has.
    taken = 0.0
    for _ in range(2):
        taken = (1 + taken + 2 * sum(max(0.0, r + taken) for r in raw)) / int(seen.sum())
    return [(r + taken) / (1 + taken) for r in raw]


def _detail_blocks(movie: FloatArray) -> FloatArray | None:
    """Finest details of frames (T, Y, X) in blocks, (block, T, pixel); None of small frames.

    NaN beside pixels that were not recorded.
    """
    detail = movie[:, :-2] - 2 * movie[:, 1:-1] + movie[:, 2:]
    detail = detail[:, :, :-2] - 2 * detail[:, :, 1:-1] + detail[:, :, 2:]
    frames, height, width = detail.shape
    side = min(_BLOCK, height // 2, width // 2)
    if side < _SMALLEST_BLOCK:
        return None
    rows, columns = height // side, width // side
    blocks = detail[:, : rows * side, : columns * side].reshape(frames, rows, side, columns, side)
    return blocks.transpose(1, 3, 0, 2, 4).reshape(rows * columns, frames, side * side)
