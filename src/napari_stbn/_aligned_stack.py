"""A stack whose lines were recorded going both ways, seen with each line in its place."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._lazy import of_channels
from ._line_shift import LineShift, measure_line_shift
from ._padded_stack import padded_stack
from ._stack_inference import Output
from ._views import Flows, Frames, Place, StackView, views_of
from .stack import MovieDefects, Stack

__all__ = ["AlignedStack", "aligned_stack", "line_shift_of", "placed_stack"]


class AlignedStack(StackView):
    """A stack with every second line shifted back.

    Lines move by whole pixels, so that their noise stays as it is. What they leave free at one end
    is NaN. What they lose at the other is not denoised: it goes on as the line ends.

    Parameters
    ----------
    stack : Stack
    shift : LineShift

    Attributes
    ----------
    shift : LineShift
    """

    shift: LineShift

    def __init__(self, stack: Stack, shift: LineShift) -> None:
        self._see(stack, shift=shift)

    @property
    def _across(self) -> str:
        """The axis that one line lies beside the next along."""
        return "Y" if self.shift.axis == "X" else "X"

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part of frames, float32, with NaN where nothing was recorded; see `Stack.read`."""
        parts = dict(zip(self.axes, index, strict=True))
        along, across = parts[self.shift.axis], parts[self._across]
        if isinstance(along, int) or isinstance(across, int):
            raise IndexError("a part of whole frames is read")
        length = self.size(self.shift.axis)
        places = np.arange(length)[along]
        odd = np.arange(self.size(self._across))[across] % 2 == 1
        reach = abs(self.shift.pixels)
        first = max(0, int(places.min(initial=length)) - reach)
        parts[self.shift.axis] = slice(first, int(places.max(initial=-1)) + 1 + reach)
        seen = self.source.read(tuple(parts[a] for a in self.axes), axes)
        kept = (axes.index(self._across), axes.index(self.shift.axis))
        lines = np.moveaxis(seen, kept, (-2, -1))
        found = np.empty((*lines.shape[:-1], len(places)), np.float32)
        found[..., ~odd, :] = lines[..., ~odd, :][..., places - first]
        shifted = places + self.shift.pixels
        there = (shifted >= 0) & (shifted < length)
        found[..., odd, :] = lines[..., odd, :][..., np.where(there, shifted - first, 0)]
        found[..., odd[:, None] & ~there] = np.nan
        return np.moveaxis(found, (-2, -1), kept)

    def _as_recorded(
        self, frames: Frames, rows: slice = slice(None), columns: slice = slice(None)
    ) -> tuple[Frames, NDArray[np.bool_]]:
        """Frames (…, Y, X), or a part of them, with every second line where it was recorded.

        And the pixels (Y, X) that this view has not seen.
        """
        across = rows
        if self.shift.axis == "Y":
            frames, across = frames.swapaxes(-2, -1), columns
        odd = np.arange(self.size(self._across))[across] % 2 == 1
        places = np.arange(frames.shape[-1]) - self.shift.pixels
        inside = places.clip(0, frames.shape[-1] - 1)
        lost = odd[:, None] & (places != inside)
        frames = frames.copy()
        frames[..., odd, :] = frames[..., odd, :][..., inside]
        if self.shift.axis == "Y":
            return frames.swapaxes(-2, -1), lost.T
        return frames, lost

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        return [*super().remarks(), self.shift.note]

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Defects without what was left free."""
        free = abs(self.shift.pixels) * (self.size(self._across) // 2) * self.n_frames
        told = replace(defects, missing=max(0, defects.missing - free))
        return self.source.defects_for_user(index, told)

    def shown(self, place: Place, image: Frames, rows: slice, columns: slice) -> Frames:  # noqa: ARG002
        """A part of a denoised frame (Y', X') as it was recorded."""
        return self._as_recorded(image, rows, columns)[0]

    def flows_for_user(self, flows: Flows, *, forward: bool) -> Flows:  # noqa: ARG002
        """Motion of every pixel where it was recorded."""
        return {movie: self._as_recorded(flow)[0] for movie, flow in flows.items()}

    def output(self, output: Output, folder: Path | None) -> Output:  # noqa: ARG002
        """What takes denoised frames, for an output that takes them as they were recorded.

        What the view has not seen has no uncertainty.
        """

        def recorded(
            channel: int, plane: int, start: int, mean: Frames, std: Frames | None
        ) -> None:
            mean, _ = self._as_recorded(mean)
            if std is not None:
                std, lost = self._as_recorded(std)
                std[..., lost] = np.nan
            output(channel, plane, start, mean, std)

        return recorded


def aligned_stack(stack: Stack) -> Generator[float, None, Stack]:
    """Look for lines that are shifted, in the middle plane of every channel.

    Parameters
    ----------
    stack : Stack

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    Stack
        An `AlignedStack` where there are some, else the stack itself.
    """
    found = yield from of_channels(stack, measure_line_shift)
    shifts = [shift for shift in found.values() if shift is not None]
    if not shifts:  # else one scanner made all channels
        return stack
    return AlignedStack(stack, max(shifts, key=lambda shift: shift.certainty))


def line_shift_of(stack: Stack) -> LineShift | None:
    """The shift of lines that a stack is seen without."""
    views = (view.shift for view in views_of(stack) if isinstance(view, AlignedStack))
    return next(views, None)


def placed_stack(stack: Stack, *, lines: bool = True) -> Generator[float, None, Stack]:
    """Look for padding and, unless told not to, for lines that are shifted.

    Parameters
    ----------
    stack : Stack
    lines : bool, default True

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    Stack
        The stack itself where there is neither.
    """
    stack = yield from padded_stack(stack)
    return (yield from aligned_stack(stack)) if lines else stack
