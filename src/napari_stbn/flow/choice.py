"""Choose a flow by what it explains of hidden pixels: none, a translation, or dense."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from napari_stbn._generators import relay

from .estimators import Flow, PairMethod, all_pairs
from .held_out import Comparison, HeldOut, compare

__all__ = ["CANDIDATES", "FlowChoice", "choose_flow", "still_where_worse"]

CANDIDATES: tuple[PairMethod, ...] = ("none", "translation", "dis", "dis_multi", "blend")
_BETWEEN_DENOISED: PairMethod = "dis_fine"  # which would follow noise
"""From simple to free; a later one has to explain more."""
_SURE = 3.0  # standard errors by which motion must explain more; with 2 a still movie got flow
_CELLS = 3.0  # radius [cells] over which it is measured where flow does harm
_PAIRS = 1.5  # radius [pairs] of the same
_HARM = 1.0  # standard errors by which flow may explain less than none at a place
Image = NDArray[np.float32]


@dataclass(frozen=True)
class FlowChoice:
    """Which flow was taken, and why.

    Attributes
    ----------
    method : str
        One of `CANDIDATES`.
    gains : dict of str to Comparison
        For each candidate, the part of the photometric error of no motion that it avoids on hidden
        pixels, noise included, and this in standard errors.
    still : float
        Part of the frames whose flow was set to zero because it explained less than none there.
    """

    method: PairMethod
    gains: dict[str, Comparison]
    still: float = 0.0

    @property
    def sentence(self) -> str:
        """For the user."""
        tried = ", ".join(
            f"{name} {100 * gain:.2f} % ({sigmas:+.1f} standard errors)"
            for name, (gain, sigmas) in self.gains.items()
            if name != "none"
        )
        why = "it explained hidden pixels best"
        if self.method == "none":
            why = "nothing explained hidden pixels better for sure"
        elif self.still:
            why += f"; {100 * self.still:.0f} % of the area was set to stand still"
        return f"Motion: {self.method}; {why}. Error avoided, noise included: {tried}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "method": self.method,
            "still": round(self.still, 4),
            "gains": {
                name: {"part": round(gain, 6), "standard_errors": round(sigmas, 2)}
                for name, (gain, sigmas) in self.gains.items()
            },
            "sentence": self.sentence,
        }


def choose_flow(
    movie: NDArray[Any] | HeldOut, frames: NDArray[Any] | None = None
) -> Generator[float, None, tuple[Flow, FlowChoice]]:
    """Estimate flow by several methods and take the one that explains hidden pixels best.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X), or HeldOut
        Noisy frames.
    frames : ndarray, shape (T, Y, X), optional
        Estimate on these, such as denoised ones, instead of the noisy; made from
        `HeldOut.filled`.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    flow : Flow
    choice : FlowChoice

    Notes
    -----
    Motion has to explain more than standing still by three standard errors: a still movie gets
    no flow however few its photons. Where dense flow explains less than none, around a place and in
    a few pairs of frames, it is set to zero there.
    """
    held = movie if isinstance(movie, HeldOut) else HeldOut.of(movie)
    source = held.filled
    if frames is not None:
        held, source = held.asking(frames), np.asarray(frames, np.float32)
    still = held.errors(None)
    best: Flow | None = None
    plain: Flow | None = None  # what the others begin with
    method, lowest = CANDIDATES[0], still
    gains: dict[str, Comparison] = {CANDIDATES[0]: Comparison(0.0, 0.0)}
    candidates = CANDIDATES[1:] if frames is None else (*CANDIDATES[1:], _BETWEEN_DENOISED)
    for number, name in enumerate(candidates):
        flow = yield from relay(
            all_pairs(source, name, plain), partial(_share, number, len(candidates))
        )
        plain = flow if name == "dis" else plain
        errors = held.errors(flow)
        gains[name] = compare(errors, still)
        against = compare(errors, lowest)
        if gains[name].sigmas > _SURE and against.gain > 0:
            best, method, lowest = flow, name, errors
    if best is None:
        zero = np.zeros((len(source) - 1, 2, *source.shape[1:]), np.float32)
        return Flow(zero, zero.copy()), FlowChoice(method, dict(gains))
    share = 0.0
    if method != "translation":
        share = still_where_worse(best, lowest, still)
    return best, FlowChoice(method, dict(gains), share)


def still_where_worse(flow: Flow, errors: Image, still: Image) -> float:
    """Set flow to zero where it explains hidden pixels less than none does, in place.

    Parameters
    ----------
    flow : Flow
    errors, still : ndarray, shape (T - 1, 2, Y / 4, X / 4)
        Of this flow and of none, from `HeldOut.errors`.

    Returns
    -------
    float
        Part of the pixels that it was done in.
    """
    worse = (errors.astype(np.float64) - still).sum(1)
    radius = (_PAIRS, _CELLS, _CELLS)
    mean = gaussian_filter(worse, radius)
    # Of a sum weighted by a Gaussian of radius r, squared weights sum to 1 / (2 sqrt(pi) r).
    each = np.square(errors.astype(np.float64) - still).sum(1)
    kernel = np.prod([1 / (2 * np.sqrt(np.pi) * r) for r in radius])
    spread = np.sqrt(np.maximum(gaussian_filter(each, radius), 0) * kernel)
    moves = mean <= _HARM * spread  # (T - 1, cells, cells)
    height, width = flow.to_next.shape[2:]
    done = 0
    for t, cells in enumerate(moves):
        mask = cells.repeat(4, 0).repeat(4, 1)[:height, :width]
        moved = np.any([direction[t].any(0) for direction in flow], 0)
        done += int((moved & ~mask).sum())
        for direction in flow:
            direction[t] *= mask
    return done / float(len(moves) * height * width)


def _share(number: int, count: int, done: float) -> float:
    """Part of the whole work when a part of one candidate's is done."""
    return (number + done) / count
