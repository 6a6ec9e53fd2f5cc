"""How far apart frames of a movie are taken, so that they show one scene and share no noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._frame_cycle import CYCLE_FRAMES, CYCLE_SIDE, frame_cycle
from ._frame_sharing import measure_frame_sharing
from ._lazy import MovieView, middle_of
from ._unmixed_stack import noise_gain, unmixed
from ._words import ordinal
from .correlation import scaled_camera
from .noise import NoiseFit

__all__ = ["LARGEST_STEP", "FrameSpacing", "frames_apart", "measure_frame_spacing"]

LARGEST_STEP = 64


@dataclass(frozen=True)
class FrameSpacing:
    """How far apart.

    Attributes
    ----------
    step : int
        1 where frames follow each other; else each first of so many frames begins a movie.
    note : str
        Sentences for the user; empty where frames are as they should be.
    carry : float, 0 to 1
        Part of what was shown before that each frame holds; then no step is needed.
    """

    step: int
    note: str = ""
    carry: float = 0.0

    def as_recorded(self, fit: NoiseFit) -> NoiseFit:
        """A fit to frames that were taken apart, with the noise of a pixel as it was recorded."""
        if not self.carry:
            return fit
        return replace(fit, model=scaled_camera(fit.model, 1 / noise_gain(self.carry)))


def measure_frame_spacing(movie: NDArray[Any] | MovieView) -> FrameSpacing:
    """Look for scenes that take turns, then for noise that frames share.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
    """
    part = np.asarray(movie[middle_of(movie.shape, CYCLE_FRAMES, CYCLE_SIDE)])  # for both
    cycle = frame_cycle(part)
    if cycle > 1:
        turns = f"Frames show {cycle} scenes in turn, as channels or planes saved as time do"
        return FrameSpacing(cycle, f"{_apart(turns, cycle)} Where they are that, name the axes.")
    sharing = measure_frame_sharing(part)
    if sharing.carry:
        kept = f"Frames hold {100 * sharing.carry:.0f} % of what was shown before"
        return FrameSpacing(
            sharing.step,
            f"{kept}, as after a recursive (Kalman) filter: the fit sees them without it, and the "
            "result has it again. A recording without it holds more.",
            sharing.carry,
        )
    shared = f"Frames share noise with those before (correlation {sharing.correlation:.2f})"
    if sharing.step == 1:
        left = f"{shared}, and further than can be told apart here: some of it will stay."
        return FrameSpacing(1, left if sharing.correlation else "")
    shared += ", as after a running average"
    return FrameSpacing(
        sharing.step, f"{_apart(shared, sharing.step)} A recording without it holds more."
    )


def _apart(reason: str, step: int) -> str:
    """Sentence about frames that are taken apart."""
    return f"{reason}: every {ordinal(step)} frame is denoised as a movie of its own."


def frames_apart(movie: NDArray[Any]) -> tuple[NDArray[Any], FrameSpacing]:
    """Frames (T', Y, X) of one scene with noise of their own, and how far apart they were."""
    found = measure_frame_spacing(movie)
    if found.carry:
        return unmixed(movie.astype(np.float32), found.carry), found
    return movie[:: found.step], found
