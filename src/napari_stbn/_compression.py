"""Frames that were compressed block by block, as JPEG and most films are.

Where a block was left with few of its details, its noise is that of the block: neither independent
nor the same from place to place, so that no filter makes it white. A fit learns it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import MovieView, middle_of

__all__ = ["COMPRESSED", "is_compressed"]

COMPRESSED = (
    "Frames were compressed in blocks of 8 pixels, as JPEG and films are: a fit would learn these, "
    "so the start is kept as it is. Recorded frames hold more."
)

_BLOCK = 8  # px
_FRAMES, _SIDE = 16, 512  # of the part that is looked at
_EDGES = 1.25  # times as large steps between blocks as within, along both axes


def is_compressed(movie: NDArray[Any] | MovieView) -> bool:
    """Whether neighbours differ more across the edges of blocks, along both axes.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
    """
    part = np.asarray(movie[middle_of(movie.shape, _FRAMES, _SIDE)], np.float64)
    if min(part.shape[1:]) < 4 * _BLOCK:
        return False
    return all(_edges(part, axis) > _EDGES for axis in (1, 2))


def _edges(movie: NDArray[np.float64], axis: int) -> float:
    """Mean step at the places, 8 px apart, where steps are largest, over that at the usual ones."""
    steps = np.abs(np.diff(movie, axis=axis))
    if not np.isfinite(steps).any():
        return 1.0
    others = tuple(a for a in range(3) if a != axis)
    there = np.isfinite(steps)
    counts = there.sum(others)
    sums = np.where(there, steps, 0.0).sum(others)
    profile = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    whole = profile[: len(profile) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    places = np.nanmean(whole, axis=0)
    usual = float(np.median(places))
    return float(places.max()) / usual if usual > 0 else 1.0
