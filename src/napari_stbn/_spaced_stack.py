"""A stack whose frames follow each other, each with noise of its own."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._frame_spacing import FrameSpacing, measure_frame_spacing
from ._lazy import of_channels
from ._track_stack import TrackStack
from ._unmixed_stack import UnmixedStack
from ._views import StackView, views_of
from .stack import Stack

__all__ = ["Spacing", "spaced_stack", "spacing_of"]


@dataclass(frozen=True)
class Spacing:
    """How frames of a stack were made to follow each other.

    Attributes
    ----------
    step : int
        Frames from one to the next; 1 where they did.
    carry : dict of int to float
        Part of what was shown before that each frame held, of channels that went through a
        recursive filter.
    """

    step: int = 1
    carry: dict[int, float] = field(default_factory=dict)


def spacing_of(stack: Stack) -> Spacing:
    """How the frames that a stack is seen as were made."""
    step, carry = 1, {}
    for view in views_of(stack):
        if isinstance(view, TrackStack):
            step = view.step
        if isinstance(view, UnmixedStack):
            carry = view.carry
    return Spacing(step, carry)


def spaced_stack(stack: Stack, known: Spacing | None = None) -> Generator[float, None, Stack]:
    """Measure how far apart frames have to be, in the middle plane of every channel.

    Parameters
    ----------
    stack : Stack
    known : Spacing, optional
        What a fit found before.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    Stack
        A `TrackStack` or `UnmixedStack` where they do not follow each other, else the stack itself.
    """
    if known is not None:
        if known.carry:
            return UnmixedStack(stack, known.carry, "As in the fit, frames are seen unfiltered.")
        fits = 1 < known.step <= stack.n_frames // 2
        note = f"As in the fit, every {known.step}th frame is denoised as a movie of its own."
        return TrackStack(stack, FrameSpacing(known.step, note)) if fits else stack
    found = yield from of_channels(stack, measure_frame_spacing)
    stepping = [one for one in found.values() if one.step > 1 and not one.carry]
    if stepping:
        return TrackStack(stack, max(stepping, key=lambda one: one.step))
    carry = {channel: one.carry for channel, one in found.items() if one.carry}
    if carry:
        most = max(carry, key=lambda channel: carry[channel])
        return UnmixedStack(stack, carry, found[most].note)
    notes = [one.note for one in found.values() if one.note]
    return _NotedStack(stack, notes[0]) if notes else stack


class _NotedStack(StackView):
    """A stack as it is, with something to say about it."""

    note: str

    def __init__(self, stack: Stack, note: str) -> None:
        self._see(stack, note=note)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values in native byte order."""
        return self.source.dtype

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        return [*super().remarks(), self.note]
