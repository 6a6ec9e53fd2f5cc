"""Whether both directions of a flow agree: a confidence for each pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .estimators import Flow
from .multiframe import interpolate, place

__all__ = ["confidence", "round_trip_error", "smooth_unsure"]

_TRUSTED = 1.0  # px of round trip at which the confidence has fallen to 1/e
_NEIGHBOURHOOD = 4.0  # px
Image = NDArray[np.float32]


def round_trip_error(flow: Image, back: Image) -> Image:
    """How far from where it began a way there and back ends.

    Parameters
    ----------
    flow : ndarray, shape (2, Y, X) [px], ordered (dx, dy)
        From this frame to the other.
    back : ndarray, shape (2, Y, X) [px]
        From the other to this.

    Returns
    -------
    ndarray, shape (Y, X), float32 [px]
        Infinite where the flow leads out of the frame.
    """
    height, width = flow.shape[1:]
    columns, rows = place(flow)
    inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    missed = np.hypot(*(part + interpolate(b, flow) for part, b in zip(flow, back, strict=True)))
    return np.where(inside, missed, np.inf).astype(np.float32)


def confidence(flow: Flow) -> Flow:
    """How far each pixel's flow is confirmed by that of the other direction.

    Parameters
    ----------
    flow : Flow

    Returns
    -------
    Flow of ndarrays, shape (T - 1, Y, X), float32, 0 to 1
        ``exp(-(round trip error / 1 px)^2)``. Both directions may agree on what is wrong: it tells
        of occlusions and of loss of track, not of a common bias.
    """
    out = [np.empty((len(d), *d.shape[2:]), np.float32) for d in flow]
    for t, (back, ahead) in enumerate(zip(*flow, strict=True)):
        for into, (one, other) in zip(out, ((back, ahead), (ahead, back)), strict=True):
            into[t] = np.exp(-np.square(round_trip_error(one, other) / _TRUSTED))
    return Flow(*out)


def smooth_unsure(flow: Flow, sure: Flow) -> Flow:
    """Replace flow by the mean of its surroundings, as far as it is not confirmed.

    Parameters
    ----------
    flow : Flow
    sure : Flow of ndarrays, shape (T - 1, Y, X)
        From `confidence`.

    Returns
    -------
    Flow
        In each pixel a mean of its own flow and the confirmed flow within a few pixels.
    """
    import cv2

    def blur(image: Image) -> Image:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), _NEIGHBOURHOOD), np.float32)

    out = [np.empty_like(direction) for direction in flow]
    for into, direction, trust in zip(out, flow, sure, strict=True):
        for t, (field, weight) in enumerate(zip(direction, trust, strict=True)):
            weight = weight + 1e-3  # where nothing is confirmed, the plain mean
            around = np.stack([blur(part * weight) for part in field]) / blur(weight)
            into[t] = trust[t] * field + (1 - trust[t]) * around
    return Flow(*out)
