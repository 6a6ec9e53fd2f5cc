"""Optical flow between the frames of a noisy movie, in both directions, on full frames.

The default is OpenCV's dense inverse search with settings that hold down to a few photons (`_dis`):
larger patches, coarser finest scale and a stronger smoothness term than its presets, on frames
smoothed a little; why, see ``docs/flow.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from .multiframe import motion_mean

if TYPE_CHECKING:
    from .blend import BlendStream

__all__ = ["PAIR_METHODS", "Flow", "FlowStream", "PairMethod", "all_pairs", "pair_steps"]

PairMethod = Literal["dis", "dis_fine", "dis_multi", "blend", "ilk", "tvl1", "translation", "none"]
PAIR_METHODS: tuple[PairMethod, ...] = get_args(PairMethod)

Image = NDArray[np.float32]
Estimator = Callable[[Image, Image], Image]
# Response of phase correlation on noisy simulated movies: leaps had at most 0.09, shifts 0.41.
_WEAKEST_PEAK = 0.2
# Dense inverse search needs a pyramid [px]; smaller frames are extended at their edges.
_SMALLEST = 48
# Frames beside each of the two of a pair. Two were worse than one: nothing moves that evenly.
_BESIDE = 1


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


class FlowStream:
    """Flow pair by pair, of frames that are handed in one by one.

    Parameters
    ----------
    method : str
        One of `PAIR_METHODS`.
    plain : Flow, optional
        By ``"dis"``, of the same frames, where it is known: ``"dis_multi"`` and ``"blend"`` begin
        with it.

    Raises
    ------
    ValueError
        If the method is unknown.
    """

    def __init__(self, method: PairMethod, plain: Flow | None = None) -> None:
        if method not in PAIR_METHODS:
            raise ValueError(
                f"flow method must be one of {', '.join(PAIR_METHODS)}, got {method!r}"
            )
        self._multi = method == "dis_multi"
        self._estimate = _ESTIMATORS[method]
        self._frames: dict[int, Image] = {}  # those that a pair still needs
        self._known = plain
        self._plain: dict[int, tuple[Image, Image]] = {}  # pairs between single frames
        self._count = 0
        self._blend: BlendStream | None = None
        if method == "blend":
            from .blend import BlendStream  # needs torch, which the other methods do without

            self._blend = BlendStream()

    def add(self, frame: NDArray[Any]) -> Iterator[tuple[Image, Image]]:
        """Take the next frame (Y, X); the flow of the pairs that need no later one.

        Yields
        ------
        (to_previous, to_next), each (2, Y, X) float32 [px]
        """
        now = self._count
        self._frames.pop(now - (3 + 2 * _BESIDE if self._multi else 2), None)
        self._frames[now] = np.asarray(frame)
        self._count += 1
        if now:
            plain = self._of_pair(now - 1)
            if self._blend is not None:
                yield from self._blend.add(self._frames[now - 1], self._frames[now], plain)
            elif not self._multi:
                yield plain
            if not self._multi:
                return
            self._plain[now - 1] = plain
            if now > _BESIDE:
                yield self._from_means(now - 1 - _BESIDE)

    def finish(self) -> Iterator[tuple[Image, Image]]:
        """The flow of the pairs that waited for later frames."""
        if self._blend is not None:
            yield from self._blend.finish()
        if self._multi:
            for pair in range(max(0, self._count - 1 - _BESIDE), self._count - 1):
                yield self._from_means(pair)

    def _of_pair(self, pair: int) -> tuple[Image, Image]:
        """Flow between single frames."""
        if self._known is not None:
            return self._known.to_previous[pair], self._known.to_next[pair]
        return _both_ways(np.stack([self._frames[pair], self._frames[pair + 1]]), self._estimate)

    def _from_means(self, pair: int) -> tuple[Image, Image]:
        """Flow between the means of the frames before and behind a pair."""
        before = motion_mean(
            lambda t: np.asarray(self._frames[t], np.float32),
            lambda t: self._plain[t - 1][0],
            min(_BESIDE, pair),
            pair,
            -1,
        )
        behind = motion_mean(
            lambda t: np.asarray(self._frames[t], np.float32),
            lambda t: self._plain[t][1],
            min(_BESIDE, self._count - 2 - pair),
            pair + 1,
            1,
        )
        self._plain.pop(pair - _BESIDE, None)
        return _both_ways(np.stack([before, behind]), self._estimate)


def pair_steps(
    movie: Iterable[NDArray[Any]], method: PairMethod, plain: Flow | None = None
) -> Iterator[tuple[Image, Image]]:
    """Flow of frames (Y, X) pair by pair; see `FlowStream`."""
    stream = FlowStream(method, plain)
    for frame in movie:
        yield from stream.add(frame)
    yield from stream.finish()


def all_pairs(
    movie: NDArray[Any], method: PairMethod, plain: Flow | None = None
) -> Generator[float, None, Flow]:
    """Flow of a movie (T, Y, X); yields the part that is done after each pair."""
    count, height, width = movie.shape
    flow = Flow(*(np.empty((count - 1, 2, height, width), np.float32) for _ in range(2)))
    for t, pair in enumerate(pair_steps(movie, method, plain)):  # each is written where it stays
        flow.to_previous[t], flow.to_next[t] = pair
        yield (t + 1) / (count - 1)
    return flow


def _both_ways(pair: NDArray[Any], estimate: Estimator) -> tuple[Image, Image]:
    """Flow from the second frame of a pair (2, Y, X) to the first, and back."""
    height, width = pair.shape[1:]
    extra_y, extra_x = max(0, _SMALLEST - height), max(0, _SMALLEST - width)
    pair = _to_bytes(pair)
    if extra_y or extra_x:
        pair = np.pad(pair, ((0, 0), (0, extra_y), (0, extra_x)), mode="symmetric")
    to_previous, to_next = estimate(pair[1], pair[0]), estimate(pair[0], pair[1])
    return to_previous[:, :height, :width].copy(), to_next[:, :height, :width].copy()


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
    return _inverse_search(frame, other, patch=12, stride=4, finest_scale=1, alpha=40.0)


def _dis_fine(frame: Image, other: Image) -> Image:
    """Dense inverse search down to single pixels, smoother in turn, (2, Y, X)."""
    return _inverse_search(frame, other, patch=20, stride=8, finest_scale=0, alpha=80.0)


def _inverse_search(
    frame: Image, other: Image, *, patch: int, stride: int, finest_scale: int, alpha: float
) -> Image:
    """OpenCV's dense inverse search, sizes in px, (2, Y, X)."""
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setPatchSize(patch)
    search.setPatchStride(stride)
    search.setFinestScale(finest_scale)
    search.setVariationalRefinementAlpha(alpha)
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
    "dis_fine": _dis_fine,
    "dis_multi": _dis,
    "blend": _dis,
    "ilk": _ilk,
    "tvl1": _tvl1,
    "translation": _translation,
    "none": _none,
}
