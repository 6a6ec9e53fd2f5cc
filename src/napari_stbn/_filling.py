"""Pixels that carry no measurement: filled with a guess, marked, told of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ._lazy import MovieView
from ._prepared import Index, PreparedStack
from .stack import MovieDefects, Stack, inspect_movie, validate_movie

__all__ = ["fill_defects", "read_filled", "said_of"]


def fill_defects(
    movie: NDArray[Any], defects: MovieDefects
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Replace pixels that carry no measurement by a guess, and say which they are.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X) [user's units]
        Not modified.
    defects : MovieDefects
        From `napari_stbn.stack.inspect_movie`.

    Returns
    -------
    filled : ndarray, shape (T, Y, X), float32 [user's units]
        NaN, infinite and dead pixels hold the nearest measured pixel of their frame; dropped frames
        hold the nearest measured frame.
    valid : ndarray of bool, shape (T, Y, X)
    """
    filled = movie.astype(np.float32)
    valid = np.ones(movie.shape, bool)
    if defects.nonfinite is not None:
        valid &= ~defects.nonfinite
    if defects.dead is not None:
        valid &= ~defects.dead
    valid[list(defects.constant_frames)] = False
    measured = valid.any(axis=(1, 2))
    for t in np.flatnonzero(measured & ~valid.all(axis=(1, 2))):
        nearest = ndimage.distance_transform_edt(
            ~valid[t], return_distances=False, return_indices=True
        )
        filled[t] = filled[t][tuple(nearest)]
    good = np.flatnonzero(measured)
    for t in np.flatnonzero(~measured) if good.size else ():  # a piece of a movie may have none
        filled[t] = filled[good[np.abs(good - t).argmin()]]
    return filled, valid


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
        channel_filled, channel_valid = fill_defects(movie, defects)
        correlation = prepared.correlation.get(channel)
        filled.append(channel_filled if correlation is None else correlation.whiten(channel_filled))
        valid = channel_valid if valid is None else valid & channel_valid
    if valid is None:
        raise ValueError("a movie has at least one channel")
    return filled, valid


def said_of(stack: Stack, index: Index, defects: MovieDefects) -> list[str]:
    """Sentences about the defects of one movie of a stack."""
    channel, plane = index
    name = stack.channel_name(channel)
    where = "" if len(stack.indices()) == 1 else f"{name[0].upper()}{name[1:]}, plane {plane}: "
    return [where + sentence for sentence in defects.sentences()]
