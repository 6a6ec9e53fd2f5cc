"""Flow of a whole movie by any method; `auto` measures which one explains the movie best."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_stbn._generators import last, relay

from .choice import FlowChoice, choose_flow
from .estimators import Flow, all_pairs, pair_steps

__all__ = ["FLOW_METHODS", "FlowMethod", "estimate_flow", "flow_steps", "measured_flow",
           "whole_flow"]  # fmt: skip

FlowMethod = Literal[
    "dis", "dis_fine", "dis_multi", "blend", "ilk", "tvl1", "translation", "none", "auto"
]
FLOW_METHODS: tuple[FlowMethod, ...] = get_args(FlowMethod)
Image = NDArray[np.float32]


def estimate_flow(movie: NDArray[Any], method: FlowMethod = "dis") -> Flow:
    """Estimate the flow between neighbouring frames.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X)
        Noisy frames in any unit; the result does not depend on their scale or offset.
    method : {"dis", "dis_fine", "dis_multi", "blend", "ilk", "tvl1", "translation", "none", "auto"}
        Dense inverse search (OpenCV), the default; the same between means of two frames each, along
        the motion; a learnt blend of it and its means (`napari_stbn.flow.blend`); iterative
        Lucas-Kanade or TV-L1 (scikit-image); one translation a pair by phase correlation; zero
        flow; or what `napari_stbn.flow.choose_flow` picks.

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
    flow, _ = yield from measured_flow(movie, method)
    return flow


def measured_flow(
    movie: NDArray[Any], method: FlowMethod = "dis"
) -> Generator[float, None, tuple[Flow, FlowChoice | None]]:
    """`whole_flow`, and for ``"auto"`` what was picked and why."""
    movie = _checked(movie, method)
    if method == "auto":
        flow, choice = yield from relay(choose_flow(movie), float)
        return flow, choice
    flow = yield from relay(all_pairs(movie, method), float)
    return flow, None


def flow_steps(movie: NDArray[Any], method: FlowMethod = "dis") -> Iterator[tuple[Image, Image]]:
    """Estimate the flow pair by pair.

    Yields (to_previous, to_next), each (2, Y, X) float32 [px]; the first after all of them where
    the method is ``"auto"``.

    Parameters and errors are those of `estimate_flow`.
    """
    movie = _checked(movie, method)
    if method == "auto":
        return zip(*estimate_flow(movie, method), strict=True)
    return pair_steps(movie, method)


def _checked(movie: NDArray[Any], method: FlowMethod) -> NDArray[Any]:
    """The movie as an array, or the reason why not."""
    movie = np.asarray(movie)
    if movie.ndim != 3 or movie.shape[0] < 2:
        raise ValueError(f"movie must have shape (T, Y, X) with T >= 2, got {movie.shape}")
    if method not in FLOW_METHODS:
        raise ValueError(f"flow method must be one of {', '.join(FLOW_METHODS)}, got {method!r}")
    return movie
