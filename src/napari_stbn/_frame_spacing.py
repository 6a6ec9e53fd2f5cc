"""How far apart frames of a movie are taken, so that they show one scene and share no noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ._frame_cycle import frame_cycle
from ._frame_sharing import measure_frame_sharing
from ._lazy import MovieView

__all__ = ["LARGEST_STEP", "FrameSpacing", "frames_apart", "measure_frame_spacing"]

LARGEST_STEP = 64
_ORDINALS = {2: "2nd", 3: "3rd"}


@dataclass(frozen=True)
class FrameSpacing:
    """How far apart.

    Attributes
    ----------
    step : int
        1 where frames are as they should be; else each first of so many frames begins a movie.
    reason : str
        Why, as the beginning of a sentence.
    advice : str
        What else can be done about it, as a sentence.
    """

    step: int
    reason: str = ""
    advice: str = ""

    @property
    def note(self) -> str:
        """Sentences for the user; empty where there is nothing to say."""
        if self.step == 1 or not self.reason:
            return ""
        ordinal = _ORDINALS.get(self.step, f"{self.step}th")
        return (
            f"{self.reason}: every {ordinal} frame is denoised as a movie of its own. {self.advice}"
        )


def measure_frame_spacing(movie: NDArray[Any] | MovieView) -> FrameSpacing:
    """Look for scenes that take turns, then for noise that frames share.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
    """
    cycle = frame_cycle(movie)
    if cycle > 1:
        reason = f"Frames show {cycle} scenes in turn, as channels or planes saved as time do"
        return FrameSpacing(cycle, reason, "Where they are that, name the axes.")
    sharing = measure_frame_sharing(movie)
    if sharing.step == 1:
        return FrameSpacing(1)
    reason = (
        f"Frames share noise with those before (correlation {sharing.correlation:.2f}), as after a "
        "running average"
    )
    return FrameSpacing(sharing.step, reason, "A recording without it holds more.")


def frames_apart(movie: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Frames (T', Y, X) of one scene with noise of their own, and what is worth saying of it."""
    found = measure_frame_spacing(movie)
    return movie[:: found.step], found.note
