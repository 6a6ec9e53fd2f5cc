"""Offsets that whole rows or columns of a frame share, as the amplifiers of a camera add them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["LINES_REACH", "Lines", "line_offsets"]

Lines = Literal["none", "rows", "columns"]

_REACH = 4  # frames before and after that tell what a line shows without its offset
LINES_REACH = 2 * _REACH  # frames before and after that offsets hardly depend on any more
_SMOOTH = 8.0  # lines; what is smoother across lines than this is no offset of single ones
_ROUNDS = 3  # in which the offsets of the frames around are taken into account
_MEDIAN = 0.4549  # median of the square of a normal deviate


def line_offsets(
    frames: NDArray[np.float32], lines: Literal["rows", "columns"], share: float
) -> NDArray[np.float32]:
    """Estimate the offset of every line of every frame.

    Parameters
    ----------
    frames : ndarray, shape (T, Y, X)
        Consecutive frames, all finite.
    lines : {"rows", "columns"}
    share : float
        Variance of the offsets over that of the noise of a pixel.

    Returns
    -------
    ndarray, shape (T, Y, 1) or (T, 1, X)

    Notes
    -----
    The median along a line of its difference from the frames around, less what is smooth across
    lines: neither what stands still nor what moves through a part of the line enters. Shrunk to the
    size that offsets have, so that the chance of a short line is not taken for one.
    """
    along = 2 if lines == "rows" else 1
    medians, variances = [], []
    times = np.arange(len(frames))
    beside = (np.abs(np.subtract.outer(times, times)) <= _REACH).astype(np.float64)
    beside -= np.eye(len(frames))
    beside /= beside.sum(1, keepdims=True)
    for t, frame in enumerate(frames):
        around = frames[max(0, t - _REACH) : t + _REACH + 1]
        others = (around.sum(0) - frame) / (len(around) - 1)
        difference = frame - others
        medians.append(np.median(difference, axis=along - 1))
        spread = float(np.median(np.square(difference - np.median(difference))))
        variances.append(spread / _MEDIAN / (1 + 1 / (len(around) - 1)))
    differences = np.stack(medians).astype(np.float64)  # offsets less the mean of those around
    offsets: NDArray[Any] = np.zeros_like(differences)
    for _ in range(_ROUNDS):
        offsets = differences + beside @ offsets
        offsets -= ndimage.gaussian_filter1d(offsets, _SMOOTH, axis=1)
    found = max(float(np.mean(np.square(offsets))), 1e-30)
    offsets *= min(1.0, share * float(np.mean(variances)) / found)
    return np.expand_dims(offsets, along).astype(np.float32)
