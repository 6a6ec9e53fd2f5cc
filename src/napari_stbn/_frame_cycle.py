"""Scenes that take turns in time: channels, planes or lamps that were saved as frames of one movie.

Then the frame before shows something else, and a movie of every n-th frame is what there is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import MovieView, middle_of

__all__ = ["CYCLE_FRAMES", "CYCLE_SIDE", "frame_cycle"]

FloatArray = NDArray[np.float64]

CYCLE_FRAMES, CYCLE_SIDE = 96, 256  # of the part that is looked at
_BLOCK = 8  # px
_LONGEST = 48  # frames
_TURNS = 4  # that have to be seen
_OTHER = 0.1  # by which frames differ that show something else
_SAME = 0.35  # of that, by which frames differ that show the same scene again
_AGAIN = 0.5  # and two turns later


def frame_cycle(movie: NDArray[Any] | MovieView) -> int:
    """After how many frames a movie comes back to what it showed.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
        Of a large one the middle is read.

    Returns
    -------
    int
        1 of a movie of one scene. More only where all frames between differ clearly more, in all
        of the field and in each of its halves.
    """
    halves = _two_images(np.asarray(movie[middle_of(movie.shape, CYCLE_FRAMES, CYCLE_SIDE)]))
    frames, rows, columns = halves[0].shape
    longest = min(_LONGEST, frames // _TURNS)
    if longest < 2 or min(rows, columns) < 2:
        return 1
    y, x = rows // 2, columns // 2
    parts = (np.s_[:, :], np.s_[:, :y], np.s_[:, y:], np.s_[:, :, :x], np.s_[:, :, x:])
    differing = []
    for part in parts:
        one, other = (image[part].reshape(frames, -1) for image in halves)
        differing.append(_differing(one, other, 2 * longest))
    for length in range(2, longest + 1):
        if all(_comes_back(difference, length) for difference in differing):
            return length
    return 1


def _two_images(movie: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Sums of a movie (T, Y, X) over blocks, of every other pixel each: (T, rows, columns).

    What both of them say is no noise. Pixels that are no numbers count as what is usual.
    """
    frames, height, width = movie.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    y, x = np.indices((_BLOCK, _BLOCK))
    halves = (y + x) % 2 == np.arange(2)[:, None, None]
    images = np.empty((2, frames, rows, columns))
    for t, frame in enumerate(movie):
        finite = np.isfinite(frame)
        usual = np.median(frame[finite]) if finite.any() else 0.0
        whole = np.where(finite, frame, usual)[: rows * _BLOCK, : columns * _BLOCK]
        blocks = whole.reshape(rows, _BLOCK, columns, _BLOCK)
        images[:, t] = np.einsum("hyx,rycx->hrc", halves.astype(np.float64), blocks)
    return images[0], images[1]


def _differing(one: FloatArray, other: FloatArray, most: int) -> FloatArray:
    """One less the correlation of frames 0, 1, … `most` apart, free of noise and of their light."""
    one, other = (image - image.mean(1, keepdims=True) for image in (one, other))
    power = np.maximum(np.sum(one * other, 1), 0.0)
    found = [0.0]
    for lag in range(1, most + 1):
        both = one[lag:] * other[:-lag] + other[lag:] * one[:-lag]
        usual = np.sum(np.sqrt(power[lag:] * power[:-lag]))
        found.append(1 - float(both.sum()) / (2 * usual) if usual > 0 else 0.0)
    return np.array(found)


def _comes_back(differing: FloatArray, length: int) -> bool:
    """Whether frames so far apart show the same, and none that are closer."""
    between = float(differing[1:length].min())
    return (
        between > _OTHER
        and differing[length] < _SAME * between
        and differing[2 * length] < _AGAIN * between
    )
