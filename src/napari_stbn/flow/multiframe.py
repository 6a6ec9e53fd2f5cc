"""Flow from more than two frames: each frame of a pair is replaced by a mean along the motion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["interpolate", "motion_mean", "place"]

Image = NDArray[np.float32]


def place(flow: Image) -> tuple[Image, Image]:
    """Columns and rows where a flow (2, Y, X) leads, each (Y, X) float32 [px]."""
    height, width = flow.shape[1:]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    return x + flow[0], y + flow[1]


def interpolate(image: Image, flow: Image) -> Image:
    """Sample an image (Y, X) where a flow (2, Y, X) leads, bilinear, edges extended.

    For the estimation of flow: edges are extended, where alignment takes zero.
    """
    import cv2

    columns, rows = place(flow)
    return np.asarray(
        cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        np.float32,
    )


def motion_mean(
    frames: Callable[[int], Image], flows: Callable[[int], Image], count: int, start: int, step: int
) -> Image:
    """Mean of a frame and those behind it (or ahead of it), brought to its place.

    Parameters
    ----------
    frames : callable
        Frame of an index, (Y, X) float32.
    flows : callable
        Flow of an index to the next one in the direction of `step`, (2, Y, X) [px].
    count : int
        Frames beside the first.
    start, step : int
        Where to begin, and -1 or 1.

    Returns
    -------
    ndarray, shape (Y, X), float32
        Places that the motion brings in from outside count fewer frames.

    Notes
    -----
    The two frames of a pair must be averaged over disjoint sets of frames, one backward and one
    forward: noise that both share pulls the flow to where it was.
    """
    total = frames(start).astype(np.float32)
    height, width = total.shape
    weight = np.ones_like(total)
    flow: Image | None = None
    for k in range(count):
        ahead = flows(start + k * step)
        if flow is None:
            flow = ahead
        else:
            flow = flow + np.stack([interpolate(part, flow) for part in ahead])
        columns, rows = place(flow)
        inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
        total += np.where(inside, interpolate(frames(start + (k + 1) * step), flow), 0)
        weight += inside
    return total / weight
