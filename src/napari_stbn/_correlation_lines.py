"""Offsets that whole rows or columns of a frame share, as the amplifiers of a camera add them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Lines", "line_offsets"]

Lines = Literal["none", "rows", "columns"]

_REACH = 4  # frames before and after that tell what a line shows without its offset
_SMOOTH = 4.0  # lines; what is smoother across lines than this is no offset of single ones
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
    for t, frame in enumerate(frames):
        around = frames[max(0, t - _REACH) : t + _REACH + 1]
        others = (around.sum(0) - frame) / (len(around) - 1)
        difference = frame - others
        medians.append(np.median(difference, axis=along - 1))
        spread = float(np.median(np.square(difference - np.median(difference))))
        variances.append(spread / _MEDIAN / (1 + 1 / (len(around) - 1)))
    offsets: NDArray[Any] = np.stack(medians)
    offsets -= ndimage.gaussian_filter1d(offsets, _SMOOTH, axis=1)
    found = max(float(np.mean(np.square(offsets))), 1e-30)
    offsets *= min(1.0, share * float(np.mean(variances)) / found)
    return np.expand_dims(offsets, along).astype(np.float32)
