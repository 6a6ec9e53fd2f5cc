"""Pixels that carry no measurement: filled with a guess, marked, told of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ._lazy import MovieView
from ._prepared import Index, PreparedStack
from .correlation import NoiseCorrelation
from .stack import MovieDefects, Stack, inspect_movie, validate_movie

__all__ = [
    "around",
    "fill_defects",
    "fill_frame",
    "read_filled",
    "recorded_frames",
    "said_of",
    "smoothed",
]

_WIDTHS = (1.0, 4.0)  # px, standard deviations of the smoothing that fills single pixels
_IN_REACH = 0.02  # part of its weight that must lie on measured pixels
_BLANK_WIDTH = 1.0  # px, of that which fills frames; by trial


def fill_defects(
    movie: NDArray[Any], defects: MovieDefects, white: NoiseCorrelation | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Replace pixels that carry no measurement by a guess, and say which they are.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X) [user's units]
        Not modified.
    defects : MovieDefects
        From `napari_stbn.stack.inspect_movie`.
    white : NoiseCorrelation, optional
        Makes the noise of frames white, before blank ones are filled with them: what stands for
        these would tell of offsets of lines that nobody recorded.

    Returns
    -------
    filled : ndarray, shape (T, Y, X), float32 [user's units]
        NaN, infinite and dead pixels hold what is around them in their frame, smoothed; blank
        frames hold the measured frames before and after, smoothed. A copy of a measured pixel would
        show the network the noise of that pixel twice.
    valid : ndarray of bool, shape (T, Y, X)
    """
    filled = movie.astype(np.float32)
    valid = np.ones(movie.shape, bool)
    if defects.nonfinite is not None:
        valid &= ~defects.nonfinite
    if defects.dead is not None:
        valid &= ~defects.dead
    valid[[*defects.constant_frames, *defects.repeated]] = False
    measured = valid.any(axis=(1, 2))
    for t in np.flatnonzero(measured & ~valid.all(axis=(1, 2))):
        filled[t] = fill_frame(filled[t], valid[t])
    good = np.flatnonzero(measured)
    if white is not None and len(good) == len(filled):
        filled = white.whiten(filled)
    elif white is not None and good.size:
        filled[good] = white.whiten(filled[good])
    for t in np.flatnonzero(~measured) if good.size else ():  # a piece of a movie may have none
        filled[t] = smoothed([(filled[g], part) for g, part in around(int(t), good)])
    return filled, valid


def recorded_frames(movie: NDArray[Any]) -> NDArray[np.float32]:
    """Frames (T', Y, X) that hold a measurement, pixels without one filled: to measure noise on.

    What stands for blank frames is smooth, and copies hold the noise of others.
    """
    defects = inspect_movie(movie)
    filled, _ = fill_defects(movie, defects)
    gone = [*defects.constant_frames, *defects.repeated]
    return np.delete(filled, gone, axis=0) if 0 < len(gone) < len(movie) else filled


def fill_frame(frame: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A frame (Y, X) whose pixels that are not valid hold a smooth guess from those around."""
    guess, known = np.zeros_like(frame), np.zeros(frame.shape, bool)
    seen, weight = np.where(valid, frame, np.float32(0)), valid.astype(np.float32)
    for width in _WIDTHS:  # the narrowest that has measured pixels in reach
        total, share = (ndimage.gaussian_filter(part, width) for part in (seen, weight))
        near = ~known & (share > _IN_REACH)
        guess[near] = total[near] / share[near]
        known |= near
    if not known.all():
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        guess = guess[tuple(nearest)]
    return np.where(valid, frame, guess)


def around(t: int, good: NDArray[np.int_]) -> list[tuple[int, float]]:
    """Measured frames that stand for a blank one, and what each counts; `good` is sorted.

    Those before and after; beyond either end the movie goes on as if mirrored there: a copy of the
    last frame, time and again, would make much of its noise.
    """
    last = len(good) - 1
    if good[0] < t < good[last]:
        after = int(np.searchsorted(good, t))
        first, second = int(good[after - 1]), int(good[after])
        late = (t - first) / (second - first)
        return [(first, 1 - late), (second, late)]
    beyond = (int(max(good[0] - t, t - good[last])) - 1) % (2 * last + 2)
    inside = min(beyond, 2 * last + 1 - beyond)
    return [(int(good[inside if t < good[0] else last - inside]), 1.0)]


def smoothed(frames: Sequence[tuple[NDArray[np.float32], float]]) -> NDArray[np.float32]:
    """Weighted sum of frames (Y, X), smoothed: a blank frame for the network to look at."""
    total = np.sum([part * frame for frame, part in frames], axis=0, dtype=np.float32)
    guess: NDArray[np.float32] = ndimage.gaussian_filter(total, _BLANK_WIDTH)
    return guess


def read_filled(
    prepared: PreparedStack,
    members: Sequence[Index],
    *,
    frames: slice | None = None,
    rows: slice | None = None,
    columns: slice | None = None,
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """The channels of one movie with defects filled, and where all of them were measured.

    Raises
    ------
    ValueError
        If there is nothing to denoise in a channel.
    """
    stack = prepared.stack
    filled: list[NDArray[np.float32]] = []
    valid: NDArray[np.bool_] | None = None
    for channel, plane in members:
        movie = stack.movie(channel, plane, frames=frames, rows=rows, columns=columns)
        validate_movie(movie, what=MovieView(stack, channel, plane).title)
        defects = inspect_movie(movie)
        prepared.notes.extend(said_of(stack, (channel, plane), defects))
        white = prepared.correlation.get(channel)
        channel_filled, channel_valid = fill_defects(movie, defects, white)
        filled.append(channel_filled)
        valid = channel_valid if valid is None else valid & channel_valid
    if valid is None:
        raise ValueError("a movie has at least one channel")
    return filled, valid


def said_of(stack: Stack, index: Index, defects: MovieDefects) -> list[str]:
    """Sentences about the defects of one movie of a stack."""
    channel, plane = index
    name = stack.channel_name(channel)
    (_, plane), defects = stack.defects_for_user((channel, plane), defects)
    several = len(stack.recorded.indices()) > 1
    where = f"{name[0].upper()}{name[1:]}, plane {plane}: " if several else ""
    return [where + sentence for sentence in defects.sentences()]
