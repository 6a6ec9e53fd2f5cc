"""Flow of a movie whose motion goes on from frame to frame: a mean over time, along the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from .estimators import Flow
from .multiframe import interpolate

__all__ = ["SteadyStream", "steady_flow", "steady_pairs"]

_NEIGHBOURS = 0.5  # weight of the pairs before and behind; the pair itself has 1
Image = NDArray[np.float32]
Pair = tuple[Image, Image]  # to the previous frame and to the next, each (2, Y, X) [px]


def steady_flow(flow: Flow, rounds: int = 1) -> Flow:
    """Mean of each pair's flow and that of the pairs before and behind it, of the same matter.

    Parameters
    ----------
    flow : Flow
    rounds : int
        One looks at the three nearest pairs, two at five.

    Returns
    -------
    Flow

    Notes
    -----
    What moves evenly goes as far from frame t to t + 1 as it came from t - 1, and its next step
    begins where this one ends: means at one *place* would mix what passes there. Errors of single
    pairs, which noise makes, are averaged out; motion that changes from frame to frame is lost as
    well, so that this is a flow to try, not to trust.
    """
    out = Flow(np.empty_like(flow.to_previous), np.empty_like(flow.to_next))
    for t, pair in enumerate(steady_pairs(zip(*flow, strict=True), rounds)):
        out.to_previous[t], out.to_next[t] = pair
    return out


def steady_pairs(pairs: Iterable[Pair], rounds: int = 1) -> Iterator[Pair]:
    """`steady_flow` of pairs that come one by one; it stays `rounds` pairs behind."""
    for _ in range(rounds):
        pairs = _once(pairs)
    yield from pairs


def _once(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """One round."""
    stream = SteadyStream()
    for pair in pairs:
        yield from stream.add(pair)
    yield from stream.finish()


class SteadyStream:
    """One round of `steady_flow`, of pairs that are handed in one by one."""

    def __init__(self) -> None:
        self._before: Pair | None = None
        self._now: Pair | None = None

    def add(self, pair: Pair) -> Iterator[Pair]:
        """Take the next pair; the mean at the one before it."""
        if self._now is not None:
            yield _mean(self._before, self._now, pair)
        self._before, self._now = self._now, pair

    def finish(self) -> Iterator[Pair]:
        """The mean at the last pair."""
        if self._now is not None:
            yield _mean(self._before, self._now, None)


def _mean(before: Pair | None, now: Pair, behind: Pair | None) -> Pair:
    """Mean of a pair and its neighbours, brought to its frames."""
    to_previous, to_next = now
    # Either way, one neighbour begins at the same frame and goes against the direction of time; the
    # other begins where this one leads.
    return (
        _weighted(to_previous, None if behind is None else behind[1], before and before[0]),
        _weighted(to_next, None if before is None else before[0], behind and behind[1]),
    )


def _weighted(flow: Image, against: Image | None, onward: Image | None) -> Image:
    """Mean of a flow, one that leads from the same frame the other way, and one that goes on."""
    total, weight = flow.copy(), 1.0
    if against is not None:
        total -= _NEIGHBOURS * against
        weight += _NEIGHBOURS
    if onward is not None:
        total += _NEIGHBOURS * np.stack([interpolate(part, flow) for part in onward])
        weight += _NEIGHBOURS
    return np.asarray(total / weight, np.float32)
