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

from ._lazy import MovieView

__all__ = ["FARTHEST", "FrameSharing", "frames_apart", "measure_frame_sharing"]

FloatArray = NDArray[np.float64]

_FRAMES, _SIDE = 64, 512  # of the part that is looked at
_BLOCK = 16  # px
_FEWEST = 4  # blocks
_SHARED = 0.2  # correlation of the noise in two frames that is worth keeping them apart
_LEFT = 0.25  # and what may be left then: movies of fewer frames have less to learn from
FARTHEST = 8  # frames
_LEAST = 3  # frames of each part movie
_ORDINALS = {2: "2nd", 3: "3rd"}
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

    @property
    def note(self) -> str:
        """Sentence for the user; empty where frames share nothing."""
        if self.step == 1:
            return ""
        return (
            f"Frames share noise with those before (correlation {self.correlation:.2f}), as after "
            f"a running average: every {_ORDINALS.get(self.step, f'{self.step}th')} frame is "
            "denoised as a movie of its own. Where there is a recording without it, take that."
        )


def frames_apart(movie: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Frames (T', Y, X) whose noise is their own, and what is worth saying: a look before a run."""
    found = measure_frame_sharing(movie)
    return movie[:: found.step], found.note


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
    part = np.asarray(movie[tuple(_middle(n, m) for n, m in _limits(movie.shape))], np.float64)
    part[~np.isfinite(part)] = np.nan
    changing = [f for f in part if np.nanmin(f, initial=np.inf) < np.nanmax(f, initial=-np.inf)]
    if len(changing) < _SHORTEST:
        return FrameSharing(1)
    shared = _shared(np.stack(changing))
    if shared is None or max(shared) < _SHARED:
        return FrameSharing(1)
    gone = [lag for lag in range(1, len(shared) + 1) if max(shared[lag - 1 :]) < _LEFT]
    step = gone[0] if gone else 1
    return FrameSharing(step, shared[0]) if step * _LEAST <= len(movie) else FrameSharing(1)


def _limits(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Length of each axis, and what is read of it at most."""
    return list(zip(shape, (_FRAMES, _SIDE, _SIDE), strict=True))


def _middle(length: int, most: int) -> slice:
    """The middle of an axis."""
    first = max(0, (length - most) // 2)
    return slice(first, first + most)


def _shared(movie: FloatArray) -> list[float] | None:
    """Correlation of noise between frames 1, 2, … apart, of finite frames (T, Y, X)."""
    detail = movie[:, :-2] - 2 * movie[:, 1:-1] + movie[:, 2:]
    detail = detail[:, :, :-2] - 2 * detail[:, :, 1:-1] + detail[:, :, 2:]
    frames, height, width = detail.shape
    side = min(_BLOCK, height // 2, width // 2)
    rows, columns = height // side, width // side
    if side < 4:
        return None
    blocks = detail[:, : rows * side, : columns * side].reshape(frames, rows, side, columns, side)
    blocks = blocks.transpose(1, 3, 0, 2, 4).reshape(rows * columns, frames, side * side)
    blocks = blocks - blocks.mean(1, keepdims=True)
    power = np.mean(blocks**2, axis=(1, 2))
    alive = np.flatnonzero(power > 0)  # of NaN it is not
    if len(alive) < _FEWEST:
        return None
    quiet = alive[np.argsort(power[alive])[: max(_FEWEST, len(alive) // 2)]]
    found = []
    for lag in range(1, min(FARTHEST, frames // 2) + 1):
        both = np.mean(blocks[quiet, lag:] * blocks[quiet, :-lag], axis=(1, 2))
        # Taking out the mean has made white noise share -1/T.
        found.append(float(np.median(both / power[quiet])) + 1 / frames)
    return found
