"""Optical flow of a noisy movie: computed once, on full frames, in both directions.

The default is OpenCV's dense inverse search with settings that hold down to a few photons (`_dis`):
larger patches, coarser finest scale and a stronger smoothness term than its presets, on frames
smoothed a little; why, see ``docs/flow.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from napari_stbn._generators import last

__all__ = ["FLOW_METHODS", "Flow", "FlowMethod", "estimate_flow", "flow_steps", "whole_flow"]

FlowMethod = Literal["dis", "ilk", "tvl1", "translation", "none"]
FLOW_METHODS: tuple[FlowMethod, ...] = get_args(FlowMethod)

Image = NDArray[np.float32]
Estimator = Callable[[Image, Image], Image]
# Response of phase correlation on noisy simulated movies: leaps had at most 0.09, shifts 0.41.
_WEAKEST_PEAK = 0.2
# Dense inverse search needs a pyramid [px]; smaller frames are extended at their edges.
_SMALLEST = 48


class Flow(NamedTuple):
    """Flow of a movie in both directions.

    Attributes
    ----------
    to_previous : ndarray, shape (T - 1, 2, Y, X), float32 [px], ordered (dx, dy)
        Entry t leads from frame t + 1 to frame t.
    to_next : ndarray, shape (T - 1, 2, Y, X), float32 [px], ordered (dx, dy)
        Entry t leads from frame t to frame t + 1.
    """

    to_previous: NDArray[np.float32]
    to_next: NDArray[np.float32]


def estimate_flow(movie: NDArray[Any], method: FlowMethod = "dis") -> Flow:
    """Estimate the flow between neighbouring frames.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X)
        Noisy frames in any unit; the result does not depend on their scale or offset.
    method : {"dis", "ilk", "tvl1", "translation", "none"}, default "dis"
        Dense inverse search (OpenCV), iterative Lucas-Kanade or TV-L1 (scikit-image), one
        translation a pair by phase correlation, or zero flow.

    Returns
    -------
    Flow
        Both directions, float32, in px.

    Raises
    ------
    ValueError
        If `movie` is not (T, Y, X) with T >= 2, or the method is unknown.

    Notes
    -----
    The convention is that of `napari_stbn.flow.field`: ``frame[t + 1][p] ~ frame[t][p +
    to_previous[t][:, p]]``.
    """
    return last(whole_flow(movie, method))


def whole_flow(movie: NDArray[Any], method: FlowMethod = "dis") -> Generator[float, None, Flow]:
    """Estimate the flow as a generator: a loop over it is `estimate_flow`.

    Yields the part that is done, 0 to 1, after each pair, and returns the `Flow`.

    Parameters and errors are those of `estimate_flow`.
    """
    pairs = flow_steps(movie, method)
    count, height, width = np.shape(movie)
    flow = Flow(*(np.empty((count - 1, 2, height, width), np.float32) for _ in range(2)))
    for t, pair in enumerate(pairs):  # each is written where it stays
        flow.to_previous[t], flow.to_next[t] = pair
        yield (t + 1) / (count - 1)
    return flow


def flow_steps(movie: NDArray[Any], method: FlowMethod = "dis") -> Iterator[tuple[Image, Image]]:
    """Estimate the flow pair by pair.

    Yields (to_previous, to_next), each (2, Y, X) float32 [px].

    Parameters and errors are those of `estimate_flow`.
    """
    movie = np.asarray(movie)
    if movie.ndim != 3 or movie.shape[0] < 2:
        raise ValueError(f"movie must have shape (T, Y, X) with T >= 2, got {movie.shape}")
    if method not in _ESTIMATORS:
        raise ValueError(f"flow method must be one of {', '.join(FLOW_METHODS)}, got {method!r}")
    return _pairs(movie, _ESTIMATORS[method])


def _pairs(movie: NDArray[Any], estimate: Estimator) -> Iterator[tuple[Image, Image]]:
    """Both directions of each pair of frames."""
    height, width = movie.shape[1:]
    extra_y, extra_x = max(0, _SMALLEST - height), max(0, _SMALLEST - width)
    for t in range(movie.shape[0] - 1):
        pair = _to_bytes(movie[t : t + 2])
        if extra_y or extra_x:
            pair = np.pad(pair, ((0, 0), (0, extra_y), (0, extra_x)), mode="symmetric")
        to_previous, to_next = estimate(pair[1], pair[0]), estimate(pair[0], pair[1])
        yield to_previous[:, :height, :width].copy(), to_next[:, :height, :width].copy()


def _to_bytes(pair: NDArray[Any]) -> Image:
    """Two frames (2, Y, X) on one robust scale of 0 to 255, smoothed against noise.

    A pair without contrast becomes zero.
    """
    from skimage.filters import gaussian

    values = np.asarray(pair, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values)
    values = np.where(finite, values, np.median(values[finite]))
    smooth = np.stack(
        [gaussian(frame, 1.0, mode="nearest", preserve_range=True) for frame in values]
    )
    # Joint percentiles leave out hot pixels and single bright events: a scale that follows them
    # would hide everything else.
    low, high = np.percentile(smooth, [1.0, 99.8])
    if not high > low:
        low, high = smooth.min(), smooth.max()
        if not high > low:
            return np.zeros_like(values)
    return np.asarray(np.clip((smooth - low) * (255 / (high - low)), 0, 255), dtype=np.float32)


def _dis(frame: Image, other: Image) -> Image:
    """Dense inverse search with robust settings, (2, Y, X)."""
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setPatchSize(12)
    search.setPatchStride(4)
    search.setFinestScale(1)
    search.setVariationalRefinementAlpha(40.0)
    a, b = (np.rint(image).astype(np.uint8) for image in (frame, other))
    if np.array_equal(
        a, b
    ):  # no motion is exactly no motion, whatever the search makes of flat parts
        return np.zeros((2, *frame.shape), np.float32)
    flow = search.calc(a, b, cast("Any", None))
    return np.ascontiguousarray(np.moveaxis(flow, -1, 0), dtype=np.float32)


def _ilk(frame: Image, other: Image) -> Image:
    """Iterative Lucas-Kanade, (2, Y, X)."""
    from skimage.registration import optical_flow_ilk

    return _from_rows(optical_flow_ilk(frame / 255, other / 255, radius=15, gaussian=False))


def _tvl1(frame: Image, other: Image) -> Image:
    """TV-L1 with a weak data term, (2, Y, X)."""
    from skimage.registration import optical_flow_tvl1

    return _from_rows(optical_flow_tvl1(frame / 255, other / 255, attachment=5))


def _translation(frame: Image, other: Image) -> Image:
    """One translation for the whole frame, by phase correlation, (2, Y, X)."""
    import cv2

    if frame.std() == 0 or other.std() == 0:
        return np.zeros((2, *frame.shape), np.float32)
    window = cv2.createHanningWindow(frame.shape[::-1], cv2.CV_32F)
    (dx, dy), response = cv2.phaseCorrelate(frame, other, window)
    if response < _WEAKEST_PEAK:  # noise has peaks anywhere; standing still is the better guess
        return np.zeros((2, *frame.shape), np.float32)
    return np.broadcast_to(np.array([dx, dy], np.float32)[:, None, None], (2, *frame.shape)).copy()


def _none(frame: Image, _other: Image) -> Image:
    """No motion, (2, Y, X)."""
    return np.zeros((2, *frame.shape), np.float32)


def _from_rows(flow: NDArray[Any]) -> Image:
    """scikit-image's (row, column) displacement to (dx, dy)."""
    return np.ascontiguousarray(flow[::-1], dtype=np.float32)


_ESTIMATORS: dict[str, Estimator] = {
    "dis": _dis,
    "ilk": _ilk,
    "tvl1": _tvl1,
    "translation": _translation,
    "none": _none,
}
