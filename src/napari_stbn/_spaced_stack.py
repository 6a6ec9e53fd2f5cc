"""A stack whose frames follow each other and whose pixels have noise of their own, or nearly so."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._frame_spacing import FrameSpacing, measure_frame_spacing
from ._grid_stack import GridStack
from ._grid_step import GridStep, measure_grid_step, shortest_of
from ._lazy import of_channels
from ._track_stack import TrackStack
from ._unmixed_stack import UnmixedStack
from ._views import StackView, views_of
from ._words import ordinal
from .stack import Stack

__all__ = ["Spacing", "spaced_stack", "spacing_of"]


_SMALLEST = 16  # px that are left of a frame along each axis


@dataclass(frozen=True)
class Spacing:
    """How frames, and pixels, of a stack were made to follow each other.

    Attributes
    ----------
    step : int
        Frames from one to the next; 1 where they did.
    carry : dict of int to float
        Part of what was shown before that each frame held, of channels that went through a
        recursive filter.
    grid : (int, int)
        Rows and columns from one pixel to the next; 1 where they did.
    """

    step: int = 1
    carry: dict[int, float] = field(default_factory=dict)
    grid: tuple[int, int] = (1, 1)


def spacing_of(stack: Stack) -> Spacing:
    """How the frames that a stack is seen as were made."""
    step, carry, grid = 1, {}, (1, 1)
    for view in views_of(stack):
        if isinstance(view, TrackStack):
            step = view.step
        if isinstance(view, UnmixedStack):
            carry = view.carry
        if isinstance(view, GridStack):
            grid = view.step.rows, view.step.columns
    return Spacing(step, carry, grid)


def spaced_stack(stack: Stack, known: Spacing | None = None) -> Generator[float, None, Stack]:
    """Measure how far apart frames and pixels have to be, in the middle plane of every channel.

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
        The stack itself where they follow each other, else a view of it.
    """
    if known is not None:
        return _on_grids(_in_tracks(stack, known), GridStep(*known.grid))
    found = yield from of_channels(stack, measure_frame_spacing)
    stack = _apart(stack, found)
    steps = yield from of_channels(stack, measure_grid_step)
    return _on_grids(stack, shortest_of(steps.values()))


def _in_tracks(stack: Stack, known: Spacing) -> Stack:
    """A stack with frames as far apart as in a fit, where it has as many."""
    if known.carry:
        return UnmixedStack(stack, known.carry, "As in the fit, frames are seen unfiltered.")
    if known.step == 1:
        return stack
    every = f"every {ordinal(known.step)} frame"
    if known.step > stack.n_frames // 2:
        note = f"The fit saw {every} as a movie of its own, for which there are too few frames here"
        return _NotedStack(stack, f"{note}: noise that frames share will stay.")
    note = f"As in the fit, {every} is denoised as a movie of its own."
    return TrackStack(stack, FrameSpacing(known.step, note))


def _apart(stack: Stack, found: Mapping[int, FrameSpacing]) -> Stack:
    """A stack with frames as far apart as its channels need."""
    stepping = [one for one in found.values() if one.step > 1 and not one.carry]
    if stepping:
        return TrackStack(stack, max(stepping, key=lambda one: one.step))
    carry = {channel: one.carry for channel, one in found.items() if one.carry}
    if carry:
        most = max(carry, key=lambda channel: carry[channel])
        return UnmixedStack(stack, carry, found[most].note)
    notes = [one.note for one in found.values() if one.note]
    return _NotedStack(stack, notes[0]) if notes else stack


def _on_grids(stack: Stack, step: GridStep) -> Stack:
    """A stack with pixels so far apart, where its frames are large enough."""
    height, width = stack.frame_shape
    if step.pixels == 1:
        return stack
    if height >= _SMALLEST * step.rows and width >= _SMALLEST * step.columns:
        return GridStack(stack, step)
    note = (
        "The fit saw pixels far apart as movies of their own, for which frames are too small here"
    )
    return _NotedStack(stack, f"{note}: noise that pixels share will stay.")


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
